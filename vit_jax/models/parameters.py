"""The parameters of a network, before there are any: their shapes, and how many."""

import math
from typing import Any

import jax
import jax.numpy as jnp


def parameter_shapes(
    model: Any, image_size: tuple[int, int], channels: int = 3
) -> dict[str, Any]:
    """Returns the parameters of a Flax module as a tree of `jax.ShapeDtypeStruct`.

    Args:
        model: one of the networks.
        image_size: (height, width) of its images.
        channels: of its images.

    Raises:
        ValueError: the network does not take images of that size.
    """
    images = jax.ShapeDtypeStruct((1, *image_size, channels), jnp.float32)
    return jax.eval_shape(
        lambda images: model.init(jax.random.key(0), images, train=False), images
    )['params']


def num_parameters(params: Any) -> int:
    """Returns how many numbers a tree of arrays, or of their shapes, holds."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
