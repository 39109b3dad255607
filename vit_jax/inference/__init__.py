"""A model that can be asked: outputs without labels."""
