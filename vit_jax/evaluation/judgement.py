"""What a model said of every example of a split, and what follows from it."""

import dataclasses
import functools
import json
import os
import pathlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int, Int32

from vit_jax import data
from vit_jax.checkpoint.class_names import as_named_by
from vit_jax.files import atomic
from vit_jax.inference.named import Named
from vit_jax.inference.predictor import Predictor

# Of each example the likeliest classes that are kept.
TOP = 5
# Bins of confidence, all of the same width, as in Guo et al., 2017.
_BINS = 15
_FORMAT, _VERSION = 'vit_jax predictions', 1
# The arrays of a judgement.
_COLUMNS = ('index', 'labels', 'likeliest', 'probabilities', 'losses')


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What a model said of the examples of a split, in the split's order.

    Attributes:
        source: the examples; None where they are not at hand.
        class_names: of the model, by index.
        index: (b,) the examples' places in the source; those that do not decode are
            missing.
        labels: (b,) the right classes, as the model counts them.
        likeliest: (b t) the classes that the model finds likeliest, the first first.
        probabilities: (b t) of these.
        losses: (b,) softmax cross-entropy.
        names: (b,) of the examples.
        num_source: of the examples, those that do not decode included.
        about: what is judged: checkpoint, dataset and split; plain JSON.
    """

    source: data.Source | None
    class_names: tuple[str, ...]
    index: Int[np.ndarray, ' b']
    labels: Int[np.ndarray, ' b']
    likeliest: Int[np.ndarray, 'b t']
    probabilities: Float[np.ndarray, 'b t']
    losses: Float[np.ndarray, ' b']
    names: Sequence[str]
    num_source: int
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_skipped(self) -> int:
        """How many examples do not decode."""
        return self.num_source - len(self)

    @property
    def predicted(self) -> Int[np.ndarray, ' b']:
        """The likeliest class of each example."""
        return self.likeliest[:, 0]

    @property
    def confidence(self) -> Float[np.ndarray, ' b']:
        """The probability that the model gives to what it predicts."""
        return self.probabilities[:, 0]

    @property
    def correct(self) -> np.ndarray:
        """Whether each prediction is right."""
        return self.predicted == self.labels

    def metrics(self) -> dict[str, Any]:
        """Returns the numbers that stand for the whole split.

        'accuracy' (top-1), 'top_5_accuracy' where there are more than five classes,
        'loss', 'calibration_error' (see `calibration`), 'num_examples', 'num_skipped'.
        """
        top = {}
        if len(self.class_names) > TOP:
            hits = (self.likeliest == self.labels[:, None]).any(axis=1)
            top = {'top_5_accuracy': float(hits.mean())}
        _, accuracy, confidence, part = self.calibration()
        return {
            'accuracy': float(self.correct.mean()),
            **top,
            'loss': float(self.losses.mean(dtype=np.float64)),
            'calibration_error': float(np.sum(part * np.abs(accuracy - confidence))),
            'num_examples': len(self),
            'num_skipped': self.num_skipped,
        }

    def calibration(
        self, bins: int = _BINS
    ) -> tuple[
        Float[np.ndarray, ' edges'],
        Float[np.ndarray, ' q'],
        Float[np.ndarray, ' q'],
        Float[np.ndarray, ' q'],
    ]:
        """Returns how often the model is right when it is so confident.

        The expected calibration error (Guo et al., 2017, equation 3) is the sum of
        part · |accuracy - confidence|.

        Returns:
            Edges of the bins of confidence; and of each bin: accuracy, mean
            confidence, and the part of the examples that are in it. Of an empty bin
            all three are 0.
        """
        edges = np.linspace(0, 1, bins + 1)
        # The bins are open below and closed above.
        bin_of = np.clip(np.searchsorted(edges, self.confidence) - 1, 0, bins - 1)
        counts = np.bincount(bin_of, minlength=bins)
        some = np.maximum(counts, 1)
        accuracy = np.bincount(bin_of, self.correct, bins) / some
        confidence = np.bincount(bin_of, self.confidence, bins) / some
        return edges, accuracy, confidence, counts / len(self)

    @functools.cached_property
    def confused(self) -> Int[np.ndarray, 'r 3']:
        """(right class, predicted class, how often), of all pairs that occur.

        This is the confusion matrix without its zeros: that of ImageNet-21k would take
        four gigabytes. The commonest first.
        """
        pairs = np.stack([self.labels, self.predicted], axis=1)
        found, counts = np.unique(pairs, axis=0, return_counts=True)
        return np.column_stack([found, counts])[np.argsort(-counts, kind='stable')]

    def confusion(self) -> Int[np.ndarray, 'y y']:
        """Returns how often an example of class i (row) was said to be j (column)."""
        matrix = np.zeros((len(self.class_names),) * 2, np.int64)
        right, predicted, counts = self.confused.T
        matrix[right, predicted] = counts
        return matrix

    def mistakes(self) -> Int[np.ndarray, ' m']:
        """Returns the places of wrong predictions, the most confident first."""
        wrong = np.flatnonzero(~self.correct)
        return wrong[np.argsort(-self.confidence[wrong], kind='stable')]

    def per_class(self) -> list[dict[str, Any]]:
        """Returns of each class that occurs or is predicted how well it is told.

        Dicts of class, num_examples, precision (of those said to be in the class, how
        many are), recall (of those in the class, how many are said to be) and f1, their
        harmonic mean. None where nothing is divided by nothing.
        """
        num_classes = len(self.class_names)
        examples = np.bincount(self.labels, minlength=num_classes)
        said = np.bincount(self.predicted, minlength=num_classes)
        right = np.bincount(self.labels[self.correct], minlength=num_classes)

        def part(count: int, total: int) -> float | None:
            return count / total if total else None

        return [
            {
                'class': self.class_names[i],
                'num_examples': int(examples[i]),
                'precision': part(int(right[i]), int(said[i])),
                'recall': part(int(right[i]), int(examples[i])),
                'f1': part(2 * int(right[i]), int(said[i] + examples[i])),
            }
            for i in np.flatnonzero(examples + said).tolist()
        ]

    def predictions(self) -> list[dict[str, Any]]:
        """Returns one row for each example: what it is and what the model said."""
        return [self.prediction(i) for i in range(len(self))]

    def prediction(self, place: int) -> dict[str, Any]:
        """Returns the row of one example, by its place in the arrays."""
        i = place
        return {
            'index': int(self.index[i]),
            'name': str(self.names[i]),
            'label': self.class_names[self.labels[i]],
            'prediction': self.class_names[self.predicted[i]],
            'probability': float(self.confidence[i]),
            'correct': bool(self.correct[i]),
            'loss': float(self.losses[i]),
        }

    def example(self, place: int) -> data.Example:
        """Returns an example by its place in the arrays."""
        return self.source[int(self.index[place])]

    def save(self, path: str | os.PathLike) -> None:
        """Writes all but the examples to an .npz, whole or not at all."""
        with atomic.replacing(path) as file:
            np.savez(
                file,
                format=np.array(_FORMAT),
                version=np.array(_VERSION),
                about=np.array(json.dumps(dict(self.about))),
                num_source=np.array(self.num_source),
                class_names=np.array(self.class_names, str),
                names=np.array(self.names, str),
                **{name: getattr(self, name) for name in _COLUMNS},
            )

    @classmethod
    def load(cls, path: str | os.PathLike) -> 'Judgement':
        """Reads what `save` has written; the examples are not at hand.

        Raises:
            ValueError: it is no such file, is damaged, or of a newer version.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f'{path} is no file of predictions: {error}') from error
        if str(arrays.pop('format', '')) != _FORMAT:
            raise ValueError(
                f'{path} holds no predictions: it was not written by python -m '
                'vit_jax.evaluate REF --out DIR'
            )
        if (version := int(arrays.pop('version', 0))) != _VERSION:
            raise ValueError(
                f'{path} has version {version} of the format; this vit_jax reads '
                f'version {_VERSION}. Update vit_jax, or evaluate again.'
            )
        expected = {*_COLUMNS, 'names', 'class_names', 'num_source', 'about'}
        if arrays.keys() != expected:
            raise ValueError(
                f'{path} is no whole file of predictions: expected '
                f'{", ".join(sorted(expected))}, found {", ".join(sorted(arrays))}'
            )
        return cls(
            source=None,
            class_names=tuple(arrays.pop('class_names').tolist()),
            names=arrays.pop('names').tolist(),
            num_source=int(arrays.pop('num_source')),
            about=json.loads(str(arrays.pop('about'))),
            **arrays,
        )

    def with_source(self, source: data.Source) -> 'Judgement':
        """Returns the judgement with its examples at hand.

        Raises:
            ValueError: there are more or fewer of them than were judged.
        """
        if len(source) != self.num_source:
            raise ValueError(
                f'{source!r} has {len(source)} examples, but {self.num_source} were '
                'judged: it is another split, or has changed'
            )
        return dataclasses.replace(self, source=source)


