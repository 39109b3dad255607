"""What every file of weights looks like to the rest of the package."""

import abc
import pathlib
from collections.abc import Mapping

import numpy as np

from vit_jax.checkpoint.card import ModelCard


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
