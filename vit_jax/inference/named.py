"""A source of images that remembers the names of what has been read."""

import operator
from typing import SupportsIndex

from vit_jax import data


class Named:
    """A source that knows the names of what has been read, where threads read it.

    So that nothing is read once more for its name.
    """

    def __init__(self, source: data.Source):
        self.class_names = source.class_names
        self._source = source
        self._names: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: SupportsIndex) -> data.Example:
        example = self._source[index]
        self._names[operator.index(index)] = example['name']
        return example

    def fingerprint(self) -> str:
        """Returns that of the source."""
        return self._source.fingerprint()

    def name(self, index: int) -> str:
        """Returns the name of an example, and forgets it."""
        # Worker processes keep what they have read for themselves.
        name = self._names.pop(index, None)
        return self._source[index]['name'] if name is None else name
