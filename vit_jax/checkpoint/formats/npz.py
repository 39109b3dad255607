"""Published-format .npz files: reading them array by array, and writing them.

Such a file is a zip of one .npy per parameter, named by its path in the tree
(`Transformer/encoderblock_0/LayerNorm_0/scale`). Three kinds are in circulation
and `NpzWeights` shows all of them in today's names:

- old names: one counter numbered all submodules of a block (`LayerNorm_0`,
  `MultiHeadDotProductAttention_1`, `LayerNorm_2`, `MlpBlock_3`);
- GroupNorm scales and biases of the hybrids with shape (1, 1, 1, c);
- a trainer's whole state: the parameters stand below `opt/target/`, `params/` …
  next to optimizer slots.
"""

import lzma
import math
import os
import pathlib
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from vit_jax.checkpoint.card import find_card
from vit_jax.checkpoint.weights import TreeWeights, Weights, contiguous
from vit_jax.files import atomic

# A trainer's state keeps the parameters below one of these, or one in another.
_WRAPPERS = ('opt/target/', 'optimizer/target/', 'target/', 'params/')
_GROUP_NORM = re.compile(r'(^|/)gn(\d+|_root|_proj)/(scale|bias)$')
# A name that Flax made of a class; what others call layer_1 keeps its number.
_NUMBERED = re.compile(r'([A-Z].*)_\d+', re.DOTALL)

# The largest published file has 2.5 GB. Deflate reaches 1032:1 at the very best, and
# published files are not compressed at all.
_MAX_TOTAL_BYTES = 64 * 10**9
_MAX_DEFLATE_RATIO = 1000
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


