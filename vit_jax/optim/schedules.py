"""Learning rate schedules."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

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
