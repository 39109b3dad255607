"""Every example exactly once: accuracy and loss of parameters on a split."""

import collections
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from vit_jax.runtime import sharding

log = logging.getLogger(__name__)

Batch = Mapping[str, Any]
EvalStep = Callable[[Any, Batch], dict[str, Float[Array, '']]]

# Batches on the device at once: one that computes and one that arrives.
_IN_FLIGHT = 2


def eval_step(params: Any, batch: Batch, *, model: nn.Module) -> dict[str, Array]:
    """Returns sums over the examples of a batch whose mask is 1.

    Args:
        params: of the model.
        batch: image (b h w c) as the model takes it, label (b), mask (b).
        model: gives logits (b y).

    Returns:
        Sums of 'correct', 'loss' (softmax cross-entropy) and 'num_examples'.
    """
    logits = model.apply({'params': params}, batch['image'], train=False)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch['label'])
    correct = logits.argmax(axis=-1) == batch['label']
    return {
        'correct': (correct * batch['mask']).sum(),
        'loss': (loss * batch['mask']).sum(),
        'num_examples': batch['mask'].sum(),
    }


def make_eval_step(model: nn.Module) -> EvalStep:
    """Returns `eval_step` of a model, compiled."""
    return jax.jit(lambda params, batch: eval_step(params, batch, model=model))


def evaluate(
    step: EvalStep, params: Any, batches: Iterable[Batch], mesh: Mesh
) -> dict[str, float]:
    """Returns accuracy, mean loss and the number of examples.

    Args:
        step: from `make_eval_step`.
        params: of the model.
        batches: from `data.eval_batches`: image, label, and mask 0 for padding.
        mesh: whose devices share each batch.

    Returns:
        'accuracy' in [0, 1], 'loss', and 'num_examples' as an int.

    Raises:
        ValueError: no example is left: none of them decodes.
    """
    rows = sharding.batch_sharding(mesh)
    sums = collections.Counter()
    waiting = collections.deque()

    def collect() -> None:
        sums.update({name: float(value) for name, value in waiting.popleft().items()})

    skipped = 0
    for batch in batches:
        skipped += int(np.sum(batch.get('skipped', 0)))
        batch = {name: batch[name] for name in ('image', 'label', 'mask')}
        waiting.append(step(params, sharding.to_devices(batch, rows)))
        if len(waiting) > _IN_FLIGHT:
            collect()
    while waiting:
        collect()
    if skipped:
        log.warning('%d images do not decode and were left out.', skipped)
    num_examples = round(sums['num_examples'])
    if not num_examples:
        raise ValueError('There is nothing to judge: none of the examples decodes.')
    return {
        'accuracy': sums['correct'] / num_examples,
        'loss': sums['loss'] / num_examples,
        'num_examples': num_examples,
    }


def batch_size(wanted: int, num_examples: int, num_devices: int) -> int:
    """Returns an evaluation batch that the devices share equally.

    It is no larger than it must be to hold all examples at once: a small split is
    not padded to a large batch.
    """
    return -(-min(wanted, num_examples) // num_devices) * num_devices
