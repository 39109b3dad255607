"""Folders of images and CSV manifests, listed in packed strings."""

import contextlib
import csv
import ctypes
import hashlib
import operator
import os
import pathlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import SupportsIndex

import numpy as np
from absl import logging
from jaxtyping import Int, Int32, UInt32, UInt64

from vit_jax.data import sources
from vit_jax.data.datasets.packed_strings import PackedStrings
from vit_jax.words import suggest

# fmt: off
EXTENSIONS = frozenset({
    '.avif', '.bmp', '.gif', '.jfif', '.jpe', '.jpeg', '.jpg', '.npy', '.pbm', '.pgm',
    '.png', '.pnm', '.ppm', '.tif', '.tiff', '.webp',
})
# fmt: on
_SPLITS = {
    'train': 'train',
    'val': 'validation',
    'validation': 'validation',
    'test': 'test',
}
_ALIASES = {'val': 'validation'}
# So many files of a manifest are looked for when it is opened: enough to notice a wrong
# directory at once, little enough for a network disk.
_CHECKED_ROWS = 1000


def open_folder(path: str | os.PathLike, *, holdout: float = 0.1) -> sources.Dataset:
    """Opens a folder of images as a dataset.

    Two layouts: `train/<class>/…` with `val/` or `validation/` and `test/` beside it
    where they exist, or `<class>/…`, of which a part of each class becomes the splits
    'validation' and 'test'. Images may lie deeper inside their class; their extension
    may be in any case. Hidden files and folders are ignored, links are followed.

    Which files are held out, and the order inside a split, follow from hashes of the
    relative paths: equal wherever the folder lies, and any slice such as `train[90%:]`
    is a fair sample.

    Args:
      path: the folder.
      holdout: part of each class for 'validation', and as much for 'test', where the
        folder has no splits of its own; below ½. At least one image each of a class of
        three or more; 0 leaves all in 'train'.

    Raises:
      ValueError: no images; a class without images; a class in another split that is
        not in train.
    """
    root = pathlib.Path(path)
    folders = _folders(root)
    by_split: dict[str, str] = {}
    for name in folders:
        split = _SPLITS.get(name.lower())
        if split in by_split:
            raise ValueError(
                f'{root}: found both {by_split[split]!r} and {name!r}, expected one '
                f'folder for the split {split!r}'
            )
        if split:
            by_split[split] = name
    if not by_split:
        return _pack(str(root), {'all': _list(root, '')}, holdout)
    if 'train' not in by_split:
        raise ValueError(
            f'{root}: found {", ".join(sorted(by_split.values()))} but no train, '
            'expected train/<class>/<images>, or one folder of classes none of which '
            'is called val, validation or test'
        )
    listings = {split: _list(root, name) for split, name in sorted(by_split.items())}
    return _pack(str(root), listings, holdout)


def open_manifest(path: str | os.PathLike, *, holdout: float = 0.1) -> sources.Dataset:
    """Opens a CSV file that lists images.

    The first row names the columns: `path`, relative to the CSV file or absolute;
    `label`, the name of the class; and optionally `split`: train, val, validation or
    test. Others are ignored. Order and held-out files as in `open_folder`.

    Args:
      path: the CSV file, UTF-8.
      holdout: as in `open_folder`, where there is no column `split`.

    Raises:
      ValueError: missing columns; an incomplete row; unknown split; a class in another
        split that is not in train; a file among the first rows that does not exist.
    """
    path = pathlib.Path(path)
    return _pack(str(path), _read_manifest(path), holdout)


class Files:
    """A reader of image files: one whole split.

    Attributes:
      root: what the directories are relative to.
      labels: of all files, in their order.
    """

    def __init__(
        self,
        root: str,
        directories: PackedStrings,
        directory: UInt32[np.ndarray, ' n'],
        names: PackedStrings,
        labels: Int32[np.ndarray, ' n'],
    ):
        self.root = root
        self._directories = directories
        self._directory = directory  # of each file
        self._names = names
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: SupportsIndex) -> sources.Example:
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f'file {index} of {len(self)} in {self.root}')
        path = self.path(index)
        with open(path, 'rb') as file:
            data = file.read()
        return {'image': data, 'label': int(self.labels[index]), 'name': path}

    def path(self, index: int) -> str:
        """Returns the path of a file."""
        directory = os.fsdecode(self._directories[int(self._directory[index])])
        return os.path.join(self.root, directory, os.fsdecode(self._names[index]))

    def fingerprint(self) -> str:
        """Returns a sha256 (hex) of relative paths and labels, in order."""
        digest = hashlib.sha256(b'files')
        for values in (
            self._directories.blob,
            self._directories.ends,
            self._directory,
            self._names.blob,
            self._names.ends,
            self.labels,
        ):
            digest.update(f'{values.dtype.str}{len(values)}'.encode())
            digest.update(values.tobytes())
        return digest.hexdigest()


