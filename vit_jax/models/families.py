"""The families of networks, and the one question which of them a network is of."""

from collections.abc import Container
from typing import Any

import flax.linen as nn

from vit_jax.models import mixer, vit
from vit_jax.models.family import Config, Family, Grid
from vit_jax.words.lookup import lookup

FAMILIES = {
    'vit': vit.FAMILY,
    'mixer': mixer.FAMILY,
}
# The users' own, by their names in configurations: those that this process has met.
# Trees do not say of which family they are, but stacks of blocks go by their names.
_own: dict[str, Family] = {}


def family_of(model: Config) -> Family:
    """Returns the family of a network.

    Args:
        model: a configuration, whose key `family` says it: a key of FAMILIES ('vit' if
            it is not there), or `package.module:Name` of a user's own `Family`. Or a
            module.

    Raises:
        ValueError: there is no such family; it suggests the nearest names.
    """
    if isinstance(model, nn.Module):
        known = (family for family in known_families() if family.module is type(model))
        return next(known, None) or Family(type(model).__name__, type(model))
    name = model.get('family')
    if name is None:  # as Mixers were configured before there were families
        name = 'mixer' if 'tokens_mlp_dim' in model else 'vit'
    family = lookup(FAMILIES, name, 'config.model.family')
    if not isinstance(family, Family):
        raise ValueError(
            f'config.model.family is {name!r}, which is a {type(family).__name__}; it '
            'must be a vit_jax.models.Family, as MINE = Family("Mine", MyModule).'
        )
    if name not in FAMILIES:
        _own[name] = family
    return family


def known_families() -> tuple[Family, ...]:
    """Returns the families of the package, and the user's own that were met."""
    return (*FAMILIES.values(), *_own.values())


def state_collections() -> set[str]:
    """Returns Flax's collections of arrays that are neither parameters nor features."""
    return {name for family in known_families() for name in family.state}


def patch_grid(model: Config, image_size: tuple[int, int]) -> Grid:
    """Returns the (rows, columns) of patches that a model makes of an image.

    Args:
        model: a configuration as in MODEL_CONFIGS, or a module.
        image_size: (height, width) in pixels.

    Raises:
        ValueError: if the model cannot take the size; it names the nearest that work.
    """
    return family_of(model).grid(model, image_size)


def input_kernel(names: Container[str]) -> str | None:
    """Returns the name of the parameter (h w c d) that sees the image, or None."""
    kernels = (name for family in known_families() for name in family.input_kernels)
    return next((name for name in kernels if name in names), None)


# How a run lets its network compute, whatever that is; and what a network does that has
# no field for it.
COMPUTING = dict(dtype='float32', remat='none', scan_layers=False, attention='auto')


def supported(family: Family, options: dict[str, Any]) -> dict[str, Any]:
    """The options without those that a family need not have a field for.

    Raises:
        ValueError: it is one that the network cannot follow.
    """
    without = {*COMPUTING} & {*options} - {*family.fields()}
    for key in sorted(without):
        if options[key] != COMPUTING[key]:
            raise ValueError(
                f'{key} is {options[key]!r}, but the family {family.name} has no such '
                f'option; leave it at {COMPUTING[key]!r}.'
            )
    return {key: value for key, value in options.items() if key not in without}
