"""All arrays of a network as one tree: its parameters, and its state beside them.

Files, functions and users handle one tree, the parameters. A network may have state as
well, which training moves without a gradient: the statistics of its batches. It is in
that tree under its collection's name, which no module has. Flax wants collections
apart. The two functions `variables` and `weights` are the only ones that know both; of
a network without state, the tree is its parameters.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from vit_jax.models import families


def variables(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what `model.apply` takes: {'params': …}, and each collection of state."""
    collections = families.state_collections()
    state = {name: weights[name] for name in collections if name in weights}
    params = {name: x for name, x in weights.items() if name not in collections}
    return {'params': params, **state}


def weights(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what `model.init` gives as one tree: the inverse of `variables`.

    Raises:
        ValueError: there are collections that no family names.
    """
    state = {name: x for name, x in variables.items() if name != 'params' and x}
    if unnamed := sorted(set(state) - families.state_collections()):
        raise ValueError(
            f'The network makes {", ".join(unnamed)} besides its parameters: name that '
            f'in its family, as in Family(…, state={tuple(unnamed)}).'
        )
    return {**variables.get('params', {}), **state}


def weight_shapes(
    model: nn.Module, image_size: tuple[int, int], channels: int = 3
) -> dict[str, PyTree]:
    """Returns new weights as `jax.ShapeDtypeStruct`s: nothing is computed.

    Args:
        model: of any family.
        image_size: (height, width) in pixels.
        channels: of the images.

    Raises:
        ValueError: the model does not take images of that size.
    """
    images = jax.ShapeDtypeStruct((1, *image_size, channels), jnp.float32)
    return jax.eval_shape(
        lambda images: weights(model.init(jax.random.key(0), images, train=False)),
        images,
    )
