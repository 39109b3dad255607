"""Dynamic loss scaling: how float16 trains (Micikevicius et al., 2018, section 3.2).

float16 has no numbers below 6e-8, where many gradients are. The loss is multiplied by
a scale before it is differentiated, so that they are in range while they are computed,
and the gradients, which are float32 then, are divided by it. Where the scale is too
large, some of them are not finite: that step is skipped, and the scale halved. After
many finite steps in a row it is doubled.

A skipped step is a step: state s + 1 follows from state s and batch s, and the learning
rate, as the data and the randomness, is a function of s. So the schedule ends where the
run does. What the optimizer has learned of the gradients, moments and the number of
them that AdamW corrects for, stays as it was, and so do the parameters.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PyTree

# Powers of two: multiplying by them, and dividing, rounds nothing.
FIRST = 2.0**16
LOWEST = 1.0
HIGHEST = 2.0**24
# So many finite steps in a row double the scale.
INTERVAL = 2000


class LossScale(NamedTuple):
    """The scale of step s, and how it came to be; scalars.

    Attributes:
        scale: by which the loss is multiplied, float32.
        finite_steps: since the scale changed, or since a step was skipped, int32.
        skipped_steps: of the run so far, int32.
    """

    scale: PyTree
    finite_steps: PyTree
    skipped_steps: PyTree

    @property
    def at_lowest(self) -> Bool[Array, '']:
        """Whether a step that is not finite has another cause than the scale."""
        return self.scale <= LOWEST

    def scaled(self, loss: Float[Array, '']) -> Float[Array, '']:
        """Returns the loss that is differentiated."""
        return loss * self.scale

    def unscaled(self, tree: PyTree) -> PyTree:
        """Returns the loss and its gradients from those of the scaled one."""
        return jax.tree.map(lambda x: x / self.scale, tree)

    def after(self, finite: Bool[Array, '']) -> 'LossScale':
        """Returns the scale of step s + 1.

        Args:
            finite: whether the loss and all gradients of step s were.
        """
        finite_steps = jnp.where(finite, self.finite_steps + 1, 0)
        grows = finite_steps >= INTERVAL
        larger = jnp.where(grows, self.scale * 2, self.scale)
        return LossScale(
            scale=jnp.clip(jnp.where(finite, larger, self.scale / 2), LOWEST, HIGHEST),
            finite_steps=jnp.where(grows, 0, finite_steps),
            skipped_steps=self.skipped_steps + ~finite,
        )


def first(dtype: str) -> LossScale | None:
    """Returns the scale of step 0; None where the type of computation needs none."""
    if dtype != 'float16':
        return None
    return LossScale(
        scale=jnp.full((), FIRST, jnp.float32),
        finite_steps=jnp.zeros((), jnp.int32),
        skipped_steps=jnp.zeros((), jnp.int32),
    )


def keep_if_finite(finite: Bool[Array, ''], before: PyTree, after: PyTree) -> PyTree:
    """Returns parameters or an optimizer's state after a step that may be skipped.

    Args:
        finite: whether the step is taken; otherwise it is skipped.
        before: the step.
        after: the step, if it is taken.
    """

    def chosen(after: PyTree, before: PyTree) -> PyTree:
        if isinstance(after, optax.ScaleByScheduleState):
            return after  # it counts steps
        return jnp.where(finite, after, before)

    return jax.tree.map(
        chosen,
        after,
        before,
        is_leaf=lambda x: isinstance(x, optax.ScaleByScheduleState),
    )
