"""One training step: loss, gradient, update; and the steps one after another.

The invariant: state s has s optimizer steps applied, those that float16 skips (see
loss_scale.py) included. Batch s and the randomness of
step s are pure functions of (seed, s). Evaluating and saving see state s; then
batch s is drawn; then the step runs. Hence a run that is killed and resumed ends
with the same bits as one that was not.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Num, PRNGKeyArray, PyTree
from ml_collections import ConfigDict

from vit_jax import optim
from vit_jax.runtime import compiler, sharding
from vit_jax.tasks import CLASSES, Task, task_of
from vit_jax.training import loss_scale
from vit_jax.training.state import DROPOUT_STREAM, TrainState, stream
from vit_jax.words.units import MID_GREY

log = logging.getLogger(__name__)

Batch = Mapping[str, Any]  # of arrays
Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]
# (params, model_state, batch, rng) -> ((loss, model_state), gradient).
LossAndGrad = Callable[
    [PyTree, PyTree, Batch, PRNGKeyArray], tuple[tuple[Array, PyTree], PyTree]
]

# XLA may otherwise leave out roundings to bfloat16 that the program asks for. With
# them, four steps with bfloat16 momentum end within 1e-5 of the original's numbers,
# without them within 1e-4.
COMPILER_OPTIONS = {'xla_allow_excess_precision': False}


# What the published models take: pixels 0…255 become -1…1.
MEAN = STD = (MID_GREY,)


def normalize(
    images: Num[Array, 'b h w c'],
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Float[Array, 'b h w c']:
    """Returns pixels 0…255 as the model takes them: (x - mean) / std.

    Args:
        images: pixels.
        mean: one number, or one per channel.
        std: as `mean`.
    """
    return (images.astype(jnp.float32) - jnp.array(mean)) / jnp.array(std)


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a step makes smaller: the mean loss of a task on the outputs of a model.

    Attributes:
        model: gives the outputs.
        task: says what the outputs should be.
        mean: of the pixels, see `normalize`.
        std: of the pixels, see `normalize`.
    """

    model: nn.Module
    task: Task = CLASSES
    mean: Sequence[float] = MEAN
    std: Sequence[float] = STD

    def __call__(
        self, params: PyTree, model_state: PyTree, batch: Batch, rng: PRNGKeyArray
    ) -> tuple[Float[Array, ''], PyTree]:
        """Returns the loss of a batch, and the state of the model after it.

        Args:
            params: of the model.
            model_state: of the model, collections by name; {} for most.
            batch: image (b h w c) uint8, and what the task's targets come from.
            rng: of dropout.
        """
        outputs, model_state = self.model.apply(
            {'params': params, **model_state},
            normalize(batch['image'], self.mean, self.std),
            train=True,
            rngs={'dropout': rng},
            mutable=list(model_state),
        )
        losses = self.task.loss(outputs, self.task.targets(batch))
        return losses.mean(), model_state

    def draws(self, state: TrainState, images: Num[Array, 'b h w c']) -> bool:
        """Returns whether the model draws random numbers in training, as for dropout.

        Args:
            state: of the model; its shapes count.
            images: pixels; the shapes of one of them count.
        """
        forward = functools.partial(
            self.model.apply, train=True, mutable=list(state.model_state)
        )
        variables = {'params': state.params, **state.model_state}
        pixels = normalize(images[:1], self.mean, self.std)
        try:
            jax.eval_shape(forward, variables, pixels)
        except flax.errors.InvalidRngError:
            return True
        return False


