"""What two models said of the same images, image by image; and whether they differ.

Pairing is what makes small differences visible: most images are right, or wrong, for
both, and only those on which the two differ say anything.
"""

import dataclasses
import logging

import numpy as np
from jaxtyping import Float, Int

from vit_jax.evaluation.intervals import Z
from vit_jax.evaluation.judgement import Judgement

log = logging.getLogger(__name__)

# Resamples of a bootstrap: its ends are then sure to about a tenth of its width.
RESAMPLES = 2000
# Differences of images that are held at once.
_AT_ONCE = 20_000_000
SURE = 0.05


@dataclasses.dataclass(frozen=True)
class Difference:
    """How much more the second model has of something than the first.

    Attributes:
        name: of the metric.
        value: second minus first.
        low: the lower end of its 95 % interval.
        high: the upper end.
    """

    name: str
    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two models on the same images.

    Attributes:
        num_examples: that both have judged.
        only_first: right for the first model alone.
        only_second: right for the second model alone.
        p: of McNemar's exact test: how often chance alone would part the images on
            which the two differ as unevenly.
        accuracy: the difference, with the interval of Bonett and Price (2012).
        others: differences of the mean loss and the macro recall, with bootstrap
            intervals.
    """

    num_examples: int
    only_first: int
    only_second: int
    p: float
    accuracy: Difference
    others: tuple[Difference, ...] = ()


def aligned(first: Judgement, second: Judgement) -> tuple[Judgement, Judgement]:
    """Returns two judgements of the same images in the same order.

    Images that one of the two could not read are left out of both.

    Raises:
        ValueError: the images, their labels or the classes are not the same.
    """
    if first.class_names != second.class_names:
        more = sorted({*first.class_names} ^ {*second.class_names})[:3]
        raise ValueError(
            f'the two tell {len(first.class_names)} and {len(second.class_names)} '
            f'classes apart, and not the same ones{f": {more}" if more else ""}; '
            'compare models of the same classes in the same order'
        )
    places = [
        {name: place for place, name in enumerate(judgement.names)}
        for judgement in (first, second)
    ]
    shared = [name for name in first.names if name in places[1]]
    if first.num_source != second.num_source or len(shared) * 2 < len(first):
        raise ValueError(
            f'the two judged other images: {first.num_source} and {second.num_source}, '
            f'of which {len(shared)} have the same name. Judge both on the same: '
            'python -m vit_jax.evaluate REF --dataset DATA --split SPLIT --out DIR'
        )
    if left_out := len(first) + len(second) - 2 * len(shared):
        log.warning('%d images are left out: only one of the two judged them', left_out)
    found = []
    for judgement, place in zip((first, second), places, strict=True):
        rows = np.array([place[name] for name in shared], np.int64)
        columns = ('index', 'labels', 'likeliest', 'probabilities', 'losses')
        picked = {column: getattr(judgement, column)[rows] for column in columns}
        found.append(dataclasses.replace(judgement, names=shared, **picked))
    if (found[0].labels != found[1].labels).any():
        raise ValueError('the two judged the same images by other labels')
    return found[0], found[1]


def compare(first: Judgement, second: Judgement, seed: int = 0) -> Comparison:
    """Returns how two models differ on the images that both have judged.

    Args:
        first: what the first model said.
        second: what the second one said.
        seed: of the bootstrap.

    Raises:
        ValueError: see `aligned`.
    """
    first, second = aligned(first, second)
    only_first = int((first.correct & ~second.correct).sum())
    only_second = int((~first.correct & second.correct).sum())
    rng = np.random.default_rng(seed)
    return Comparison(
        num_examples=len(first),
        only_first=only_first,
        only_second=only_second,
        p=mcnemar(only_first, only_second),
        accuracy=accuracy_difference(only_first, only_second, len(first)),
        others=(_loss(first, second, rng), _macro_recall(first, second, rng)),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Returns the two-sided p of McNemar's exact test (McNemar, 1947).

    Under the hypothesis that the two are equally good, each image on which they differ
    is as likely to be right for one as for the other.
    """
    from scipy import stats

    differing = only_first + only_second
    if not differing:
        return 1.0
    return float(stats.binomtest(only_first, differing, 0.5).pvalue)


def accuracy_difference(only_first: int, only_second: int, count: int) -> Difference:
    """Returns the difference of two accuracies on the same images.

    The interval is that of Bonett and Price (2012, "Adjusted Wald confidence interval
    for a difference of binomial proportions based on paired data"): Wald's, with one
    more image on either side.
    """
    less, more = ((n + 1) / (count + 2) for n in (only_first, only_second))
    middle = more - less
    half = Z * np.sqrt((less + more - middle**2) / (count + 2))
    value = (only_second - only_first) / count if count else 0.0
    low, high = max(-1.0, middle - half), min(1.0, middle + half)
    return Difference('accuracy', value, min(value, low), max(value, high))


def _loss(first: Judgement, second: Judgement, rng: np.random.Generator) -> Difference:
    """Returns the difference of the mean losses."""
    difference = np.asarray(second.losses - first.losses, np.float64)
    count = len(difference)
    means: list[float] = []
    while len(means) < RESAMPLES:
        rows = min(RESAMPLES - len(means), max(1, _AT_ONCE // count))
        drawn = rng.integers(0, count, (rows, count), np.int32)
        means += difference[drawn].mean(axis=1).tolist()
    return Difference('loss', float(difference.mean()), *_middle(np.array(means)))


def _macro_recall(
    first: Judgement, second: Judgement, rng: np.random.Generator
) -> Difference:
    """Returns the difference of the mean recalls over the classes that occur.

    Images of one class that are right for the same models are alike: resamples are
    drawn by how many there are of each kind, and not image by image.
    """
    kinds = 4 * first.labels + 2 * first.correct + second.correct
    known, counts = np.unique(kinds, return_counts=True)
    labels, gain = known // 4, (known % 2) - (known // 2 % 2)
    classes, place = np.unique(labels, return_inverse=True)

    def difference(counts: Int[np.ndarray, 'r k']) -> Float[np.ndarray, ' r']:
        total = np.zeros((len(counts), len(classes)))
        gained = np.zeros_like(total)
        for kind, label in enumerate(place):
            total[:, label] += counts[:, kind]
            gained[:, label] += counts[:, kind] * gain[kind]
        occurs = total > 0
        return (gained / np.maximum(total, 1)).sum(axis=1) / occurs.sum(axis=1)

    drawn = rng.multinomial(len(kinds), counts / counts.sum(), RESAMPLES)
    value = float(difference(counts[None])[0])
    return Difference('macro recall', value, *_middle(difference(drawn)))


def _middle(values: Float[np.ndarray, ' r']) -> tuple[float, float]:
    """Returns the ends of the middle 95 %."""
    low, high = np.quantile(values, [SURE / 2, 1 - SURE / 2])
    return float(low), float(high)


def holm(p: list[float]) -> list[float]:
    """Returns p values that hold for several comparisons at once (Holm, 1979)."""
    adjusted, most = [0.0] * len(p), 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        most = max(most, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = most
    return adjusted


def verdict(comparison: Comparison, p: float, names: tuple[str, str]) -> str:
    """Returns in a sentence whether there is evidence that one is more accurate.

    Args:
        comparison: of the two.
        p: adjusted for the number of comparisons.
        names: of the first and the second.
    """
    if p < SURE:
        first_is_better = comparison.only_first > comparison.only_second
        better, worse = names if first_is_better else names[::-1]
        return f'There is evidence that {better} is better than {worse} (p = {p:.2g}).'
    return f'There is no evidence of a difference in accuracy (p = {p:.2g}).'
