"""Every example exactly once: accuracy and loss of parameters on a split."""

import collections
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from vit_jax import models
from vit_jax.runtime import sharding
from vit_jax.tasks import CLASSES, Task

Batch = Mapping[str, Any]
EvalStep = Callable[[Any, Batch], dict[str, Float[Array, '']]]

# Of a batch, what the devices do not need.
HOST_ONLY = ('index', 'skipped')
# Batches on the device at once: one that computes and one that arrives.
_IN_FLIGHT = 2


def eval_step(
    weights: Any, batch: Batch, *, model: nn.Module, task: Task = CLASSES
) -> dict[str, Array]:
    """Returns sums over the examples of a batch whose mask is 1.

    Args:
        weights: of the model.
        batch: image (b h w c) as the model takes it, mask (b), and what the task's
            targets come from, as label (b).
        model: gives outputs (b …).
        task: says how they are judged.

    Returns:
        Sums of each metric of the task, and 'num_examples'.
    """
    outputs = model.apply(models.variables(weights), batch['image'], train=False)
    metrics = task.metrics(outputs, task.targets(batch))
    sums = {name: (value * batch['mask']).sum() for name, value in metrics.items()}
    return {**sums, 'num_examples': batch['mask'].sum()}


def make_eval_step(model: nn.Module, task: Task = CLASSES) -> EvalStep:
    """Returns `eval_step` of a model and a task, compiled."""
    return jax.jit(functools.partial(eval_step, model=model, task=task))


def evaluate(
    step: EvalStep, weights: Any, batches: Iterable[Batch], mesh: Mesh
) -> dict[str, float]:
    """Returns the means of a task's metrics, and the number of examples.

    Args:
        step: from `make_eval_step`.
        weights: of the model.
        batches: from `data.eval_batches`: image, label, and mask 0 for padding.
        mesh: whose devices share each batch.

    Returns:
        Of the task 'classes' 'accuracy' in [0, 1] and 'loss'; and 'num_examples' as
        an int.

    Raises:
        ValueError: no example is left: none of them decodes.
    """
    rows = sharding.batch_sharding(mesh)
    sums = collections.Counter()
    waiting = collections.deque()

    def collect() -> None:
        sums.update({name: float(value) for name, value in waiting.popleft().items()})

    for batch in batches:
        batch = {name: x for name, x in batch.items() if name not in HOST_ONLY}
        waiting.append(step(weights, sharding.to_devices(batch, rows)))
        if len(waiting) > _IN_FLIGHT:
            collect()
    while waiting:
        collect()
    num_examples = round(sums.pop('num_examples'))
    if not num_examples:
        raise ValueError('There is nothing to judge: none of the examples decodes.')
    means = {name: total / num_examples for name, total in sums.items()}
    return {**means, 'num_examples': num_examples}


def batch_size(wanted: int, num_examples: int, num_devices: int) -> int:
    """Returns an evaluation batch that the devices share equally.

    It is no larger than it must be to hold all examples at once: a small split is
    not padded to a large batch.
    """
    return -(-min(wanted, num_examples) // num_devices) * num_devices