def accumulate_gradient(
    loss_and_grad: LossAndGrad,
    params: PyTree,
    model_state: PyTree,
    batch: Batch,
    rng: PRNGKeyArray,
    accum_steps: int,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[Float[Array, ''], PyTree, PyTree]:
    """Returns loss, gradient and model state of a batch that is computed in parts.

    Part i takes every accum_steps-th example, from i on. Each device finds the rows
    of every part among its own, so that no part is gathered from other devices, as
    contiguous parts would be. Loss and gradient are means over the parts; the model
    state goes from part to part.

    Args:
        loss_and_grad: of (params, model_state, batch, rng).
        params: what to differentiate for.
        model_state: before the batch.
        batch: arrays (b …).
        rng: split into one for each part.
        accum_steps: number of parts; divides b.
        mesh: of devices that hold all of `params` each, and share the batch: each adds
            up what its examples give, and the sums are reduced once. `loss_and_grad`
            must not draw random numbers, for all devices would draw the same, and the
            model must have no state. None: the compiler decides, and reduces after
            each part.
    """
    if mesh is not None:

        def on_each_device(*args: PyTree) -> tuple[Array, PyTree, PyTree]:
            means = accumulate_gradient(loss_and_grad, *args, accum_steps)
            return jax.lax.pmean(means, mesh.axis_names)

        whole = jax.sharding.PartitionSpec()
        return jax.shard_map(
            on_each_device,
            mesh=mesh,
            in_specs=(whole, whole, sharding.batch_sharding(mesh).spec, whole),
            out_specs=whole,
            # Otherwise the gradient for what all devices hold is reduced by itself,
            # after each part.
            check_vma=False,
        )(params, model_state, batch, rng)
    if accum_steps == 1:
        rng = jax.random.fold_in(rng, 0)
        (loss, model_state), grads = loss_and_grad(params, model_state, batch, rng)
        return loss, grads, model_state
    parts = jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(-1, accum_steps, *x.shape[1:]), 1, 0), batch
    )

    def add_part(
        carry: tuple[PyTree, PyTree], part: tuple[Array, Batch]
    ) -> tuple[PyTree, None]:
        (total, model_state), (i, examples) = carry, part
        (loss, model_state), grads = loss_and_grad(
            params, model_state, examples, jax.random.fold_in(rng, i)
        )
        return (jax.tree.map(jnp.add, total, (loss, grads)), model_state), None

    zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    (total, model_state), _ = jax.lax.scan(
        add_part, (zeros, model_state), (jnp.arange(accum_steps), parts)
    )
    loss, grads = jax.tree.map(lambda x: x / accum_steps, total)
    return loss, grads, model_state


