"""How good a model is, from outputs with labels."""
