"""The recipes, in a clone: there they stand beside the package, not inside it.

An installed package has them inside, as `vit_jax/configs/`, which Python prefers to
this file. Here the name is made a package whose modules lie in the clone's configs/,
so that the same names work whether or not, and however, a clone is installed.
"""

import pathlib

__path__ = [str(pathlib.Path(__file__).parents[1] / 'configs')]
