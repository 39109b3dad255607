"""Byte strings in one array: a million paths as Python's objects take over 100 MB."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt8


class PackedStrings(Sequence):
    """Byte strings, one after another in one array."""

    def __init__(self, blob: UInt8[np.ndarray, ' bytes'], ends: Int[np.ndarray, ' n']):
        small = len(blob) < 1 << 32
        self.blob = blob
        self.ends = ends.astype(np.uint32 if small else np.uint64)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> bytes:
        start = self.ends[index - 1] if index else 0
        return self.blob[start : self.ends[index]].tobytes()

    def take(self, indices: Int[np.ndarray, ' m']) -> 'PackedStrings':
        """Returns the strings at `indices`, in that order."""
        lengths = np.diff(self.ends, prepend=self.ends.dtype.type(0))[indices]
        ends = np.cumsum(lengths, dtype=np.int64)
        blob = np.empty(ends[-1] if len(ends) else 0, np.uint8)
        for i in range(0, len(indices), 8192):  # bounds the temporary indices
            part = slice(i, i + 8192)
            # From where each byte comes: its place in its string, after the start.
            starts = self.ends[indices[part]] - lengths[part]
            first = ends[i] - lengths[i]
            shift = starts.astype(np.int64) - (ends[part] - lengths[part])
            places = np.arange(first, ends[part][-1])
            blob[places] = self.blob[places + np.repeat(shift, lengths[part])]
        return PackedStrings(blob, ends)
