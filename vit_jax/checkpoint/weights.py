"""What every file of weights looks like to the rest of the package."""

import abc
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import ml_dtypes
import numpy as np
from flax import traverse_util

from vit_jax import models
from vit_jax.checkpoint.card import ModelCard

# Side of the blocks in which a matrix is transposed: two fit in the first cache.
_BLOCK = 64


class Weights(Mapping, abc.ABC):
    """Parameters in a file, each read when asked for.

    Maps today's names (`Transformer/encoderblock_0/…`) to `np.ndarray`, whatever the
    file calls them. Opening reads names, shapes and dtypes only. Use it as a context
    manager or `close()`.

    Attributes:
      path: the file or folder.
      card: what came with the weights and tells how to use them, or None.
    """

    path: pathlib.Path
    card: ModelCard | None = None

    @abc.abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of an array without reading it."""

    @abc.abstractmethod
    def dtype(self, name: str) -> np.dtype:
        """Returns the dtype of an array without reading it."""

    def close(self) -> None:
        """Closes the file; its arrays can no longer be read."""

    def __enter__(self) -> 'Weights':
        return self

    def __exit__(self, *exc) -> None:
        self.close()


class TreeWeights(Weights):
    """Parameters in memory, seen as weights: blocks unstacked, fetched one at a time.

    Args:
      params: nested dict of numpy or JAX arrays; blocks may be stacked.
      card: how to use them.

    Raises:
      ValueError: there are none, or (when asked for) a leaf is no array of numbers or
        lies on several hosts.
    """

    path = pathlib.Path('parameters')

    def __init__(self, params: Mapping[str, Any], card: ModelCard | None = None):
        self.card = card
        leaves = traverse_util.flatten_dict(dict(params), sep='/')
        # Name -> the leaf that holds the array, and the array's place in it.
        self._places: dict[str, tuple[str, Any, int | None]] = {}
        for name, leaf in leaves.items():
            stacked = layers(name, np.shape(leaf))
            for i, layer in enumerate(stacked):
                self._places[layer] = (name, leaf, i)
            if not stacked:
                self._places[name] = (name, leaf, None)

    def __getitem__(self, name: str) -> np.ndarray:
        stacked, leaf, i = self._places[name]
        return to_host(stacked, leaf if i is None else leaf[i])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """See `Weights`."""
        _, leaf, i = self._places[name]
        return np.shape(leaf) if i is None else np.shape(leaf)[1:]

    def dtype(self, name: str) -> np.dtype:
        """See `Weights`."""
        stacked, leaf, _ = self._places[name]
        return leaf.dtype if hasattr(leaf, 'dtype') else to_host(stacked, leaf).dtype


def layers(name: str, shape: tuple[int, ...]) -> list[str]:
    """Returns the published names of a leaf's layers, or [] if it is not stacked."""
    if not shape:
        return []
    # Which layer goes where is known to models.unstack alone: send numbers through it.
    tree = traverse_util.unflatten_dict({name: np.arange(shape[0])}, sep='/')
    numbers = traverse_util.flatten_dict(models.unstack(tree), sep='/')
    return [] if name in numbers else sorted(numbers, key=numbers.__getitem__)


def to_host(name: str, leaf: Any) -> np.ndarray:
    """Fetches one array of numbers.

    Raises:
      ValueError: it is none, or lies on several hosts.
    """
    if isinstance(leaf, jax.Array):
        # A JAX array keeps the host copy that was made of it. The copy is taken of a
        # copy, so that the host never holds all parameters.
        if leaf.is_fully_replicated:
            leaf = leaf.addressable_data(0).copy()
        elif leaf.is_fully_addressable:
            leaf = leaf.copy()
        else:
            raise ValueError(
                f'{name} is spread over several hosts; gather it before saving, for '
                'instance by jit with replicated out_shardings'
            )
    array = np.asarray(leaf)
    if array.dtype != ml_dtypes.bfloat16 and array.dtype.kind not in 'fiub':
        raise ValueError(
            f'{name} has dtype {array.dtype}, expected an array of numbers'
        )
    return array


def contiguous(array: np.ndarray) -> np.ndarray:
    """Returns the array in C order, as it is written to files.

    NumPy copies a transposed matrix at a tenth of the memory's speed, one element from
    each cache line; in blocks of columns it is several times faster.
    """
    if array.flags.c_contiguous or array.size < _BLOCK**2:
        return np.asarray(array, order='C')
    for shape in ((array.shape[0], -1), (-1, array.shape[-1])):
        matrix = array.reshape(shape)
        if np.shares_memory(matrix, array) and matrix.T.flags.c_contiguous:
            out = np.empty(matrix.shape, matrix.dtype)
            for i in range(0, matrix.shape[1], _BLOCK):
                for j in range(0, matrix.shape[0], _BLOCK):
                    part = slice(j, j + _BLOCK), slice(i, i + _BLOCK)
                    out[part] = matrix[part]
            return out.reshape(array.shape)
    return np.asarray(array, order='C')
