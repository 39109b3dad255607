"""Rows: what a parameter is called in another library, what here, and the difference.

The same rows read and write. `{i}` is the number of an encoder block; `{s}` and `{u}`
are stage and unit of a ResNet root: they count from 1 here and from 0 there.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]


class Change(NamedTuple):
    """How an array there becomes one here, and back.

    Attributes:
      shape: from the shape there and the number of attention heads to the shape here;
        None if no array here comes of it.
      read: from the array there, and the shape here.
      write: the inverse.
      there: from the shape here to the shape there.
    """

    shape: Callable[[Shape, int], Shape | None]
    read: Callable[[np.ndarray, Shape], np.ndarray]
    write: Callable[[np.ndarray], np.ndarray]
    there: Callable[[Shape], Shape]


def _split(width: int, heads: int) -> Shape | None:
    return (heads, width // heads) if heads and width % heads == 0 else None


def _heads_in(shape: Shape, heads: int) -> Shape | None:
    split = _split(shape[0], heads) if len(shape) == 2 else None
    return split and (shape[1], *split)


def _heads_out(shape: Shape, heads: int) -> Shape | None:
    split = _split(shape[1], heads) if len(shape) == 2 else None
    return split and (*split, shape[0])


SAME = Change(lambda s, _: s, lambda x, _: x, lambda x: x, lambda s: s)
# A PyTorch kernel is (out, in), ours (in, out).
DENSE = Change(
    lambda s, _: s[::-1] if len(s) == 2 else None,
    lambda x, _: x.T,
    lambda x: x.T,
    lambda s: s[::-1],
)
# OIHW, ours HWIO.
CONV = Change(
    lambda s, _: (s[2], s[3], s[1], s[0]) if len(s) == 4 else None,
    lambda x, _: x.transpose(2, 3, 1, 0),
    lambda x: x.transpose(3, 2, 0, 1),
    lambda s: (s[3], s[2], s[0], s[1]),
)
# Into query, key or value: (heads · e, d), ours (d, heads, e); and its bias.
HEADS_IN = Change(
    _heads_in,
    lambda x, shape: x.T.reshape(shape),
    lambda x: x.reshape(len(x), -1).T,
    lambda s: (s[1] * s[2], s[0]),
)
HEADS_BIAS = Change(
    lambda s, heads: _split(s[0], heads) if len(s) == 1 else None,
    lambda x, shape: x.reshape(shape),
    lambda x: x.reshape(-1),
    lambda s: (s[0] * s[1],),
)
# Out of all heads: (d, heads · e), ours (heads, e, d).
HEADS_OUT = Change(
    _heads_out,
    lambda x, shape: x.T.reshape(shape),
    lambda x: x.reshape(-1, x.shape[-1]).T,
    lambda s: (s[2], s[0] * s[1]),
)


class Row(NamedTuple):
    """A parameter there and here; `part` of 3 where theirs holds three of ours."""

    theirs: str
    ours: str
    change: Change
    part: int | None = None
    optional: bool = False


def pair(theirs: str, ours: str, change: Change, optional: bool = False) -> list[Row]:
    """Returns the rows of a layer: its weight and its bias."""
    leaf = 'scale' if change is SAME else 'kernel'
    return [
        Row(f'{theirs}.weight', f'{ours}/{leaf}', change, optional=optional),
        Row(f'{theirs}.bias', f'{ours}/bias', SAME, optional=optional),
    ]


BLOCK = 'Transformer/encoderblock_{i}'
ATTENTION = f'{BLOCK}/MultiHeadDotProductAttention_0'
QKV = ('query', 'key', 'value')
