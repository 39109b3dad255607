"""Runs of the original repository: what they saved, as weights.

Its `flax.training.checkpoints` wrote `checkpoint_N` into the run directory: a tuple of
parameters, optimizer state and step, in one msgpack file, or (since flax 0.8) in a
directory of Orbax. The tuple's members are stored as '0', '1' and '2'.
"""

import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgpack
import numpy as np
from flax import serialization, traverse_util

from vit_jax.checkpoint.card import ModelCard, find_card
from vit_jax.checkpoint.formats import npz
from vit_jax.checkpoint.weights import Weights

_STEP = re.compile(r'checkpoint_(\d+)')
# Where parameters stand in what is saved: the original's tuple, flax's train states,
# and their like.
_PARAMS = ('0', 'params', 'target', 'opt')
# How Orbax marks its directories, old and new.
_ORBAX = ('_METADATA', '_CHECKPOINT_METADATA', 'checkpoint', 'manifest.ocdbt')


def find(path: str | os.PathLike) -> pathlib.Path | None:
    """Returns the checkpoint that a path names, or None if it names none.

    Args:
      path: a run directory, of which the newest checkpoint is taken, or a checkpoint.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        found = {
            int(match[1]): entry
            for entry in path.iterdir()
            if (match := _STEP.fullmatch(entry.name))
        }
        if found:
            return found[max(found)]
        return path if any((path / name).exists() for name in _ORBAX) else None
    return path if _STEP.fullmatch(path.name) or path.suffix == '.msgpack' else None


class OriginalWeights(Weights):
    """The parameters of a checkpoint of the original, in today's names.

    They are read all at once, which is how such files are made; the optimizer's state
    is let go.

    Args:
      path: from `find`.

    Raises:
      ValueError: the file is damaged, or holds no parameters.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.card: ModelCard | None = find_card(path)
        tree = _read_orbax(path) if path.is_dir() else _read_msgpack(path)
        stored = {
            name: array
            for name, array in _flat(_params(path, tree)).items()
            if array is not None
        }
        for name, array in stored.items():
            if not isinstance(array, np.ndarray) or array.dtype.kind not in 'fiubV':
                raise ValueError(f'{path}: {name} is no array of numbers')
        if not stored:
            raise ValueError(f'{path} holds no parameters')
        self._arrays = {
            new: npz.squeezed(new, stored[old])
            for new, old in zip(npz.translate(stored), stored, strict=True)
        }

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def shape(self, name: str) -> tuple[int, ...]:
        """See `Weights`."""
        return self._arrays[name].shape

    def dtype(self, name: str) -> np.dtype:
        """See `Weights`."""
        return self._arrays[name].dtype

    def close(self) -> None:
        """Lets the arrays go."""
        self._arrays = {}


def _params(path: pathlib.Path, tree: Any) -> Mapping[str, Any]:
    """Returns the parameters in what was saved, which may be nothing else."""
    if isinstance(tree, list | tuple) and tree:
        tree = tree[0]
    while isinstance(tree, Mapping):
        inner = next((key for key in _PARAMS if key in tree), None)
        if inner is None:
            return tree
        tree = tree[inner]
    raise ValueError(
        f'{path} holds no parameters: expected those of the original (a tuple of '
        'parameters, optimizer state and step), or a tree of arrays'
    )


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    flat = traverse_util.flatten_dict(dict(tree))
    return {'/'.join(map(str, path)): array for path, array in flat.items()}


def _read_msgpack(path: pathlib.Path) -> Any:
    """Returns the tree in a file of flax's serialization."""
    damaged = (
        f'{path} is not a whole checkpoint of flax. It is damaged, truncated or made '
        'by something else'
    )
    try:
        content = path.read_bytes()
        # flax's own reader takes complex numbers and NumPy scalars as well, and any
        # dtype that a name can say; what it finds is checked by the caller.
        return serialization.msgpack_restore(content)
    except OSError as error:
        raise ValueError(f'{path} cannot be read: {error.strerror or error}') from error
    except (
        msgpack.UnpackException,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        AssertionError,
        IndexError,
        OverflowError,
        RecursionError,
        MemoryError,
        SyntaxError,
    ) as error:
        raise ValueError(f'{damaged} ({type(error).__name__}: {error})') from error


def _read_orbax(path: pathlib.Path) -> Any:
    """Returns the tree in a directory of Orbax, as NumPy arrays."""
    import jax
    import orbax.checkpoint as ocp

    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            folder = path.absolute()
            metadata = checkpointer.metadata(folder)
            tree = getattr(metadata, 'item_metadata', metadata)
            tree = getattr(tree, 'tree', tree)
            restore = jax.tree.map(
                lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree
            )
            return checkpointer.restore(folder, restore_args=restore)
    except Exception as error:
        # Orbax lets through whatever its parts raise.
        raise ValueError(
            f'{path} cannot be read as a checkpoint of Orbax ({error})'
        ) from error
