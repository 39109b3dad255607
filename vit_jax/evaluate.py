"""Evaluation: every example of a split exactly once, on any number of devices.

`python -m vit_jax.evaluate RUN_DIR|CHECKPOINT --dataset … --split …` judges a model
that training has left, by the same function that training uses.
"""

import argparse
import collections
import json
import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from vit_jax import sharding
from vit_jax.checkpoint.class_names import as_named_by

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


def main(argv: list[str] | None = None) -> int:
    """Evaluates a checkpoint from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog='python -m vit_jax.evaluate', description=__doc__.split('\n')[0]
    )
    parser.add_argument(
        'checkpoint', help='a run directory, or an .npz with its card beside it'
    )
    parser.add_argument(
        '--dataset', help='TFDS name, folder, manifest.csv or hf:owner/name; default: '
        'the one that the model was trained on'
    )  # fmt: skip
    parser.add_argument('--split', help='as in TFDS; default: the test split')
    parser.add_argument(
        '--best', action='store_true', help='of a run, the parameters best on val'
    )
    parser.add_argument('--batch', type=_positive, default=128)
    parser.add_argument('--tfds_data_dir', help='default: as in training')
    parser.add_argument('--tfds_manual_dir', help='default: as in training')
    parser.add_argument('--num_workers', type=int, default=0)
    parser.add_argument('--skip_corrupt', action='store_true')
    parser.add_argument('--json', action='store_true', help='print one line of JSON')
    args = parser.parse_args(argv)
    try:
        result = evaluate_checkpoint(args)
    except (ValueError, OSError) as error:
        # The pipeline names the key of a training run.
        message = str(error).replace(
            '--config.skip_corrupt=True takes the next good image instead',
            '--skip_corrupt leaves such images out',
        )
        print(f'evaluate: {message}', file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(result))
    else:
        print(
            '{checkpoint}: {num_examples} examples of {dataset} {split}: accuracy '
            '{accuracy:.4f}, loss {loss:.4f}'.format(**result)
        )
    return 0


def _positive(text: str) -> int:
    """Returns a whole number of at least 1."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def evaluate_checkpoint(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the metrics of a checkpoint on a split; `args` as in `main`.

    Raises:
        ValueError: the checkpoint cannot be loaded, the dataset or the split is
            unknown, or its classes are not those of the model.
    """
    from vit_jax import checkpoint, data

    model, params, card = checkpoint.load_model(args.checkpoint, best=args.best)
    model = model.clone(dtype=card.source.get('dtype', 'float32'))
    name = args.dataset or card.source.get('dataset')
    split = args.split or card.source.get('test_split')
    if not name or not split:
        raise ValueError(
            f'{args.checkpoint} does not say what it was trained on; name what it '
            'shall be judged on with --dataset and --split.'
        )
    dataset = data.open_dataset(
        name,
        data_dir=args.tfds_data_dir or card.source.get('tfds_data_dir'),
        manual_dir=args.tfds_manual_dir or card.source.get('tfds_manual_dir'),
        holdout=card.source.get('holdout', 0.1),
    )
    source = dataset.source(split)
    labels = label_map(source.class_names, card.class_names, card.num_classes)
    mesh = sharding.make_mesh()
    batches = data.eval_batches(
        source,
        batch=batch_size(args.batch, len(source), mesh.size),
        size=card.image_size,
        resize=card.resize,
        num_workers=args.num_workers,
        skip_corrupt=args.skip_corrupt,
        mean=card.mean,
        std=card.std,
        channels=checkpoint.num_channels(params),
    )
    batches = ({**batch, 'label': labels[batch['label']]} for batch in batches)
    params = jax.device_put(params, sharding.replicated(mesh))
    metrics = evaluate(make_eval_step(model), params, batches, mesh)
    return {
        'checkpoint': str(args.checkpoint),
        'dataset': name,
        'split': split,
        **metrics,
    }


def label_map(
    dataset_classes: tuple[str, ...],
    model_classes: list[str] | tuple[str, ...] | None,
    num_classes: int,
) -> np.ndarray:
    """Returns the model's index of each class of a dataset, (y,) int32.

    Matched by name where the model knows its classes' names, else by index.

    Raises:
        ValueError: a class of the dataset is none of the model's.
    """
    if model_classes is None:
        if len(dataset_classes) != num_classes:
            raise ValueError(
                f'The model has {num_classes} classes without names, the dataset '
                f'{len(dataset_classes)}; they cannot be matched.'
            )
        return np.arange(num_classes, dtype=np.int32)
    model_classes = as_named_by(dataset_classes, model_classes)
    if tuple(dataset_classes) == tuple(model_classes):
        return np.arange(num_classes, dtype=np.int32)  # also where names are not unique
    index = {name: i for i, name in enumerate(model_classes)}
    unknown = [name for name in dataset_classes if name not in index]
    if unknown:
        raise ValueError(
            f'The dataset has classes that the model does not know: '
            f'{", ".join(unknown[:10])}{" …" if len(unknown) > 10 else ""}. The model '
            f'knows {", ".join(model_classes[:10])}'
            f'{" …" if len(model_classes) > 10 else ""}.'
        )
    return np.array([index[name] for name in dataset_classes], np.int32)


if __name__ == '__main__':
    sys.exit(main())
