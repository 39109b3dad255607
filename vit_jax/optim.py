"""The optimizer of a run: its learning-rate schedule, and what it leaves alone."""

import re
from collections.abc import Callable, Iterable

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
        lambda path, _: path[-1].key == 'kernel', params
    )


# Where a parameter is in the network, by its published name; what is named by neither
# stands before the first block.
_BLOCK = re.compile(r'(?:^|/)(?:encoderblock|MixerBlock)_(\d+)/')
_LAST = re.compile(r'(?:^|/)(?:encoder_norm|pre_head_layer_norm|pre_logits|head)/')


def layers(names: Iterable[str]) -> dict[str, int]:
    """Returns the layer of each parameter, as layer-wise decay counts them.

    0 is everything before the blocks, i + 1 is block i, and what follows the blocks
    has the number of blocks + 1 (Bao et al., 2022, and He et al., 2022, count so).
    """
    names = list(names)
    blocks = {n: int(m[1]) for n in names if (m := _BLOCK.search(n))}
    last = max(blocks.values(), default=-1) + 2
    return {
        name: blocks[name] + 1 if name in blocks else last * bool(_LAST.search(name))
        for name in names
    }


def multipliers(config: ConfigDict, params: PyTree) -> PyTree | None:
    """Returns the factor of each parameter's learning rate; None: all are 1.

    0 means frozen. The factor of layer i of n is layer_decay^(n - i).

    Args:
        config: its keys frozen and layer_decay.
        params: of the model, arrays or shapes, with blocks stacked or not.

    Returns:
        A tree like `params` of NumPy arrays that broadcast against it.

    Raises:
        ValueError: `frozen` freezes nothing, or everything.
    """
    if not config.frozen and config.layer_decay == 1:
        return None
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    published = models.unstack(shapes)
    flat = traverse_util.flatten_dict(published, sep='/')
    frozen = {name for name in flat if config.frozen and re.search(config.frozen, name)}
    if config.frozen and not frozen:
        some = ', '.join(sorted(flat, key=lambda name: (name.count('/'), name))[:6])
        raise ValueError(
            f'config.frozen is {config.frozen!r}, which is found in no name of a '
            f'parameter. Names are, for example, {some}.'
        )
    if len(frozen) == len(flat):
        raise ValueError(
            f'config.frozen is {config.frozen!r}, which is found in the name of every '
            "parameter, so that nothing would be trained; '^(?!head/)' leaves the head."
        )
    layer = layers(flat)
    last = max(layer.values())
    factor = {
        name: np.float32(0 if name in frozen else config.layer_decay ** (last - i))
        for name, i in layer.items()
    }
    tree = traverse_util.unflatten_dict(factor, sep='/')
    if jax.tree.structure(tree) != jax.tree.structure(params):
        tree = models.stack(tree)
    return jax.tree.map(
        lambda x, like: np.reshape(x, np.shape(x) + (1,) * (like.ndim - np.ndim(x))),
        tree,
        shapes,
    )


def is_trained(factors: PyTree) -> PyTree:
    """Returns which arrays are trained, at least in part, by `multipliers`.

    The arrays of one name in all blocks go together, as they do in a stack, so that
    the optimizer's state is the same with stacked blocks and without.
    """
    flat = traverse_util.flatten_dict(factors, sep='/')
    trained = {_BLOCK.sub('/', name) for name, x in flat.items() if np.any(x)}
    found = {name: _BLOCK.sub('/', name) in trained for name in flat}
    return traverse_util.unflatten_dict(found, sep='/')


def create_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Returns the optimizer: clip by global norm, decay, then SGD or AdamW.

    SGD has momentum 0.9 (not Nesterov), kept in `config.optim_dtype`; weight decay
    adds to its gradient, while AdamW decouples it (Loshchilov & Hutter, 2019).
    AdamW keeps its first moment in `config.optim_dtype`. Parameters whose factor (see
    `multipliers`) is 0 have no state, and do not count in the norm.
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
        return optimizer

    def labels(params: PyTree) -> PyTree:
        trained = is_trained(multipliers(config, params))
        return jax.tree.map(lambda x: 'trained' if x else 'frozen', trained)

    def scale(updates: PyTree, params: PyTree) -> PyTree:
        factors = multipliers(config, params)
        return jax.tree.map(lambda u, f: u * jnp.asarray(f, u.dtype), updates, factors)

    return optax.chain(
        optax.multi_transform(
            {'trained': optimizer, 'frozen': optax.set_to_zero()}, labels
        ),
        optax.stateless(scale),
    )
