"""The optimizer of a run: its learning-rate schedule, and what it leaves alone."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from jaxtyping import Array, Float, PyTree
from ml_collections import ConfigDict

from vit_jax import models

MOMENTUM = 0.9
LINEAR_END = 1e-5  # where the linear decay ends

Schedule = Callable[[jax.typing.ArrayLike], Float[Array, '...']]


def create_learning_rate_schedule(
    total_steps: int, base: float, decay_type: str, warmup_steps: int
) -> Schedule:
    """Returns the learning rate as a function of the step.

    The rate decays from `base` over the steps after the warm-up, to 0 by a half
    cosine or to 1e-5 in a line, and is scaled up from 0 during the warm-up.

    Args:
        total_steps: at this step the decay is complete.
        base: the highest rate.
        decay_type: 'cosine' or 'linear'.
        warmup_steps: length of the linear warm-up; 0: none.

    Returns:
        A function from the number of steps done before to the rate of the next one.

    Raises:
        ValueError: the decay type is neither.
    """
    if decay_type not in ('cosine', 'linear'):
        raise ValueError(f'decay_type is {decay_type!r}; it can be cosine or linear.')

    def learning_rate(step: jax.typing.ArrayLike) -> Float[Array, '...']:
        step = jnp.asarray(step, jnp.float32)
        decay_steps = max(1, total_steps - warmup_steps)
        progress = jnp.clip((step - warmup_steps) / decay_steps, 0.0, 1.0)
        if decay_type == 'linear':
            rate = LINEAR_END + (base - LINEAR_END) * (1.0 - progress)
        else:
            rate = base * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
        if warmup_steps:
            rate = rate * jnp.minimum(1.0, step / warmup_steps)
        return rate

    return learning_rate


def is_kernel(params: dict) -> dict:
    """Returns a tree of bools: which parameters weight decay applies to."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key.rpartition('/')[2] == 'kernel', params
    )


# Where a parameter is in the network, by its published name; what is named by neither
# stands before the first block.
_BLOCK = re.compile(r'(?:^|/)(?:encoderblock|MixerBlock)_(\d+)/')
_LAST = re.compile(r'(?:^|/)(?:encoder_norm|pre_head_layer_norm|pre_logits|head)/')


def layers(names: Iterable[str]) -> dict[str, int]:
    """Returns the layer of each parameter, as layer-wise decay counts them.

    0 is everything before the blocks, i + 1 is block i, and what follows the blocks
    has the number of blocks + 1: BEiT (Bao et al., 2022) and MAE (He et al., 2022)
    count so.
    """
    names = list(names)
    blocks = {n: int(m[1]) for n in names if (m := _BLOCK.search(n))}
    last = max(blocks.values(), default=-1) + 2
    return {
        name: blocks[name] + 1 if name in blocks else last * bool(_LAST.search(name))
        for name in names
    }


def multipliers(config: ConfigDict, names: Iterable[str]) -> dict[str, float]:
    """Returns by what the learning rate is multiplied for each parameter; 0: frozen.

    It is layer_decay^(n - i) in layer i of n, see `layers`.

    Args:
        config: its keys frozen and layer_decay.
        names: of all parameters, as published.
    """
    layer = layers(names)
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
        config: its key frozen.
        params: arrays or shapes, with blocks stacked or not.

    Returns:
        A tree like `params` of bools, or where blocks are stacked of bools (l).
    """
    if not config.frozen:
        return None
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    factors = multipliers(config, _by_name(shapes))
    return _like(params, {name: np.bool_(x > 0) for name, x in factors.items()})


def create_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Returns the optimizer: clip by global norm, decay, then SGD or AdamW.

    SGD has momentum 0.9 (not Nesterov), kept in `config.optim_dtype`; weight decay
    adds to its gradient, while AdamW decouples it (Loshchilov & Hutter, 2019).
    AdamW keeps its first moment in `config.optim_dtype`.

    What `config.frozen` finds has no state, is not decayed, and does not count in the
    norm. `config.layer_decay` multiplies the learning rate, and so decoupled decay.
    """
    learning_rate = create_learning_rate_schedule(
        config.total_steps, config.base_lr, config.decay_type, config.warmup_steps
    )
    dtype = jnp.dtype(config.optim_dtype)
    steps = [optax.clip_by_global_norm(config.grad_norm_clip)]
    if config.optimizer == 'adamw':
        steps.append(
            optax.adamw(
                learning_rate,
                weight_decay=config.weight_decay,
                mask=is_kernel,
                mu_dtype=dtype,
            )
        )
    else:
        if config.weight_decay:
            steps.append(optax.add_decayed_weights(config.weight_decay, is_kernel))
        steps.append(
            optax.sgd(learning_rate, momentum=MOMENTUM, accumulator_dtype=dtype)
        )
    optimizer = optax.chain(*steps)
    if not config.frozen and config.layer_decay == 1:
        return optimizer  # its state is that of the runs that knew of neither

    def labels(params: dict) -> dict[str, str]:
        factors = multipliers(config, params)
        return {name: 'trained' if x else 'frozen' for name, x in factors.items()}

    def scale(updates: dict, params: dict | None) -> dict:
        del params
        factors = multipliers(config, updates)
        return jax.tree_util.tree_map_with_path(
            lambda path, update: update * factors[path[-1].key], updates
        )

    return _on_names(
        optax.multi_transform(
            {
                'trained': optax.chain(optimizer, optax.stateless(scale)),
                'frozen': optax.set_to_zero(),
            },
            labels,
        )
    )


def _on_names(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Returns an optimizer for any tree of parameters from one for dicts by name.

    Names are the published ones, one for each block: single layers of a stack can
    be frozen, and the state is the same whether or not a run stacks its blocks.
    """

    def init(params: PyTree) -> optax.OptState:
        return optimizer.init(_by_name(params))

    def update(
        updates: PyTree, state: optax.OptState, params: PyTree | None = None
    ) -> tuple[PyTree, optax.OptState]:
        found, state = optimizer.update(_by_name(updates), state, _by_name(params))
        return _like(updates, found), state

    return optax.GradientTransformation(init, update)


def _by_name(params: PyTree) -> dict[str, Any]:
    """Returns the arrays of parameters by their published names."""
    return traverse_util.flatten_dict(models.unstack(params), sep='/')


def _like(params: PyTree, named: Mapping[str, Any]) -> PyTree:
    """Returns values by name as a tree like `params`: blocks stacked, or not."""
    tree = traverse_util.unflatten_dict(named, sep='/')
    stacked = jax.tree.structure(tree) != jax.tree.structure(params)
    return models.stack(tree) if stacked else tree