class _Listing:
    """Files as they are found, in no particular order; `label` is one of `labels`."""

    def __init__(self, root: str):
        self.root = root
        self.labels: dict[str, int] = {}
        self.first_row: dict[str, int] = {}  # label -> row of a manifest
        self._directory_ids: dict[str, int] = {}
        self._names = bytearray()
        self._ends = array('Q')
        self._directory = array('I')
        self._label = array('i')
        self._digests = bytearray()

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, directory: str, names: Iterable[str], label: str) -> int:
        """Adds files of a directory and returns their number."""
        before = len(self)
        number = self._directory_ids.setdefault(directory, len(self._directory_ids))
        index = self.labels.setdefault(label, len(self.labels))
        hasher = hashlib.blake2b(os.fsencode(directory) + b'/', digest_size=16)
        for name in names:
            name_bytes = os.fsencode(name)
            self._names += name_bytes
            self._ends.append(len(self._names))
            self._directory.append(number)
            self._label.append(index)
            path_hasher = hasher.copy()
            path_hasher.update(name_bytes)
            self._digests += path_hasher.digest()
        return len(self) - before

    def hashes(self) -> UInt64[np.ndarray, 'n 2']:
        """Returns two independent hashes of each path: for order, for holding out."""
        return np.frombuffer(self._digests, '<u8').reshape(-1, 2)

    def label_indices(self, class_names: Sequence[str]) -> Int32[np.ndarray, ' n']:
        """Returns the place of each file's label in `class_names`."""
        place = {name: i for i, name in enumerate(class_names)}
        places = np.array([place[label] for label in self.labels], np.int32)
        return places[np.frombuffer(self._label, np.int32)]

    def files(
        self, chosen: Int[np.ndarray, ' m'], labels: Int32[np.ndarray, ' n']
    ) -> Files:
        """Returns a reader of chosen files, in the order of their hashes."""
        order = chosen[np.argsort(self.hashes()[chosen, 0], kind='stable')]
        names = np.frombuffer(self._names, np.uint8)
        names = PackedStrings(
            names, np.frombuffer(self._ends, np.uint64).view(np.int64)
        )
        # Only the directories that occur, sorted: whatever order they were found in.
        found = list(self._directory_ids)
        directory = np.frombuffer(self._directory, np.uint32)[order]
        used = sorted(np.unique(directory), key=found.__getitem__)
        places = np.zeros(len(found), np.uint32)
        places[used] = np.arange(len(used))
        encoded = [os.fsencode(found[number]) for number in used]
        directories = PackedStrings(
            np.frombuffer(b''.join(encoded), np.uint8),
            np.cumsum([len(name) for name in encoded], dtype=np.int64),
        )
        return Files(
            self.root, directories, places[directory], names.take(order), labels[order]
        )


def _pack(name: str, listings: dict[str, _Listing], holdout: float) -> sources.Dataset:
    """Returns a dataset of listings by split; empties the dict."""
    count = sum(map(len, listings.values()))
    dataset = _dataset(name, listings, holdout)
    listings.clear()
    if count > 100_000:
        # glibc would keep the freed listings, twice the size of the dataset.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
    return dataset


def _dataset(
    name: str, listings: dict[str, _Listing], holdout: float
) -> sources.Dataset:
    """Returns a dataset of listings by split; 'all' is to be split."""
    train = listings.get('train', listings.get('all'))
    if not train:
        raise ValueError(f'{name}: found no training images')
    class_names = sorted(train.labels)
    for split, listing in listings.items():
        for label in listing.labels:
            if label not in train.labels:
                row = listing.first_row.get(label)
                where = '' if row is None else f' (row {row})'
                hint = suggest.did_you_mean(label, class_names, count=1)
                raise ValueError(
                    f'{name}: found the class {label!r} in {split}{where} but not in '
                    f'train, whose {len(class_names)} classes are the ones a model '
                    f'learns.{hint}'
                )
    readers = {}
    for split, listing in listings.items():
        labels = listing.label_indices(class_names)
        chosen = {split: np.arange(len(listing))}
        if split == 'all':
            chosen = _hold_out(labels, listing.hashes()[:, 1], holdout)
        for part, indices in chosen.items():
            if len(indices):
                readers[part] = listing.files(indices, labels)
    return sources.Dataset(name, readers, class_names, aliases=_ALIASES)


