"""Few-shot linear classification on frozen features: python -m vit_jax.few_shot.

Dosovitskiy et al., 2020, section 4.1: a regularized least-squares regression maps the
features of a few training images per class to targets -1 and 1. It has a closed form,
so that the number says something about the features and nothing about an optimizer.
The details are those of the authors' own evaluations: the pre-logits, whitened with
mean and deviation of the few images, a constant feature of 100 beside them, λ = 1024.
"""

import argparse
import csv
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from vit_jax import commands
from vit_jax.metrics import table

if TYPE_CHECKING:
    from vit_jax import data
    from vit_jax.predictor import Predictor

SHOTS = (1, 5, 10, 25)
SEEDS = 3
L2_REG = 2.0**10
BIAS = 100.0
# Added to the deviation: a feature may be constant over a handful of images.
_EPSILON = 1e-5


def whiten(
    train: Float[np.ndarray, 'n d'], *others: Float[np.ndarray, '_ d']
) -> list[Float[np.ndarray, '_ d+1']]:
    """Returns features with mean 0 and deviation 1, and the constant feature beside.

    Mean and deviation are those of the training features, in all of the results.
    """
    mean = train.mean(axis=0, dtype=np.float64)
    std = train.std(axis=0, dtype=np.float64) + _EPSILON
    return [
        np.pad((x - mean) / std, ((0, 0), (0, 1)), constant_values=BIAS)
        for x in (train, *others)
    ]


def regress(
    features: Float[np.ndarray, 'n d'],
    labels: Int[np.ndarray, ' n'],
    num_classes: int,
    l2_reg: float = L2_REG,
) -> Float[np.ndarray, 'd y']:
    """Returns the W that minimises |X W - Y|² + λ |W|², with Y -1 or 1.

    Args:
        features: X, from `whiten`.
        labels: class of each row.
        num_classes: y.
        l2_reg: λ, above 0; the constant feature is regularized as all others.
    """
    targets = 2.0 * np.eye(num_classes)[labels] - 1.0
    n, d = features.shape
    if n >= d:
        gram = features.T @ features + l2_reg * np.eye(d)
        return np.linalg.solve(gram, features.T @ targets)
    # The same solution from the smaller of the two systems (the kernel form).
    gram = features @ features.T + l2_reg * np.eye(n)
    return features.T @ np.linalg.solve(gram, targets)


