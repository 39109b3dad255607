"""Datasets of the Hugging Face `datasets` library: hf:owner/name or hf:/local/path."""

import contextlib
import hashlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, SupportsIndex

import numpy as np

from vit_jax.data import sources
from vit_jax.files import fetch, network
from vit_jax.runtime import extras

# Which feature is meant where a dataset has several of the right type.
_IMAGE_KEYS = ('image', 'img')
_LABEL_KEYS = ('label', 'labels', 'fine_label')


class HubSplit:
    """One split: rows of memory-mapped Arrow files, images left encoded."""

    def __init__(self, name: str, rows: Any, image_key: str, label_key: str):
        """Wraps a `datasets.Dataset`, of which it keeps two columns."""
        import datasets

        rows = rows.select_columns([image_key, label_key])
        self.name = name
        self._num_classes = rows.features[label_key].num_classes
        self._rows = rows.cast_column(image_key, datasets.Image(decode=False))
        self._image_key = image_key
        self._label_key = label_key

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: SupportsIndex) -> sources.Example:
        index = index.__index__()
        if not 0 <= index < len(self):
            raise IndexError(f'example {index} of {len(self)} in {self.name}')
        row = self._rows[index]
        image, label = row[self._image_key], row[self._label_key]
        name = f'{self.name}[{index}]'
        if image is None or label is None or not 0 <= label < self._num_classes:
            raise ValueError(
                f'{name}: expected an image and a label below {self._num_classes}, '
                f'found label {label} and {"no" if image is None else "an"} image; '
                'splits without labels cannot be used'
            )
        if image['path']:
            name = f'{name} {image["path"]}'
        # Datasets of folders keep paths instead of bytes.
        encoded = image['bytes'] or pathlib.Path(image['path']).read_bytes()
        return {'image': encoded, 'label': label, 'name': name}

    def fingerprint(self) -> str:
        """Returns a sha256 (hex) of all labels and of the first and last image.

        The library's own fingerprint depends on where the files lie.
        """
        labels = self._rows.select_columns([self._label_key]).with_format('numpy')[:]
        labels = np.asarray(labels[self._label_key], np.int64)
        ends = [self[i]['image'] for i in {0, len(self) - 1} if 0 <= i < len(self)]
        digests = [hashlib.sha256(data).hexdigest() for data in [labels, *ends]]
        return sources.sha256(len(self), sorted(digests))


def open_hub(name: str) -> sources.Dataset:
    """Opens a dataset of the hub or of a local directory.

    Args:
      name: 'owner/name', 'owner/name:config', or a directory that `save_to_disk`
        wrote or `load_dataset` understands (such as Parquet files).

    Raises:
      ValueError: the library is missing, nothing of that name, no images or labels.
    """
    extras.require('datasets', purpose=f'hf:{name}', install="'vit_jax[hf]'")
    try:
        loaded = _load(name)
    except Exception as error:  # of the library, the network or the files
        text = ' '.join(str(error).split())
        raise ValueError(
            f'hf:{name} cannot be loaded: {type(error).__name__}: {text}; expected '
            'owner/name, owner/name:config or a local directory'
        ) from error
    if not loaded:
        raise ValueError(f'hf:{name} has no splits')
    # Classes come from train; a dataset without it has one split, or no better one.
    first = 'train' if 'train' in loaded else next(iter(loaded))
    features = loaded[first].features
    image_key = _choose(features, 'Image', _IMAGE_KEYS, name)
    label_key = _choose(features, 'ClassLabel', _LABEL_KEYS, name)
    class_names = tuple(features[label_key].names)
    splits = {}
    for split, rows in loaded.items():
        label = rows.features.get(label_key)
        if tuple(getattr(label, 'names', ())) != class_names:
            raise ValueError(
                f'hf:{name}: split {split!r} has other classes than {first!r}: {label}'
            )
        splits[split] = HubSplit(f'hf:{name}/{split}', rows, image_key, label_key)
    return sources.Dataset(f'hf:{name}', splits, class_names)


def _load(name: str) -> Mapping[str, Any]:
    """Returns the splits as `datasets.Dataset`s."""
    import datasets

    path = pathlib.Path(name).expanduser()
    if path.is_dir():
        if (path / 'dataset_dict.json').is_file():
            return datasets.load_from_disk(str(path))
        if (path / 'state.json').is_file():
            return {'train': datasets.load_from_disk(str(path))}
        return datasets.load_dataset(str(path))
    if path.is_absolute() or name.startswith(('.', '~')):
        raise FileNotFoundError(f'no directory {path}')
    repository, _, config = name.partition(':')
    if not (reason := network.unreachable(fetch.hub_server())):
        return datasets.load_dataset(repository, config or None)
    try:
        with _offline():  # what was loaded before is here
            return datasets.load_dataset(repository, config or None)
    except Exception as error:
        raise ConnectionError(reason) from error


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Lets the libraries look only on this machine: they would try for half a minute.

    It is what HF_HUB_OFFLINE=1 does, which they read when they are imported.
    """
    import datasets
    import huggingface_hub

    places = datasets.config, huggingface_hub.constants
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = True
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _choose(
    features: Mapping[str, Any], kind: str, preferred: tuple[str, ...], name: str
) -> str:
    """Returns the name of the feature of a type, of several the preferred one."""
    found = [key for key, value in features.items() if type(value).__name__ == kind]
    for key in preferred:
        if key in found:
            return key
    if len(found) == 1:
        return found[0]
    listed = ', '.join(f'{key} ({type(v).__name__})' for key, v in features.items())
    raise ValueError(
        f'hf:{name}: expected one feature of type {kind}, or one of several named '
        f'{" or ".join(map(repr, preferred))}; found {listed}'
    )