def _hold_out(
    labels: Int32[np.ndarray, ' n'], hashes: UInt64[np.ndarray, ' n'], part: float
) -> dict[str, Int[np.ndarray, ' m']]:
    """Returns the indices of train, validation and test, stratified by label."""
    if not 0 <= part < 0.5:
        raise ValueError(
            f'found holdout={part}, expected a part of each class for validation and '
            'as much for test: at least 0 and below 0.5'
        )
    order = np.lexsort((hashes, labels))
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    parts: dict[str, list] = {'train': [], 'validation': [], 'test': []}
    for group in groups:
        held = 0
        if part and len(group) >= 3:
            held = min(max(1, round(part * len(group))), (len(group) - 1) // 2)
        parts['test'].append(group[:held])
        parts['validation'].append(group[held : 2 * held])
        parts['train'].append(group[2 * held :])
    return {name: np.concatenate(indices) for name, indices in parts.items()}


def _folders(path: pathlib.Path) -> list[str]:
    """Returns the names of the visible folders in one, sorted."""
    with os.scandir(path) as entries:
        return sorted(e.name for e in entries if e.name[0] != '.' and e.is_dir())


def _list(root: pathlib.Path, split: str) -> _Listing:
    """Lists `<root>/<split>/<class>/…`."""
    listing = _Listing(str(root))
    folders = _folders(root / split)
    with os.scandir(root / split) as entries:
        strays = sum(_is_image(entry) for entry in entries)
    if strays and not folders:
        raise ValueError(
            f'{root / split}: found {strays} images and no folders, expected one '
            'folder per class, which gives them their labels'
        )
    if strays:
        logging.warning(
            '%s: %d images beside the class folders are ignored', root / split, strays
        )
    if not folders:
        raise ValueError(
            f'{root / split}: found no folders, expected one per class with images in '
            'it'
        )
    empty = []
    for label in folders:
        found = 0
        for directory in _walk(str(root), os.path.join(split, label), ()):
            with os.scandir(root / directory) as entries:
                names = (entry.name for entry in entries if _is_image(entry))
                found += listing.add(directory, names, label)
        if not found:
            empty.append(label)
    if empty:
        raise ValueError(
            f'{root / split}: found no images in {len(empty)} of {len(folders)} class '
            f'folders: {", ".join(map(repr, empty[:5]))}{" …" * (len(empty) > 5)}; '
            f'expected files such as {", ".join(sorted(EXTENSIONS)[3:8])}. Remove '
            'empty folders, or put their images back'
        )
    return listing


def _walk(root: str, directory: str, above: tuple) -> Iterator[str]:
    """Yields a directory and those below it, relative to root; follows links."""
    status = os.stat(os.path.join(root, directory))
    here = (status.st_dev, status.st_ino)
    if here in above:  # a link to a directory that it lies in
        return
    yield directory
    for name in _folders(pathlib.Path(root, directory)):
        yield from _walk(root, os.path.join(directory, name), (*above, here))


def _is_image(entry: os.DirEntry) -> bool:
    name = entry.name
    # A link to nothing counts: reading it gives an error, and skipping it would not.
    return (
        name[max(0, name.rfind('.')) :].lower() in EXTENSIONS
        and name[0] != '.'
        and not entry.is_dir()
    )


def _read_manifest(path: pathlib.Path) -> dict[str, _Listing]:
    """Reads the rows of a manifest into listings by split."""
    root = str(path.parent)
    listings: dict[str, _Listing] = {}
    with path.open(encoding='utf-8-sig', newline='') as file:
        rows = csv.reader(file, skipinitialspace=True)
        header = [name.strip().lower() for name in next(rows, [])]
        if not {'path', 'label'} <= {*header}:
            raise ValueError(
                f'{path}: found the columns {", ".join(header) or "(none)"}, expected '
                'path, label and optionally split in the first row'
            )
        for count, values in enumerate(rows):
            if not values:  # an empty line
                continue
            row = f'{path}, row {rows.line_num}'
            if len(values) != len(header):
                raise ValueError(
                    f'{row}: found {len(values)} values for {len(header)} columns'
                )
            record = dict(zip(header, map(str.strip, values), strict=True))
            for column in ('path', 'label'):
                if not record[column]:
                    raise ValueError(f'{row}: found no {column}')
            split = _SPLITS.get(record.get('split', 'all').lower())
            if 'split' in record and split is None:
                raise ValueError(
                    f'{row}: found the split {record["split"]!r}, expected train, val, '
                    'validation or test'
                )
            name = record['path']
            if count < _CHECKED_ROWS and not os.path.exists(os.path.join(root, name)):
                raise ValueError(
                    f'{row}: the file {name!r} does not exist; expected a path '
                    f'relative to {root}'
                )
            listing = listings.setdefault(split or 'all', _Listing(root))
            listing.first_row.setdefault(record['label'], rows.line_num)
            directory, name = os.path.split(name)
            listing.add(directory, [name], record['label'])
    return listings
