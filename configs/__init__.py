"""What to run: one file is one recipe, and its docstring is the run book.

Installed as `vit_jax.configs`, so that `--config=vit.py:b16,cifar10` works anywhere.
"""
