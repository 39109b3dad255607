"""The parameters of a network, before there are any: their shapes, and how many."""

import math
from collections.abc import Mapping
from typing import Any

import jax
from flax import traverse_util
from ml_collections import ConfigDict

from vit_jax.models import families, stacking
from vit_jax.models.arrays import variables, weight_shapes
from vit_jax.models.zoo.registry import from_config


def parameter_shapes(
    model_config: ConfigDict | Mapping[str, Any],
    num_classes: int | None,
    image_size: tuple[int, int],
    channels: int = 3,
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the parameters that a network has, by published name.

    Where blocks can be stacked one is traced for all of them: a fraction of a second
    for any network.

    Args:
        model_config: as in MODEL_CONFIGS.
        num_classes: width of the head; 0 or None for no head.
        image_size: (height, width) of its images.
        channels: of its images.

    Raises:
        ValueError: the network does not take images of that size.
    """
    can_stack = 'scan_layers' in families.family_of(model_config).fields()
    options = {'scan_layers': True} if can_stack else {}
    model = from_config(model_config, num_classes=num_classes, **options)
    params = variables(weight_shapes(model, image_size, channels))['params']
    return traverse_util.flatten_dict(stacking.unstack(params), sep='/')


def num_parameters(params: Any) -> int:
    """Returns how many numbers a tree of arrays, or of their shapes, holds."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
