"""From a reference to an open file of weights, whatever its format."""

import os
import pathlib
from typing import Any

from flax import traverse_util

from vit_jax.checkpoint import references
from vit_jax.checkpoint.formats import foreign, npz, original
from vit_jax.checkpoint.ports import repository
from vit_jax.checkpoint.weights import Weights


def open(
    reference: str | os.PathLike,
    *,
    best: bool | None = None,
    num_heads: int | None = None,
) -> Weights:
    """Opens weights for reading array by array: see `Weights`.

    Args:
      reference: what `references.resolve` takes.
      best: of a run, see `references.resolve`.
      num_heads: of the attention, for files of other libraries that do not tell.

    Raises:
      ValueError: there is no such file, or it cannot be read as weights.
    """
    path = references.resolve(reference, best=best)
    foreign.check(path)
    if path.suffix == '.safetensors' or any(path.glob('*.safetensors')):
        return repository.open_port(path, num_heads)
    if checkpoint := original.find(path):
        return original.OriginalWeights(checkpoint)
    return npz.NpzWeights(path)


def files(reference: str | os.PathLike) -> list[pathlib.Path]:
    """Returns the files that hold the weights, without opening them.

    Raises:
      ValueError: there is no such file.
    """
    path = references.resolve(reference)
    if path.is_dir():
        parts = sorted(path.glob('*.safetensors'))
        if parts:
            return parts
        path = original.find(path) or path
    return (
        sorted(p for p in path.rglob('*') if p.is_file()) if path.is_dir() else [path]
    )


def load(reference: str | os.PathLike) -> dict[str, Any]:
    """Returns weights as a nested dict in today's names: see `open`."""
    with open(reference) as weights:
        return traverse_util.unflatten_dict(dict(weights), sep='/')
