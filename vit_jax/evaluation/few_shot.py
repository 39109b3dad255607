"""What a linear classifier learns from a few examples of each class."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from vit_jax import data

if TYPE_CHECKING:
    from vit_jax.inference.predictor import Predictor

SHOTS = (1, 5, 10, 25)
SEEDS = 3
L2_REG = 2.0**10
BIAS = 100.0
# Added to the deviation: a feature may be constant over a handful of images.
_EPSILON = 1e-5
# How many classes an error names.
_LISTED = 10


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
    labels: Int[np.ndarray, ' n'],
    shots: int,
    seed: int,
    without: Sequence[int] | Int[np.ndarray, ' _'] = (),
) -> Int[np.ndarray, ' m']:
    """Returns the places of so many random examples of each class.

    Each class in turn is shuffled by one generator, which in the same list of examples
    chooses as the authors' evaluations do. With one seed, more shots are the fewer ones
    and others. A class with fewer examples gives all it has.

    Args:
        labels: of all examples; a negative one is none.
        shots: how many of each class.
        seed: of the generator.
        without: places that others of their class replace.
    """
    generator = np.random.default_rng(seed)
    order = np.argsort(labels, kind='stable')
    order = order[labels[order] >= 0]
    if not len(order):
        return order
    chosen = []
    for places in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        places = generator.permutation(places)
        chosen.append(places[~np.isin(places, without)][:shots])
    return np.sort(np.concatenate(chosen))


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
        One dict per number of shots: shots, num_train, num_test; of the accuracies over
        the seeds mean and std (population deviation), and accuracies; and fewer, the
        classes that have fewer examples, with how many they have.

    Raises:
        ValueError: there is nothing to learn from, a class of test is unknown, or
            features are not finite.
    """
    (x, y), (x_test, y_test) = train, test
    check(y, y_test, shots, seeds, l2_reg)
    choices = {n: [choose(y, n, seed) for seed in range(seeds)] for n in shots}
    return _results(x, y, x_test, y_test, choices, l2_reg)


def _results(
    x: Float[np.ndarray, 'n d'],
    y: Int[np.ndarray, ' n'],
    x_test: Float[np.ndarray, 'm d'],
    y_test: Int[np.ndarray, ' m'],
    choices: Mapping[int, Sequence[Int[np.ndarray, ' _']]],
    l2_reg: float,
) -> list[dict[str, Any]]:
    """Returns the rows of `few_shot` for given choices: shots -> one for each seed."""
    if not (np.isfinite(x).all() and np.isfinite(x_test).all()):
        raise ValueError('the features are not finite: the model has diverged')
    results = []
    for count, chosen in choices.items():
        accuracies = []
        for places in chosen:
            few, judged = whiten(x[places], x_test)
            weights = regress(few, y[places], int(y.max()) + 1, l2_reg)
            hits = (judged @ weights).argmax(axis=-1) == y_test
            accuracies.append(float(hits.mean()))
        classes, numbers = np.unique(y[chosen[0]], return_counts=True)
        found = zip(classes.tolist(), numbers.tolist(), strict=True)
        results.append(
            {
                'shots': count,
                'mean': float(np.mean(accuracies)),
                'std': float(np.std(accuracies)),
                'num_train': len(chosen[0]),
                'num_test': len(y_test),
                'accuracies': accuracies,
                'fewer': {label: n for label, n in found if n < count},
            }
        )
    return results


def check(
    train: Int[np.ndarray, ' n'],
    test: Int[np.ndarray, ' m'],
    shots: Sequence[int] = SHOTS,
    seeds: int = SEEDS,
    l2_reg: float = L2_REG,
    class_names: Sequence[str] = (),
) -> None:
    """Raises a ValueError unless labels and numbers allow the protocol."""
    if min(shots, default=0) < 1 or seeds < 1 or not 0 < l2_reg < np.inf:
        raise ValueError(
            f'found shots {list(shots)}, {seeds} seeds and l2_reg {l2_reg}, expected '
            'shots and seeds of at least 1 and an l2_reg above 0'
        )
    if not len(train) or not len(test):
        raise ValueError(
            f'found {len(train)} training and {len(test)} test examples, expected some '
            'of both: name other splits'
        )
    if unknown := int((test < 0).sum()):
        raise ValueError(
            f'{unknown} of {len(test)} test examples have no label: name another split '
            'to be judged on'
        )
    classes = np.unique(train[train >= 0])
    if len(classes) < 2:
        raise ValueError(
            f'all training examples are of {"one class" if len(classes) else "none"}, '
            'expected at least two classes'
        )
    if len(missing := np.setdiff1d(test, classes)):
        names = _names(missing.tolist(), class_names)
        raise ValueError(
            f'no training example is of the classes {names}, '
            'which the test examples have: name another training split'
        )