def is_saved(reference: str | os.PathLike) -> bool:
    """Returns whether a reference is a file that `Judgement.save` has written."""
    path = pathlib.Path(reference).expanduser()
    if path.suffix != '.npz' or not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        return 'format.npy' in file.namelist()


def predict_split(
    predictor: Predictor,
    source: data.Source,
    labels: Int32[np.ndarray, ' y'],
    *,
    batch: int = 128,
    num_workers: int = 0,
    skip_corrupt: bool = False,
    about: Mapping[str, Any] | None = None,
) -> Judgement:
    """Returns the predictions of a model for every example of a source.

    Args:
        predictor: the model.
        source: the examples, with labels.
        labels: the model's index of each class of the source; see
            `label_map`.
        batch: images at once.
        num_workers: as in `data.eval_batches`.
        skip_corrupt: leave out examples that do not decode.
        about: see `Judgement`.

    Raises:
        ValueError: the source has no examples, or none with labels; none decodes.
    """
    if not len(source):
        raise ValueError(f'{source!r} has no examples: name another split')
    card = predictor.card
    named, names = Named(source), []
    columns_of: dict[str, list] = {name: [] for name in _COLUMNS}
    for out in predictor.outputs(
        named,
        ['logits'],
        batch=batch,
        num_workers=num_workers,
        skip_corrupt=skip_corrupt,
        on_skip=data.tell_skipped,
    ):
        if (out['label'] < 0).any():
            raise ValueError(
                f'{source!r} has examples without labels, which cannot be judged: '
                'name another split'
            )
        right = labels[out['label']]
        columns = (out['index'], right, *_top_classes(out['logits'], right))
        for column, values in zip(columns_of.values(), columns, strict=True):
            column.append(values)
        names += [named.name(i) for i in out['index'].tolist()]
    arrays = {name: np.concatenate(values) for name, values in columns_of.items()}
    if not len(arrays['index']):
        raise ValueError('There is nothing to judge: none of the examples decodes.')
    return Judgement(
        source=source,
        class_names=tuple(card.class_names or map(str, range(card.num_classes))),
        names=names,
        num_source=len(source),
        about=about or {},
        **arrays,
    )


def _top_classes(
    logits: Float32[np.ndarray, 'b y'], labels: Int[np.ndarray, ' b']
) -> tuple[
    Int[np.ndarray, 'b t'], Float32[np.ndarray, 'b t'], Float32[np.ndarray, ' b']
]:
    """Returns the likeliest classes, their probabilities, and the losses."""
    count = min(TOP, logits.shape[1])
    likeliest = np.argpartition(-logits, count - 1, axis=1)[:, :count]
    values = np.take_along_axis(logits, likeliest, axis=1)
    order = np.lexsort((likeliest, -values), axis=1)
    likeliest = np.take_along_axis(likeliest, order, axis=1)
    # Of classes that are equally likely, as all are before training, the first one
    # counts, as in training; a partition may have left it out.
    first = logits.argmax(axis=1)
    for row in np.flatnonzero(likeliest[:, 0] != first):
        others = likeliest[row][likeliest[row] != first[row]]
        likeliest[row] = [first[row], *others[: count - 1]]
    largest = logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits - largest).sum(axis=1, keepdims=True)) + largest
    values = np.take_along_axis(logits, likeliest, axis=1)
    losses = log_sum[:, 0] - np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return likeliest, np.exp(values - log_sum), losses


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