def choose(
    labels: Int[np.ndarray, ' n'], shots: int, seed: int
) -> Int[np.ndarray, ' m']:
    """Returns the places of so many random examples of each class.

    With one seed, more shots are the fewer ones and others. A class with fewer
    examples gives all it has.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    by_class = [order[labels[order] == label] for label in np.unique(labels)]
    return np.sort(np.concatenate([places[:shots] for places in by_class]))


def few_shot(
    train: tuple[Float[np.ndarray, 'n d'], Int[np.ndarray, ' n']],
    test: tuple[Float[np.ndarray, 'm d'], Int[np.ndarray, ' m']],
    *,
    shots: Sequence[int] = SHOTS,
    seeds: int = SEEDS,
    l2_reg: float = L2_REG,
) -> list[dict[str, Any]]:
    """Returns the accuracy on test for each number of shots.

    Args:
        train: features and labels to choose from.
        test: features and labels to be judged on.
        shots: numbers of training examples per class.
        seeds: how often other examples are chosen.
        l2_reg: λ of the regression.

    Returns:
        One dict per number of shots: shots, num_train, and of the accuracies over the
        seeds mean and std (population deviation), and accuracies.

    Raises:
        ValueError: there is nothing to learn from, or a class of test is unknown.
    """
    (x, y), (x_test, y_test) = train, test
    check(y, y_test, shots, seeds, l2_reg)
    results = []
    for count in shots:
        accuracies = []
        for seed in range(seeds):
            chosen = choose(y, count, seed)
            few, judged = whiten(x[chosen], x_test)
            weights = regress(few, y[chosen], int(y.max()) + 1, l2_reg)
            hits = (judged @ weights).argmax(axis=-1) == y_test
            accuracies.append(float(hits.mean()))
        results.append(
            {
                'shots': count,
                'mean': float(np.mean(accuracies)),
                'std': float(np.std(accuracies)),
                'num_train': len(chosen),
                'accuracies': accuracies,
            }
        )
    return results


def check(
    train: Int[np.ndarray, ' n'],
    test: Int[np.ndarray, ' m'],
    shots: Sequence[int] = SHOTS,
    seeds: int = SEEDS,
    l2_reg: float = L2_REG,
) -> None:
    """Raises a ValueError unless labels and numbers allow the protocol."""
    if min(shots, default=0) < 1 or seeds < 1 or not l2_reg > 0:
        raise ValueError(
            f'found shots {list(shots)}, {seeds} seeds and l2_reg {l2_reg}, expected '
            'shots and seeds of at least 1 and an l2_reg above 0'
        )
    if not len(train) or not len(test):
        raise ValueError(
            f'found {len(train)} training and {len(test)} test examples, expected some '
            'of both: name other splits'
        )
    if len(np.unique(train)) < 2:
        raise ValueError(
            'all training examples are of one class, expected at least two classes'
        )
    if missing := sorted(set(test.tolist()) - set(train.tolist())):
        raise ValueError(
            f'no training example is of the classes {missing[:10]}, which the test '
            'examples have: name another training split'
        )


def judge(
    predictor: 'Predictor',
    train: 'data.Subset',
    test: 'data.Subset',
    *,
    shots: Sequence[int] = SHOTS,
    seeds: int = SEEDS,
    l2_reg: float = L2_REG,
    **reading: Any,
) -> list[dict[str, Any]]:
    """Returns what `few_shot` finds on the pre-logits of a model.

    Of the training examples only those are read that some seed chooses.

    Args:
        predictor: the model; its card says how images become its input.
        train: the examples to choose from.
        test: the examples to be judged on, with the same classes.
        shots: see `few_shot`.
        seeds: see `few_shot`.
        l2_reg: see `few_shot`.
        **reading: batch, num_workers, skip_corrupt of `Predictor.outputs`.
    """
    from vit_jax import data

    labels = train.labels
    check(labels, test.labels, shots, seeds, l2_reg)
    most = [choose(labels, max(shots), seed) for seed in range(seeds)]
    places = np.unique(np.concatenate(most))
    # Examples that are in no choice keep their places, with features that nobody sees.
    few, seen = _features(predictor, data.Picked(train, places.tolist()), reading)
    if len(seen) < len(places):
        raise ValueError(
            f'{len(places) - len(seen)} of the chosen training images do not decode: '
            'remove them'
        )
    x = np.zeros((len(labels), few.shape[1]), few.dtype)
    x[places] = few
    x_test, seen = _features(predictor, test, reading)
    return few_shot(
        (x, labels),
        (x_test, test.labels[seen]),
        shots=shots,
        seeds=seeds,
        l2_reg=l2_reg,
    )


def _features(
    predictor: 'Predictor', source: 'data.Source', reading: dict[str, Any]
) -> tuple[Float[np.ndarray, 'n d'], Int[np.ndarray, ' n']]:
    """Returns the pre-logits of a source, and the places of those that decode."""
    from vit_jax.predictor import PRE_LOGITS

    rows = list(predictor.outputs(source, [PRE_LOGITS], **reading))
    features = np.concatenate([row[PRE_LOGITS] for row in rows])
    if features.ndim != 2:
        raise ValueError(
            f'the model gives features of shape {features.shape[1:]}, expected one '
            'vector per image: its classifier should be token or gap'
        )
    return np.float32(features), np.concatenate([row['index'] for row in rows])


def main(argv: list[str] | None = None) -> int:
    """Runs the protocol from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog='python -m vit_jax.few_shot',
        description='Accuracy of a linear classifier, learned from a few images per '
        'class, on the features of a model.',
    )
    commands.add_checkpoint(parser)
    commands.add_dataset(parser, split=False)
    parser.add_argument('--train_split', help='to choose from; default: as in training')
    parser.add_argument('--split', help='to be judged on; default: the test split')
    parser.add_argument(
        '--shots', type=int, nargs='+', default=SHOTS, metavar='N',
        help='training images per class (1 5 10 25)',
    )  # fmt: skip
    parser.add_argument('--seeds', type=int, default=SEEDS, help='choices of them (3)')
    parser.add_argument(
        '--l2_reg', type=float, default=L2_REG, help='the weight λ of |W|² (1024)'
    )
    parser.add_argument(
        '--size', type=commands.positive,
        help='side of the images in pixels; default: what the model was trained on',
    )  # fmt: skip
    parser.add_argument(
        '--resize', type=int,
        help='shorter side before the centre crop; 0: none; default: 8/7 of the size, '
        'which for 224 is 256',
    )  # fmt: skip
    commands.add_batches(parser)
    parser.add_argument('--format', choices=('table', 'json', 'csv'), default='table')
    args = parser.parse_args(argv)
    return commands.run('few_shot', lambda: _main(args))


def _main(args: argparse.Namespace) -> int:
    reference = commands.checkpoint_of(args)
    results = judge_checkpoint(args)
    if args.format == 'json':
        print(json.dumps({'checkpoint': str(reference), 'few_shot': results}))
        return 0
    rows = [
        {name: value for name, value in row.items() if name != 'accuracies'}
        for row in results
    ]
    if args.format == 'csv':
        writer = csv.DictWriter(sys.stdout, rows[0], lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)
    else:
        print(table(rows))
    return 0


def judge_checkpoint(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns the results of a checkpoint; `args` as in `main`.

    Raises:
        ValueError: model, dataset or splits are not there or do not fit together.
    """
    from vit_jax.predictor import Predictor

    check(np.arange(2), np.arange(2), args.shots, args.seeds, args.l2_reg)
    size = None if args.size is None else (args.size, args.size)
    predictor = Predictor.load(
        commands.checkpoint_of(args), best=args.best, image_size=size
    )
    card = predictor.card
    resize = args.resize
    if resize is None:
        resize = round(min(card.image_size) * 8 / 7)
    elif 0 < resize < max(card.image_size):
        raise ValueError(
            f'--resize is {resize}, smaller than the crop of '
            f'{max(card.image_size)} pixels that is cut from it; 0 resizes straight '
            'to the size'
        )
    predictor.card = dataclasses.replace(card, resize=resize or None)
    dataset = commands.dataset_of(args, card)
    own = None if args.dataset else card.source.get('train_split')
    return judge(
        predictor,
        dataset.source(args.train_split or own or 'train'),
        dataset.source(commands.split_of(args, card, dataset)),
        shots=args.shots,
        seeds=args.seeds,
        l2_reg=args.l2_reg,
        batch=args.batch,
        num_workers=args.num_workers,
        skip_corrupt=args.skip_corrupt,
    )


if __name__ == '__main__':
    sys.exit(main())
