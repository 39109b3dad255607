"""Small pictures as a source, and batches of them with all options in one list."""

import dataclasses
import hashlib
import io
import itertools

import numpy as np
from PIL import Image

from vit_jax import data
from vit_jax.data.images.augment import Flip, RandomCrop

READING = tuple(field.name for field in dataclasses.fields(data.Reading))


@dataclasses.dataclass(frozen=True)
class Pictures:
    """A source of small JPEGs, all different; those in `corrupt` are truncated."""

    count: int
    corrupt: frozenset[int] = frozenset()
    class_names: tuple[str, ...] = ('even', 'odd')

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < self.count:
            raise IndexError(index)
        rng = np.random.default_rng(index)
        height, width = rng.integers(20, 60, 2)
        corners = rng.integers(0, 256, (3, 4, 3)).astype(np.uint8)
        image = Image.fromarray(corners).resize((width, height))
        file = io.BytesIO()
        image.save(file, 'JPEG', quality=95)
        data = file.getvalue()
        data = data[: len(data) // 2] if index in self.corrupt else data
        return {'image': data, 'label': index % 2, 'name': f'picture/{index}.jpg'}

    def fingerprint(self) -> str:
        return hashlib.sha256(str(self.count).encode()).hexdigest()


TRAIN = {'batch': 6, 'size': (13, 17), 'seed': 3}
EVAL = {'batch': 6, 'size': (13, 17)}


def take(batches, number: int) -> list[dict[str, np.ndarray]]:
    with batches:
        return list(itertools.islice(batches, number))


def assert_equal(found: list[dict], expected: list[dict]):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name], b[name])


def concatenate_hosts(hosts: list[list[dict]]) -> list[dict]:
    return [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*hosts, strict=True)
    ]


def reading(options: dict) -> data.Reading:
    """Takes what belongs to `Reading` out of the options."""
    return data.Reading(**{k: options.pop(k) for k in READING if k in options})


def train_batches(
    source, *, size, resize=None, channels=3, min_area=0.05, flip=True, **options
):
    operations = (RandomCrop(min_area), *([Flip()] if flip else []))
    augment = data.Augment(size, operations, resize, channels)
    return data.train_batches(source, augment, reading=reading(options), **options)


def eval_batches(source, *, batch, **options):
    how = reading(options)
    preprocess = data.Preprocess(**options)
    return data.eval_batches(source, preprocess, batch=batch, reading=how)
