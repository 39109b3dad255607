"""Where examples come from: one protocol, and what opens each kind of dataset.

A *reader* gives random access to one whole split; a `Dataset` holds the readers of
all splits; a *source* is what a split string selects from them. Readers and sources
travel to worker processes by pickle, so they keep paths and reopen files lazily.
"""

import bisect
import hashlib
import itertools
import json
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import NotRequired, Protocol, SupportsIndex, TypedDict, runtime_checkable

import numpy as np
from jaxtyping import Int32, UInt8

from vit_jax.data import splits as splits_lib


class Example(TypedDict):
    """One labelled image."""

    image: bytes | UInt8[np.ndarray, 'h w c']  # an encoded file, or pixels
    label: int  # index into class_names
    name: str  # file path or id, for messages
    full_size: NotRequired[tuple[int, int]]  # before a cache shrank it


@runtime_checkable
class Reader(Protocol):
    """Random access to one whole split."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: SupportsIndex) -> Example: ...

    def fingerprint(self) -> str:
        """Returns a sha256 (hex) of what the list of examples is, without reading it.

        Equal for equal lists, wherever the files lie.
        """
        ...


@runtime_checkable
class Source(Reader, Protocol):
    """Random access to what a split string selects."""

    class_names: tuple[str, ...]


class Subset:
    """A source: ranges of examples of readers, one after another."""

    def __init__(
        self,
        parts: Sequence[tuple[Reader, int, int]],
        class_names: tuple[str, ...],
        name: str = '',
    ):
        self.class_names = class_names
        self.name = name
        self._parts: list[tuple[Reader, int, int]] = []
        for reader, start, stop in parts:
            # 'train[:50]+train[50:]' is the same list as 'train'.
            if self._parts and self._parts[-1][0] is reader:
                _, last_start, last_stop = self._parts[-1]
                if last_stop == start:
                    self._parts[-1] = (reader, last_start, stop)
                    continue
            if stop > start:
                self._parts.append((reader, start, stop))
        lengths = [stop - start for _, start, stop in self._parts]
        self._ends = list(itertools.accumulate(lengths))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: SupportsIndex) -> Example:
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f'example {index} of {len(self)} in {self.name!r}')
        index %= len(self)
        part = bisect.bisect_right(self._ends, index)
        reader, _, stop = self._parts[part]
        return reader[stop - (self._ends[part] - index)]

    def __repr__(self) -> str:
        return f'Subset({self.name!r}, {len(self)} examples)'

    @property
    def labels(self) -> Int32[np.ndarray, ' n']:
        """The labels of all examples; read with their images where need be."""
        return np.concatenate(
            [
                np.asarray(reader.labels[start:stop], np.int32)
                if hasattr(reader, 'labels')
                else np.array([reader[i]['label'] for i in range(start, stop)], 'int32')
                for reader, start, stop in self._parts
            ]
            or [np.zeros(0, np.int32)]
        )

    def paths(self) -> list[str]:
        """The files of the examples, of readers that read files."""
        return [
            reader.path(i)
            for reader, start, stop in self._parts
            if hasattr(reader, 'path')
            for i in range(start, stop)
        ]

    def num_shared(self, other: 'Subset') -> int:
        """Returns how many examples of the same dataset are in this and the other."""
        return sum(
            max(0, min(stop, other_stop) - max(start, other_start))
            for reader, start, stop in self._parts
            for other_reader, other_start, other_stop in other._parts
            if reader is other_reader
        )

    def fingerprint(self) -> str:
        """Returns a sha256 (hex) of which examples these are, in which order."""
        ranges = [(r.fingerprint(), start, stop) for r, start, stop in self._parts]
        return sha256(self.class_names, ranges)


class Picked:
    """A source: some examples of another one.

    Attributes:
      places: of the examples in the other source, in the order in which they come.
    """

    def __init__(self, source: Source, places: Iterable[int]):
        self.class_names = source.class_names
        self.places = tuple(int(place) for place in places)
        self._source = source

    @classmethod
    def spread(cls, source: Source, count: int) -> 'Picked':
        """Returns at most `count` examples from all over a source, in its order.

        The first ones of a folder would all be of one class.
        """
        count = min(count, len(source))
        return cls(source, [i * len(source) // count for i in range(count)])

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: SupportsIndex) -> Example:
        return self._source[self.places[operator.index(index)]]

    def __repr__(self) -> str:
        return f'{len(self)} examples of {self._source!r}'

    def fingerprint(self) -> str:
        """Returns a sha256 (hex) of which examples these are, in which order."""
        return sha256(self._source.fingerprint(), self.places)


class Dataset:
    """The splits of one dataset and the names of its classes.

    Attributes:
      name: what the dataset is called in messages.
      splits: split name -> number of examples.
      class_names: one per class, from the training examples alone.
    """

    def __init__(
        self,
        name: str,
        readers: Mapping[str, Reader],
        class_names: Sequence[str],
    ):
        """Makes a dataset of one reader per split.

        A split that is called otherwise in the wild, as 'valid' or 'dev', goes by its
        usual name where nothing else does; see `splits.canonical`.

        Args:
          name: what the dataset is called in messages.
          readers: split name -> reader of the whole split.
          class_names: one per class.
        """
        self.name = name
        self.class_names = tuple(class_names)
        usual = [splits_lib.canonical(split) or split for split in readers]
        if len({*usual}) < len(usual):
            usual = readers
        self._readers = dict(zip(usual, readers.values(), strict=True))
        self.splits = {split: len(reader) for split, reader in self._readers.items()}

    def __repr__(self) -> str:
        return f'Dataset({self.name!r}, {self.splits}, {len(self.class_names)} classes)'

    def source(self, split: str) -> Subset:
        """Returns the source of a split string such as 'train[:98%]'.

        Raises:
          ValueError: unknown split or malformed string.
        """
        try:
            ranges = splits_lib.parse(split, self.splits)
        except ValueError as error:
            raise ValueError(f'{self.name}: {error}') from None
        parts = [(self._readers[name], start, stop) for name, start, stop in ranges]
        return Subset(parts, self.class_names, name=f'{self.name}: {split}')

    def unused(self, *chosen: str) -> dict[str, int]:
        """The splits, with their sizes, that none of the split strings names."""
        used = {name for s in chosen for name, _, _ in splits_lib.parse(s, self.splits)}
        return {name: n for name, n in self.splits.items() if name not in used}

    def complement(self, split: str) -> str | None:
        """Returns what a split string leaves out, see `splits.complement`."""
        try:
            return splits_lib.complement(split, self.splits)
        except ValueError as error:
            raise ValueError(f'{self.name}: {error}') from None


def sha256(*values) -> str:
    """Returns the sha256 (hex) of values that JSON can write."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
