"""The likeliest classes of images, one answer for each."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vit_jax.data.datasets.photos import Photos
    from vit_jax.inference.predictor import Predictor


@dataclasses.dataclass(frozen=True)
class Class:
    """One class that may be on a photo.

    Attributes:
        name: of the class; its number, where classes have no names.
        index: its number.
        probability: that the model gives to it.
    """

    name: str
    index: int
    probability: float


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a model says of one photo.

    Attributes:
        name: the photo's.
        classes: the likeliest ones, the likeliest first.
        reason: why there are none, or empty.
    """

    name: str
    classes: Sequence[Class] = ()
    reason: str = ''


def answers(
    predictor: 'Predictor',
    photos: 'Photos',
    *,
    top_k: int = 5,
    batch: int = 64,
    num_workers: int = 0,
) -> Iterator[Answer]:
    """Yields what a model says of photos, one after another, in their order.

    Classes are ordered by the logits, so that the first one is that of evaluation: the
    probabilities of two classes may round to the same number.

    Args:
        predictor: the model.
        photos: the photos.
        top_k: how many classes of each, at most.
        batch: photos at once.
        num_workers: as in `data.eval_batches`.

    Yields:
        An answer for every photo. One that cannot be read has a reason for it.

    Raises:
        ValueError: the model has no head, or gives what is no number.
    """
    import numpy as np

    from vit_jax.inference.predictor import top

    names = predictor.card.class_names

    def broken(start: int, stop: int) -> Iterator[Answer]:
        for i in range(start, stop):
            yield Answer(photos.names[i], reason=_why(predictor, photos, i))

    done = 0
    for found in predictor.outputs(
        photos,
        ('logits', 'probabilities'),
        batch=batch,
        num_workers=num_workers,
        skip_corrupt=True,
    ):
        columns = (found[key] for key in ('index', 'logits', 'probabilities'))
        for index, logits, probabilities in zip(*columns, strict=True):
            yield from broken(done, int(index))
            done = int(index) + 1
            name = photos.names[index]
            if not np.isfinite(probabilities).all():
                raise ValueError(
                    f'{name}: what the model gives is no number: its parameters are '
                    'damaged, or training has diverged'
                )
            order = [int(i) for i, _ in top(logits, None, top_k)]
            classes = [
                Class(names[i] if names else str(i), i, float(probabilities[i]))
                for i in order
            ]
            yield Answer(name, classes)
    yield from broken(done, len(photos))


def _why(predictor: 'Predictor', photos: 'Photos', index: int) -> str:
    """Returns why a photo was left out, by reading it once more."""
    from vit_jax import checkpoint, data

    try:
        example = photos[index]
        channels = checkpoint.num_channels(predictor.params)
        data.pixels(example['image'], example['name'], channels)
        # It decodes. The rest of the way takes ten times as long.
        for _ in predictor.outputs(data.Picked(photos, [index]), ('logits',)):
            pass
    except data.UndecodableImage as error:
        return error.reason
    return 'it could not be read when its turn came, but can be now'
