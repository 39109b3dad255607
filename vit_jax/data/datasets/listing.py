"""Files with labels, listed in packed strings: what folders and manifests become."""

import contextlib
import ctypes
import hashlib
import operator
import os
from array import array
from collections.abc import Iterable, Sequence
from typing import SupportsIndex

import numpy as np
from jaxtyping import Int, Int32, UInt32, UInt64

from vit_jax.data import sources
from vit_jax.data.datasets.packed_strings import PackedStrings
from vit_jax.words import suggest


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


class Listing:
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


def pack(name: str, listings: dict[str, Listing], holdout: float) -> sources.Dataset:
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
    name: str, listings: dict[str, Listing], holdout: float
) -> sources.Dataset:
    """Returns a dataset of listings by split; 'all' is to be split."""
    # What a model learns is in train; without one, there is only judging.
    first = next((s for s in ('train', 'all', *listings) if listings.get(s)), None)
    if first is None:
        raise ValueError(f'{name}: found no images')
    class_names = sorted(listings[first].labels)
    for split, listing in listings.items():
        for label in listing.labels:
            if label not in listings[first].labels:
                row = listing.first_row.get(label)
                where = '' if row is None else f' (row {row})'
                hint = suggest.did_you_mean(label, class_names, count=1)
                raise ValueError(
                    f'{name}: found the class {label!r} in {split}{where} but not in '
                    f'{first}, whose {len(class_names)} classes are the ones a model '
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
    return sources.Dataset(name, readers, class_names)


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