def _names(labels: Sequence[int], class_names: Sequence[str]) -> str:
    """Returns the first of the classes by name, or else by number."""
    more = f' and {len(labels) - _LISTED} more' if len(labels) > _LISTED else ''
    known = dict(enumerate(class_names))
    return ', '.join(str(known.get(i, i)) for i in labels[:_LISTED]) + more


class Protocol:
    """Few-shot classification on a dataset, to judge one model after another.

    Labels are read once. Of the training images only those are read that some seed
    chooses.
    """

    def __init__(
        self,
        train: 'data.Subset',
        test: 'data.Subset',
        *,
        shots: Sequence[int] = SHOTS,
        seeds: int = SEEDS,
        l2_reg: float = L2_REG,
    ):
        """Reads the labels.

        Args:
            train: the examples to choose from.
            test: the examples to be judged on, of the same classes.
            shots: see `few_shot`.
            seeds: see `few_shot`.
            l2_reg: see `few_shot`.

        Raises:
            ValueError: labels and numbers do not allow it, or train and test share
                examples.
        """
        if shared := train.num_shared(test):
            raise ValueError(
                f'{train.name} and {test.name} share {shared} examples, so that a '
                'result on them would not be honest: name splits apart'
            )
        self._train, self._test = train, test
        self._shots, self._seeds, self._l2_reg = list(shots), seeds, l2_reg
        self._labels = train.labels
        self._check(self._labels, test.labels)
        self._corrupt: set[int] = set()  # among the training images

    def accuracies(
        self, predictor: 'Predictor', **reading: Any
    ) -> list[dict[str, Any]]:
        """Returns the results of `few_shot` on the pre-logits of a model.

        With `skip_corrupt`, another image of the class takes the place of a training
        image that does not decode.

        Args:
            predictor: the model; its card says how images become its input.
            **reading: batch, num_workers, skip_corrupt of `Predictor.outputs`.

        Returns:
            As `few_shot`, with classes by name; and skipped, how many of the images
            that were read do not decode.
        """
        known: dict[int, Float[np.ndarray, ' d']] = {}
        while True:
            corrupt = sorted(self._corrupt)
            choices = {
                count: [
                    choose(self._labels, count, seed, without=corrupt)
                    for seed in range(self._seeds)
                ]
                for count in self._shots
            }
            # Fewer shots are among the most.
            most = np.unique(np.concatenate(choices[max(self._shots)]))
            new = [int(place) for place in most if int(place) not in known]
            if not new:
                break
            few, _, seen = _features(predictor, data.Picked(self._train, new), reading)
            known.update((new[i], x) for i, x in zip(seen, few, strict=True))
            self._corrupt.update(set(new) - set(known))
        x_test, y_test, _ = _features(predictor, self._test, reading)
        self._check(self._labels[most], y_test)
        rows = _results(
            np.stack([known[place] for place in most.tolist()]),
            self._labels[most],
            x_test,
            y_test,
            {
                count: [np.searchsorted(most, places) for places in chosen]
                for count, chosen in choices.items()
            },
            self._l2_reg,
        )
        names = dict(enumerate(self._train.class_names))
        skipped = len(self._corrupt) + len(self._test) - len(y_test)
        return [
            row
            | {
                'fewer': {names.get(i, i): n for i, n in row['fewer'].items()},
                'skipped': skipped,
            }
            for row in rows
        ]

    def _check(self, train: Int[np.ndarray, ' n'], test: Int[np.ndarray, ' m']) -> None:
        names = self._train.class_names
        check(train, test, self._shots, self._seeds, self._l2_reg, names)


def few_shot_accuracies(
    predictor: 'Predictor',
    train: 'data.Subset',
    test: 'data.Subset',
    *,
    shots: Sequence[int] = SHOTS,
    seeds: int = SEEDS,
    l2_reg: float = L2_REG,
    **reading: Any,
) -> list[dict[str, Any]]:
    """Returns what `Protocol.accuracies` says of one model; arguments as there."""
    protocol = Protocol(train, test, shots=shots, seeds=seeds, l2_reg=l2_reg)
    return protocol.accuracies(predictor, **reading)


def _features(
    predictor: 'Predictor', source: 'data.Source', reading: dict[str, Any]
) -> tuple[Float[np.ndarray, 'n d'], Int[np.ndarray, ' n'], Int[np.ndarray, ' n']]:
    """Returns pre-logits, labels, and the places of the examples that decode."""
    from vit_jax.inference.predictor import PRE_LOGITS

    rows = list(predictor.outputs(source, [PRE_LOGITS], **reading))
    features, labels, places = (
        np.concatenate([row[name] for row in rows])
        for name in (PRE_LOGITS, 'label', 'index')
    )
    if features.ndim != 2:
        raise ValueError(
            f'the model gives features of shape {features.shape[1:]}, expected one '
            'vector per image: its classifier should be token or gap'
        )
    return np.float32(features), labels, places
