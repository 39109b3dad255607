"""The safetensors format: reading and writing one array at a time.

Eight bytes with the length of a JSON header (name -> dtype, shape, byte range), the
header, and the arrays one after another. The format's own library maps the file into
memory, which counts as the process's own, cannot read bfloat16 as NumPy, and writes
only what is in memory all at once; the few lines here keep to one array. Tests compare
them with the library.

Source: the format's description in the README of huggingface/safetensors.
"""

import json
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from vit_jax.checkpoint.weights import contiguous
from vit_jax.files import atomic

DTYPES = {
    'F64': np.dtype('<f8'),
    'F32': np.dtype('<f4'),
    'F16': np.dtype('<f2'),
    'BF16': np.dtype(ml_dtypes.bfloat16),
    'I64': np.dtype('<i8'),
    'I32': np.dtype('<i4'),
    'I16': np.dtype('<i2'),
    'I8': np.dtype('i1'),
    'U8': np.dtype('u1'),
    'BOOL': np.dtype('?'),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# The library's own bound, and that of the .npz reader.
_MAX_HEADER_BYTES = 100_000_000
_MAX_TOTAL_BYTES = 64 * 10**9


class Entry(NamedTuple):
    """Where an array lies."""

    path: pathlib.Path
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int  # of its bytes in the file


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
        return _header(path)
    found: dict[str, Entry] = {}
    wanted = _index(path)
    for name in sorted(set(wanted.values())):
        for key, entry in _header(path.parent / name).items():
            if key in found:
                raise ValueError(f'{path}: two files hold {key!r}')
            found[key] = entry
    if missing := sorted(wanted.keys() - found.keys()):
        raise ValueError(f'{path}: no file holds {", ".join(missing[:5])}')
    return found


def read(entry: Entry) -> np.ndarray:
    """Returns an array."""
    count = math.prod(entry.shape)
    try:
        array = np.fromfile(entry.path, entry.dtype, count, offset=entry.start)
    except OSError as error:
        raise ValueError(f'{entry.path} cannot be read: {error}') from error
    if len(array) != count:
        raise ValueError(f'{entry.path} has become shorter while it was read')
    return array.reshape(entry.shape).astype(entry.dtype.newbyteorder('='), copy=False)


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
    # As the library orders them: equal arrays give equal files.
    names = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    end = 0
    for name in names:
        dtype, shape, _ = arrays[name]
        little = dtype if dtype.itemsize == 1 else dtype.newbyteorder('<')
        if little not in _NAMES:
            raise ValueError(f'{name} has dtype {dtype}, which safetensors has not')
        start, end = end, end + dtype.itemsize * math.prod(shape)
        header[name] = {
            'dtype': _NAMES[little],
            'shape': list(shape),
            'data_offsets': [start, end],
        }
    text = json.dumps(header, separators=(',', ':')).encode()
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


def _in_folder(folder: pathlib.Path) -> pathlib.Path:
    for name in ('model.safetensors', 'model.safetensors.index.json'):
        if (folder / name).exists():
            return folder / name
    found = sorted(folder.glob('*.safetensors'))
    if len(found) != 1:
        names = ', '.join(path.name for path in found) or 'none'
        raise ValueError(
            f'{folder} holds {names}; expected model.safetensors or one .safetensors'
        )
    return found[0]


def _index(path: pathlib.Path) -> dict[str, str]:
    try:
        files = json.loads(path.read_bytes())['weight_map']
        good = all(
            isinstance(key, str) and isinstance(name, str) and _is_plain(name)
            for key, name in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{path} is not an index of weights: {error!r}') from error
    if not good or not files:
        raise ValueError(f'{path} must name files beside it, and names others')
    return files


def _is_plain(name: str) -> bool:
    """Returns whether it is a file's name, and no path to elsewhere."""
    return name == pathlib.PurePath(name).name and name.endswith('.safetensors')


def _header(path: pathlib.Path) -> dict[str, Entry]:
    """Reads and checks a file's header."""

    def damaged(what: str) -> ValueError:
        return ValueError(
            f'{path} is not a whole .safetensors: {what}. Download or copy it again.'
        )

    try:
        size = path.stat().st_size
        with path.open('rb') as file:
            length = int.from_bytes(file.read(8), 'little')
            if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
                raise damaged(f'a header of {length} bytes in a file of {size}')
            text = file.read(length)
    except OSError as error:
        raise ValueError(f'{path} cannot be read: {error.strerror or error}') from error
    try:
        header = json.loads(text, object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        raise damaged(f'the header is not JSON ({str(error)[:200]})') from error
    if not isinstance(header, dict):
        raise damaged('the header is not a table')
    header.pop('__metadata__', None)
    if not header:
        raise damaged('it holds no arrays')

    found, ranges = {}, []
    for name, entry in header.items():
        try:
            dtype = DTYPES[entry['dtype']]
            shape, (start, end) = entry['shape'], entry['data_offsets']
            good = all(type(n) is int and n >= 0 for n in (*shape, start, end))
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(f'{name!r} is described by {str(entry)[:200]}') from error
        if not good or end - start != dtype.itemsize * math.prod(shape):
            raise damaged(
                f'{name!r} declares shape {str(shape)[:100]} of {dtype}, but the bytes '
                f'from {start} to {end}'
            )
        found[name] = Entry(path, dtype, tuple(shape), 8 + length + start)
        ranges.append((start, end))
    last = 0
    for start, end in sorted(ranges):
        if start != last:
            raise damaged(f'there is a gap or an overlap at byte {start}')
        last = end
    if last != size - 8 - length:
        raise damaged(f'{last} bytes are declared, {size - 8 - length} are there')
    if last > _MAX_TOTAL_BYTES:
        raise ValueError(f'{path} declares {last / 1e9:.0f} GB; refused')
    return found


def _without_doubles(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f'{key!r} stands there twice')
        found[key] = value
    return found
