"""The optimizer of a run and its learning-rate schedule."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float
from ml_collections import ConfigDict

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


def create_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Returns the optimizer: clip by global norm, decay, then SGD or AdamW.

    SGD has momentum 0.9 (not Nesterov), kept in `config.optim_dtype`; weight decay
    adds to its gradient, while AdamW decouples it (Loshchilov & Hutter, 2019).
    AdamW keeps its first moment in `config.optim_dtype`.
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
    return optax.chain(*steps)
