"""Evaluation: every example of a split exactly once, on any number of devices.

Training asks for two numbers, which `evaluate` sums up on the devices. `python -m
vit_jax.evaluate REF --dataset … --split …` judges a model that training has left, and
keeps what it said of every example: see `judgement`.
"""

import argparse
import collections
import csv
import importlib.util
import json
import logging
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from vit_jax import commands, sharding
from vit_jax.checkpoint.class_names import as_named_by
from vit_jax.metrics import table

if TYPE_CHECKING:
    from vit_jax.judgement import Judgement
    from vit_jax.predictor import Predictor

log = logging.getLogger(__name__)

Batch = Mapping[str, Any]
EvalStep = Callable[[Any, Batch], dict[str, Float[Array, '']]]

# With more classes, the terminal is not the place to look at each.
_CLASSES_TOLD = 20
_PAIRS_TOLD = 5

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
    """Evaluates a checkpoint from the command line; returns the exit code.

    0: done; 1: done, but some images do not decode; 2: the user's error.
    """
    parser = argparse.ArgumentParser(
        prog='python -m vit_jax.evaluate',
        description='Judges a model on every example of a split.',
    )
    commands.add_checkpoint(parser)
    commands.add_dataset(parser)
    commands.add_batches(parser)
    parser.add_argument(
        '--out', metavar='DIR',
        help='write predictions, per-class results, the confusion matrix and the worst '
        'mistakes to this folder, as CSV, JSON and figures',
    )  # fmt: skip
    parser.add_argument('--json', action='store_true', help='print one line of JSON')
    args = parser.parse_args(argv)
    return commands.run('evaluate', lambda: _main(args))


def _main(args: argparse.Namespace) -> int:
    from vit_jax.predictor import Predictor

    predictor = Predictor.load(commands.checkpoint_of(args), best=args.best)
    asked, judgement = judge(args, predictor)
    metrics = judgement.metrics()
    if args.out is not None:
        for path in write(
            judgement, predictor, {**asked, **metrics}, pathlib.Path(args.out)
        ):
            print(path, file=sys.stderr if args.json else sys.stdout)
    if args.json:
        print(json.dumps(asked | metrics))
        return int(judgement.num_skipped > 0)
    print(
        '{checkpoint}: {num_examples} examples of {dataset} {split}: accuracy '
        '{accuracy:.4f}, loss {loss:.4f}'.format(**asked, **metrics)
    )
    if 'top_5_accuracy' in metrics:
        print('top-5 accuracy {top_5_accuracy:.4f}'.format(**metrics))
    print('expected calibration error {calibration_error:.4f}'.format(**metrics))
    rows = judgement.per_class()
    if len(rows) <= _CLASSES_TOLD:
        print(table(rows))
    wrong = [row for row in judgement.confused if row[0] != row[1]][:_PAIRS_TOLD]
    for right, said, count in wrong:
        names = judgement.class_names
        print(f'{names[right]} taken for {names[said]}: {count}')
    return int(judgement.num_skipped > 0)


def write(
    judgement: 'Judgement',
    predictor: 'Predictor',
    metrics: Mapping[str, Any],
    out: pathlib.Path,
) -> list[pathlib.Path]:
    """Writes all that follows from a judgement to a folder; returns the files.

    metrics.json; predictions.csv, mistakes.csv (the most confident first),
    per_class.csv, confusion.csv (right class, predicted class, how often); and, where
    matplotlib is installed, confusion.png, calibration.png and mistakes.png.
    """
    out = out.expanduser()
    out.mkdir(parents=True, exist_ok=True)
    names = judgement.class_names
    predictions = judgement.predictions()
    tables = {
        'predictions': predictions,
        'mistakes': [predictions[i] for i in judgement.mistakes().tolist()],
        'per_class': judgement.per_class(),
        'confusion': [
            {'label': names[right], 'prediction': names[said], 'count': int(count)}
            for right, said, count in judgement.confused
        ],
    }
    files = [out / 'metrics.json']
    files[0].write_text(json.dumps(metrics, indent=1) + '\n')
    for name, rows in tables.items():
        files.append(out / f'{name}.csv')
        with files[-1].open('w', newline='', encoding='utf-8') as file:
            fields = list(rows[0] if rows else predictions[0])
            writer = csv.DictWriter(file, fields)
            writer.writeheader()
            writer.writerows(rows)
    if importlib.util.find_spec('matplotlib') is None:
        log.warning("No figures: they need pip install 'vit_jax[plot]'.")
        return files
    from vit_jax.visualize import drawing, judged

    for name, figure in judged.all_figures(judgement, predictor).items():
        files.append(out / f'{name}.png')
        drawing.save(figure, files[-1])
    return files


def judge(
    args: argparse.Namespace, predictor: 'Predictor'
) -> tuple[dict[str, str], 'Judgement']:
    """Returns names of what is judged, and the judgement; `args` as in `main`.

    Raises:
        ValueError: the dataset or the split is unknown, or its classes are not those
            of the model.
    """
    from vit_jax import judgement

    card = predictor.card
    dataset = commands.dataset_of(args, card)
    split = commands.split_of(args, card, dataset)
    source = dataset.source(split)
    found = judgement.judge(
        predictor,
        source,
        label_map(source.class_names, card.class_names, card.num_classes),
        batch=args.batch,
        num_workers=args.num_workers,
        skip_corrupt=args.skip_corrupt,
    )
    return {
        'checkpoint': str(commands.checkpoint_of(args)),
        'dataset': args.dataset or card.source['dataset'],
        'split': split,
    }, found


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
