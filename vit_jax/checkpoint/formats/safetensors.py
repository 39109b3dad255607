"""The safetensors format: reading and writing one array at a time.

The format's own library reads and checks. Its writer wants all arrays in memory at
once, so writing is done here, array by array, in the same bytes (a test compares them).
"""

import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors

from vit_jax.checkpoint.weights import contiguous
from vit_jax.files import atomic

# In the order in which the library writes arrays.
DTYPES = {
    'I64': np.dtype('i8'),
    'F64': np.dtype('f8'),
    'F32': np.dtype('f4'),
    'I32': np.dtype('i4'),
    'BF16': np.dtype(ml_dtypes.bfloat16),
    'F16': np.dtype('f2'),
    'I16': np.dtype('i2'),
    'I8': np.dtype('i1'),
    'U8': np.dtype('u1'),
    'BOOL': np.dtype('?'),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
INDEX = 'model.safetensors.index.json'


class Entry(NamedTuple):
    """An array in an open file."""

    path: pathlib.Path
    file: Any  # of the library, which has no public class for it
    name: str
    dtype: np.dtype
    shape: tuple[int, ...]


class Array(NamedTuple):
    """An array to be written, made only when it is its turn."""

    dtype: np.dtype
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def entries(path: str | os.PathLike) -> dict[str, Entry]:
    """Returns the arrays of a file, of an index, or of a folder's model, by name.

    Args:
      path: a .safetensors, an .index.json that names several, or a folder with
        model.safetensors, model.safetensors.index.json or one other .safetensors.

    Raises:
      ValueError: a file is missing, truncated, or not what its header says.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        path = _in_folder(path)
    if not path.name.endswith('.index.json'):
        return _open(path)
    arrays: dict[str, Entry] = {}
    file_of = index(path)
    for file in sorted(set(file_of.values())):
        for name, entry in _open(path.parent / file).items():
            if name in arrays:
                raise ValueError(f'{path}: two files hold {name!r}')
            arrays[name] = entry
    if missing := sorted(file_of.keys() - arrays.keys()):
        raise ValueError(f'{path}: no file holds {", ".join(missing[:5])}')
    return arrays


def read(entry: Entry, rows: slice = slice(None)) -> np.ndarray:
    """Returns an array, or some of its rows.

    Raises:
      ValueError: the file has changed since it was opened.
    """
    try:
        if rows == slice(None):
            return entry.file.get_tensor(entry.name)
        return entry.file.get_slice(entry.name)[rows]
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f'{entry.path} cannot be read any more: {error}') from error


def save(
    path: str | os.PathLike,
    arrays: Mapping[str, Array],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes arrays, atomically, one at a time.

    Args:
      path: the file; one that exists is replaced once all is on the disk.
      arrays: by name.
      metadata: stored in the header; PyTorch's loaders want {'format': 'pt'}.

    Raises:
      ValueError: a dtype that the format has not, or an array that is not as declared.
      OSError: the disk is full, for instance; an older file is still whole.
    """
    header: dict[str, Any] = {'__metadata__': dict(metadata)} if metadata else {}
    for name, array in arrays.items():
        if array.dtype not in _NAMES:
            raise ValueError(
                f'{name} has dtype {array.dtype}, which safetensors has not'
            )
    rank = {dtype: i for i, dtype in enumerate(_NAMES)}
    names = sorted(arrays, key=lambda name: (rank[arrays[name].dtype], name))
    end = 0
    for name in names:
        dtype, shape, _ = arrays[name]
        start, end = end, end + dtype.itemsize * math.prod(shape)
        header[name] = {
            'dtype': _NAMES[dtype],
            'shape': list(shape),
            'data_offsets': [start, end],
        }
    text = json.dumps(header, separators=(',', ':'), ensure_ascii=False).encode()
    text += b' ' * (-len(text) % 8)
    with atomic.replacing(path) as file:
        file.write(len(text).to_bytes(8, 'little') + text)
        for name in names:
            dtype, shape, make = arrays[name]
            array = contiguous(make())
            if array.dtype != dtype or array.shape != tuple(shape):
                raise ValueError(
                    f'{name} is {array.dtype}{array.shape}, declared was {dtype}{shape}'
                )
            file.write(array.reshape(-1).view(np.uint8).data)


def index(path: pathlib.Path) -> dict[str, str]:
    """Returns the names of arrays in an .index.json, and of the file that holds each.

    Raises:
      ValueError: it is not an index, or names other files than those beside it.
    """
    try:
        files = json.loads(path.read_bytes())['weight_map']
        beside = all(
            file == pathlib.PurePath(file).name and file.endswith('.safetensors')
            for file in files.values()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{path} is not an index of weights: {error!r}') from error
    if not beside or not files:
        raise ValueError(f'{path} must name files beside it, and names others')
    return files


def _in_folder(folder: pathlib.Path) -> pathlib.Path:
    for name in ('model.safetensors', INDEX):
        if (folder / name).exists():
            return folder / name
    files = sorted(folder.glob('*.safetensors'))
    if len(files) != 1:
        names = ', '.join(path.name for path in files) or 'none'
        raise ValueError(
            f'{folder} holds {names}; expected model.safetensors or one .safetensors'
        )
    return files[0]


def _open(path: pathlib.Path) -> dict[str, Entry]:
    """Returns the arrays of one file, whose header is read and checked."""
    try:
        # Not mapped into memory: what is mapped counts as the process's own, and is
        # gone with a signal if the file becomes shorter.
        file = safetensors.safe_open(path, 'numpy', backend='pread')
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise ValueError(f'{path} cannot be read: {error.strerror or error}') from error
    except safetensors.SafetensorError as error:
        reason = str(error).removeprefix('Error while deserializing header: ')[:300]
        raise ValueError(
            f'{path} is not a whole .safetensors: {reason}. Download or copy it again.'
        ) from error
    if not slices:
        raise ValueError(f'{path} holds no arrays')
    for name, array in slices.items():
        if array.get_dtype() not in DTYPES:
            raise ValueError(
                f'{path}: {name!r} has dtype {array.get_dtype()}; expected one of '
                f'{", ".join(DTYPES)}'
            )
    return {
        name: Entry(
            path, file, name, DTYPES[array.get_dtype()], tuple(array.get_shape())
        )
        for name, array in slices.items()
    }