def split(
    params: PyTree, trainable: PyTree | None
) -> tuple[PyTree, Callable[[PyTree], PyTree]]:
    """Returns what is trained of the parameters, and how all follow from that.

    Only what is trained is differentiated for. The backward pass then ends at the
    first layer that has some of it, and frozen parameters have no gradient to keep.

    Args:
        params: all parameters.
        trainable: from `optim.trainable`.

    Returns:
        The parameters with None for those that are frozen; and a function from such a
        tree to all parameters. Of a stack with frozen layers, the whole is trained,
        but the function gives these layers as they are in `params`.
    """
    if trainable is None:
        return params, lambda trained: trained

    def join(param: Array, on: np.ndarray | np.bool_, trained: Array | None) -> Array:
        if trained is None:
            return param
        if np.all(on):
            return trained
        on = np.reshape(on, (-1, *(1 for _ in param.shape[1:])))
        return jnp.where(on, trained, param)

    trained = jax.tree.map(lambda x, on: x if np.any(on) else None, params, trainable)
    return trained, lambda trained: jax.tree.map(join, params, trainable, trained)


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    seed: int,
    accum_steps: int = 1,
    trainable: PyTree | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[TrainState, dict[str, Array]]:
    """Returns state s + 1 from state s and batch s.

    Args:
        state: donated when this is compiled by `compile_step`.
        batch: image (b h w c) uint8, label (b), skipped (b).
        objective: what the step makes smaller.
        optimizer: from `optim.create_optimizer`.
        seed: of dropout.
        accum_steps: number of parts that the batch is computed in.
        trainable: which parameters are trained, from `optim.trainable`; None: all.
        mesh: of devices that hold the whole state each, see `accumulate_gradient`.

    Returns:
        The state, and 'loss' and 'grad_norm' (before clipping, of what is trained) of
        step s; with a loss scale also 'loss_scale', which step s had, and
        'skipped_steps', of the run up to step s.
    """
    trained, join = split(state.params, trainable)
    scale = state.loss_scale
    # What is drawn must not depend on the number of devices, nor must the statistics
    # of a batch, which is that of all of them.
    alike = mesh is None or not objective.draws(state, batch['image'])
    if state.model_state or not alike:
        mesh = None

    def loss_of(
        trained: PyTree, model_state: PyTree, batch: Batch, rng: PRNGKeyArray
    ) -> tuple[Float[Array, ''], PyTree]:
        loss, model_state = objective(join(trained), model_state, batch, rng)
        return loss if scale is None else scale.scaled(loss), model_state

    loss, grads, model_state = accumulate_gradient(
        jax.value_and_grad(loss_of, has_aux=True),
        trained,
        state.model_state,
        {name: x for name, x in batch.items() if name != 'skipped'},
        jax.random.fold_in(stream(seed, DROPOUT_STREAM), state.step),
        accum_steps,
        mesh,
    )
    if scale is not None:
        loss, grads = scale.unscaled((loss, grads))
    grads = jax.tree.map(
        lambda x, grad: jnp.zeros_like(x) if grad is None else grad, state.params, grads
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    fine = finite | (state.first_nonfinite >= 0)
    after = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
        model_state=model_state,
        # As float32, devices add it up together with the gradients.
        skipped=state.skipped
        + batch['skipped'].astype(jnp.float32).sum().astype(jnp.int32),
        first_nonfinite=jnp.where(fine, state.first_nonfinite, state.step),
    )
    values = {'loss': loss, 'grad_norm': grad_norm}
    if scale is None:
        return after, values
    after = _rescaled(state, after, finite)
    values['loss_scale'] = scale.scale
    values['skipped_steps'] = after.loss_scale.skipped_steps
    return after, values


def _rescaled(before: TrainState, after: TrainState, finite: Array) -> TrainState:
    """Returns the state after a step with a scale of the loss, which may be skipped.

    Args:
        before: the step.
        after: the step, if it is taken.
        finite: whether the loss and all gradients were; it is taken then.
    """
    scale = before.loss_scale
    chosen = {
        name: loss_scale.keep_if_finite(
            finite, getattr(before, name), getattr(after, name)
        )
        for name in ('params', 'opt_state', 'model_state')
    }
    first_nonfinite = jnp.where(
        scale.at_lowest, after.first_nonfinite, before.first_nonfinite
    )
    return after.replace(
        **chosen, first_nonfinite=first_nonfinite, loss_scale=scale.after(finite)
    )


def compile_step(
    config: ConfigDict,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    state: TrainState,
) -> Step:
    """Returns `train_step` compiled, with the state donated and its sharding kept."""
    trainable = optim.trainable(config, state.params)
    if trainable is not None:
        counts = jax.tree.map(lambda x, on: x.size * on.mean(), state.params, trainable)
        count = round(sum(jax.tree.leaves(counts)))
        log.info('%s of the parameters are trained, the others frozen.', f'{count:,}')
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    where = shardings.step
    shared = all(one.is_fully_replicated for one in jax.tree.leaves(shardings))
    several = config.accum_steps > 1 and len(where.device_set) > 1
    objective = Objective(
        model, task_of(config.task), config.pp.mean or MEAN, config.pp.std or STD
    )
    step = functools.partial(
        train_step,
        objective=objective,
        optimizer=optimizer,
        seed=config.seed,
        accum_steps=config.accum_steps,
        trainable=trainable,
        mesh=where.mesh if several and shared else None,
    )
    return jax.jit(
        step,
        donate_argnums=0,
        out_shardings=(shardings, None),
        compiler_options={**COMPILER_OPTIONS, **compiler.options()},
    )
