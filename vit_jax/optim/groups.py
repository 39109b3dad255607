"""Which parameters are trained, and at which rate: by published name."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jaxtyping import PyTree
from ml_collections import ConfigDict

from vit_jax import models
from vit_jax.models.family import Family


def is_kernel(params: dict) -> dict:
    """Returns a tree of bools: which parameters weight decay applies to."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key.rpartition('/')[2] == 'kernel', params
    )


def layers(names: Iterable[str], family: Family) -> dict[str, int]:
    """Returns the layer of each parameter, as layer-wise decay counts them.

    0 is everything before the blocks, i + 1 is block i, and what follows the blocks
    has the number of blocks + 1: BEiT (Bao et al., 2022) and MAE (He et al., 2022)
    count so. A family without blocks is one layer.

    Args:
        names: of all parameters, as published.
        family: of the network.
    """
    blocks = {name: family.block_of(name) for name in names}
    numbers = [block for block in blocks.values() if block is not None]
    if not numbers:
        return dict.fromkeys(blocks, 0)
    last = max(numbers) + 2
    return {
        name: last * family.is_after(name) if block is None else block + 1
        for name, block in blocks.items()
    }


def multipliers(config: ConfigDict, names: Iterable[str]) -> dict[str, float]:
    """Returns by what the learning rate is multiplied for each parameter; 0: frozen.

    It is layer_decay^(n - i) in layer i of n, see `layers`.

    Args:
        config: its keys model, frozen and layer_decay.
        names: of all parameters, as published.
    """
    layer = layers(names, models.family_of(config.model))
    last = max(layer.values(), default=0)
    return {
        name: 0.0
        if config.frozen and re.search(config.frozen, name)
        else float(config.layer_decay) ** (last - i)
        for name, i in layer.items()
    }


def trainable(config: ConfigDict, params: PyTree) -> PyTree | None:
    """Returns which parameters are trained; None: all of them.

    Args:
        config: its keys model and frozen.
        params: arrays or shapes, with blocks stacked or not.

    Returns:
        A tree like `params` of bools, or where blocks are stacked of bools (l).
    """
    if not config.frozen:
        return None
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    factors = multipliers(config, _by_name(shapes))
    return _like(params, {name: np.bool_(x > 0) for name, x in factors.items()})


def _by_name(params: PyTree) -> dict[str, Any]:
    """Returns the arrays of parameters by their published names."""
    return traverse_util.flatten_dict(models.unstack(params), sep='/')


def _like(params: PyTree, named: Mapping[str, Any]) -> PyTree:
    """Returns values by name as a tree like `params`: blocks stacked, or not."""
    tree = traverse_util.unflatten_dict(named, sep='/')
    stacked = jax.tree.structure(tree) != jax.tree.structure(params)
    return models.stack(tree) if stacked else tree