class NpzWeights(Weights):
    """The parameters in a published-format .npz.

    Raises:
      ValueError: the file is missing, no npz, truncated, empty, holds pickled
        Python objects (which are never loaded), or declares absurd sizes.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        self.card = find_card(self.path)
        self._zip = _open_zip(self.path)
        try:
            stored = self._stored_names()
            kept = _strip_wrappers(stored)
            translated = translate(kept)
            self._members: dict[str, zipfile.ZipInfo] = {}
            self._headers: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
            for name, inner in zip(translated, kept, strict=True):
                self._members[name] = stored[kept[inner]]
                self._headers[name] = self._read_header(kept[inner], stored)
        except BaseException:
            self.close()
            raise

    def __getitem__(self, name: str) -> np.ndarray:
        info = self._members[name]
        try:
            with self._zip.open(info) as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
        except _BROKEN as e:
            raise ValueError(
                f'{self.path}: {info.filename} cannot be read ({e}). The file is '
                'damaged or truncated; download or copy it again.'
            ) from e
        shape, dtype = self._headers[name]
        if array.dtype.kind == 'V':
            array = array.view(dtype)
        # Byte order of the machine that reads, not of the one that wrote.
        return array.astype(dtype, copy=False).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members  # Mapping's own would read the array

    def shape(self, name: str) -> tuple[int, ...]:
        """See `Weights`."""
        return self._headers[name][0]

    def dtype(self, name: str) -> np.dtype:
        """See `Weights`."""
        return self._headers[name][1]

    def close(self) -> None:
        """See `Weights`."""
        self._zip.close()

    def _stored_names(self) -> dict[str, zipfile.ZipInfo]:
        """Returns name -> zip member, after what the directory alone can tell."""
        infos = [info for info in self._zip.infolist() if info.filename[-1:] != '/']
        if not infos:
            raise ValueError(
                f'{self.path} holds no arrays; expected an .npz of weights'
            )
        foreign = [i.filename for i in infos if not i.filename.endswith('.npy')]
        if foreign:
            raise ValueError(
                f'{self.path} is a zip but not an .npz of weights: it holds '
                f'{foreign[0]!r}, and an .npz holds nothing but .npy members'
            )
        total = sum(info.file_size for info in infos)
        if total > _MAX_TOTAL_BYTES:
            raise ValueError(
                f'{self.path} declares {total / 1e9:.0f} GB of arrays; more than '
                f'{_MAX_TOTAL_BYTES / 1e9:.0f} GB are refused'
            )
        for info in infos:
            if info.file_size > _MAX_DEFLATE_RATIO * max(info.compress_size, 1):
                raise ValueError(
                    f'{self.path}: {info.filename} declares {info.file_size} bytes in '
                    f'{info.compress_size} compressed ones; more than '
                    f'{_MAX_DEFLATE_RATIO}:1 are refused (numpy.savez writes without '
                    'compression)'
                )
        names = [info.filename.removesuffix('.npy') for info in infos]
        twice = [name for name, n in Counter(names).items() if n > 1]
        if twice:
            raise ValueError(f'{self.path} holds two arrays named {twice[0]!r}')
        scopes = {name[:i] for name in names for i, c in enumerate(name) if c == '/'}
        both = sorted(scopes.intersection(names))
        if both:
            raise ValueError(
                f'{self.path} holds {both[0]!r} as an array and as a scope'
            )
        return dict(zip(names, infos, strict=True))

    def _read_header(
        self, name: str, stored: Mapping[str, zipfile.ZipInfo]
    ) -> tuple[tuple[int, ...], np.dtype]:
        """Returns shape and dtype as `__getitem__` will give them."""
        info = stored[name]
        try:
            with self._zip.open(info) as file:
                version = np.lib.format.read_magic(file)
                if version == (1, 0):
                    header = np.lib.format.read_array_header_1_0(file)
                elif version == (2, 0):
                    header = np.lib.format.read_array_header_2_0(file)
                else:
                    raise ValueError(f'unexpected .npy version {version}')
                header_bytes = file.tell()
        except Exception as e:  # numpy's parser lets through whatever its parts raise
            raise ValueError(
                f'{self.path}: {info.filename} is not an array that can be read '
                f'({e}). The file is damaged, truncated or no .npz of weights.'
            ) from e
        shape, _, dtype = header
        if dtype.hasobject:
            raise ValueError(
                f'{self.path}: {name} is a pickled Python object. Unpickling can run '
                'any code, so it is refused; save plain arrays with numpy.savez.'
            )
        if dtype == np.dtype('V2'):  # how numpy stores a bfloat16
            dtype = np.dtype(ml_dtypes.bfloat16)
        elif dtype.kind not in 'fiub':
            raise ValueError(f'{self.path}: {name} has dtype {dtype}, expected numbers')
        declared = math.prod(shape) * dtype.itemsize
        if any(n < 0 for n in shape) or header_bytes + declared != info.file_size:
            raise ValueError(
                f'{self.path}: {name} declares shape {shape} of {dtype}, {declared} '
                f'bytes, but {info.file_size - header_bytes} bytes are stored. '
                'The file is damaged; download or copy it again.'
            )
        if _GROUP_NORM.search(name):
            shape = (math.prod(shape),)
        return shape, dtype.newbyteorder('=')


def save(path: str | os.PathLike, params: Mapping[str, Any]) -> None:
    """Writes parameters as a published-format .npz, atomically.

    Names are today's, arrays keep their dtype, equal parameters give equal bytes.
    Blocks stacked for `scan_layers` are written one by one, as published. Arrays are
    read from a file, or fetched from devices, one at a time.

    Args:
      path: the file to write; one that exists is replaced once all is on the disk.
      params: nested dict of numpy or JAX arrays, or open `Weights`.

    Raises:
      ValueError: a leaf is no array of numbers, or lies on several hosts.
      OSError: the disk is full, for instance; an older file is still whole.
    """
    weights = params if isinstance(params, Weights) else TreeWeights(params)
    if not weights:
        raise ValueError(f'no parameters to save in {path}')
    with (
        atomic.replacing(path) as file,
        zipfile.ZipFile(file, 'w', zipfile.ZIP_STORED, allowZip64=True) as archive,
    ):
        for name in sorted(weights, key=_natural):
            _write_member(archive, name, weights[name])


def translate(names: Iterable[str]) -> list[str]:
    """Returns today's names for old ones, in the same order.

    Within each scope, children `<Class>_<number>` are counted anew per class, in
    natural order (10 after 9): `MlpBlock_3` becomes `MlpBlock_0`. Today's names
    stay as they are.
    """
    names = list(names)
    children: dict[tuple[str, ...], set[str]] = {}
    for name in names:
        parts = tuple(name.split('/'))
        for i, part in enumerate(parts):
            children.setdefault(parts[:i], set()).add(part)
    renamed: dict[tuple[str, ...], str] = {}
    for scope, parts in children.items():
        counts: Counter[str] = Counter()
        for part in sorted(parts, key=_natural):
            new = part
            if match := _NUMBERED.fullmatch(part):
                stem = match[1]
                new = f'{stem}_{counts[stem]}'
                counts[stem] += 1
            renamed[(*scope, part)] = new
    split = [tuple(name.split('/')) for name in names]
    return [
        '/'.join(renamed[parts[: i + 1]] for i in range(len(parts))) for parts in split
    ]


def squeezed(name: str, array: np.ndarray) -> np.ndarray:
    """Returns an array as today's models have it: GroupNorm's (1, 1, 1, c) as (c,)."""
    return array.reshape(-1) if _GROUP_NORM.search(name) else array


def _natural(name: str) -> list[str | int]:
    """Returns a sort key that compares the numbers in a name as numbers."""
    return [int(p) if i % 2 else p for i, p in enumerate(re.split(r'(\d+)', name))]


def _strip_wrappers(names: Iterable[str]) -> dict[str, str]:
    """Returns name inside the wrapper -> stored name, for the parameters alone."""
    inner = {name: name for name in names}
    while True:
        for wrapper in _WRAPPERS:
            wrapped = {n: s for n, s in inner.items() if n.startswith(wrapper)}
            if wrapped:
                inner = {n.removeprefix(wrapper): s for n, s in wrapped.items()}
                break
        else:
            return inner


def _open_zip(path: pathlib.Path) -> zipfile.ZipFile:
    """Opens a zip; says what a file that is none seems to be."""
    try:
        return zipfile.ZipFile(path)
    except OSError as e:
        raise ValueError(f'{path} cannot be read: {e.strerror or e}') from e
    except _BROKEN:
        with path.open('rb') as file:
            start = file.read(8)
    if not start:
        found = 'the file is empty'
    elif start.startswith(b'PK\x03\x04'):
        found = 'it is a truncated or damaged .npz; download or copy it again'
    elif start.startswith(b'\x93NUMPY'):
        found = 'it is a single .npy array'
    elif start.startswith(b'\x80'):
        found = 'it looks like a Python pickle, which is never loaded'
    elif start.lstrip().startswith((b'<', b'{')):
        found = 'it looks like a web page or an error message saved instead of it'
    else:
        found = f'it starts with {start!r}'
    raise ValueError(f'{path} is not an .npz of weights: {found}')


def _write_member(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    """Appends one array as an uncompressed .npy."""
    if array.dtype == ml_dtypes.bfloat16:
        array = array.view('V2')
    # In one order, and with a fixed date: equal parameters give equal files.
    array = contiguous(array)
    info = zipfile.ZipInfo(f'{name}.npy', date_time=(1980, 1, 1, 0, 0, 0))
    with archive.open(info, 'w', force_zip64=True) as file:
        np.lib.format.write_array(file, array, allow_pickle=False)
