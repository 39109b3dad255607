"""Random access to TFRecord files, without TensorFlow.

A TFRecord file is a sequence of frames: the length of the record (uint64, little
endian), a masked CRC-32C of these eight bytes, the record, a masked CRC-32C of the
record. Only a list of where the frames start is missing for random access; it is
made once, by reading the 12 bytes before each record, and kept in the cache directory.
"""

import functools
import hashlib
import os
import pathlib
import tempfile
import weakref
from collections.abc import Iterator
from typing import SupportsIndex

import numpy as np
from jaxtyping import Int64, UInt8, UInt32

_HEADER = np.dtype([('length', '<u8'), ('crc', '<u4')])
_FRAME = _HEADER.itemsize + 4  # what a frame holds besides the record


def cache_dir() -> pathlib.Path:
    """Returns where the library keeps what it can make again.

    $VIT_JAX_CACHE, else $XDG_CACHE_HOME/vit_jax, else ~/.cache/vit_jax.
    """
    if moved := os.environ.get('VIT_JAX_CACHE'):
        return pathlib.Path(moved).expanduser()
    base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return pathlib.Path(base).expanduser() / 'vit_jax'


class TFRecordFile:
    """The records of one file by index; thread-safe, opened on construction."""

    def __init__(self, path: str | os.PathLike):
        """Opens a file, and lists its frames if no list of them is cached.

        Raises:
          FileNotFoundError: no such file.
          ValueError: truncated or damaged file, with the offset.
        """
        self._path = os.fspath(path)
        self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        # Closed with the last reference: a reader that is still in use elsewhere
        # must not lose its file when a cache of readers drops it.
        self.close = weakref.finalize(self, os.close, self._descriptor)
        self._offsets = _offsets(self._path, self._descriptor)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: SupportsIndex) -> bytes:
        """Returns one record. Its own checksum is left to whoever decodes it."""
        start, stop = self._offsets[index], self._offsets[index.__index__() + 1]
        size = int(stop - start) - _FRAME
        record = os.pread(self._descriptor, size, int(start) + _HEADER.itemsize)
        if len(record) != size:
            raise ValueError(
                f'{self._path}: the record at offset {start} ends after '
                f'{len(record)} of {size} bytes; the file changed while in use'
            )
        return record


def _offsets(path: str, descriptor: int) -> Int64[np.ndarray, 'records_and_end']:
    """Returns where each frame starts and the last one ends, cached if possible."""
    status = os.fstat(descriptor)
    key = f'{os.path.realpath(path)}\n{status.st_size}\n{status.st_mtime_ns}'
    cached = (
        cache_dir() / 'tfrecord' / f'{hashlib.sha256(key.encode()).hexdigest()}.npy'
    )
    try:
        # Mapped, so that all processes of a machine share the pages they touch.
        offsets = np.load(cached, mmap_mode='r', allow_pickle=False)
        if (
            offsets.dtype == np.int64
            and offsets.ndim == 1
            and offsets[-1] == status.st_size
        ):
            return offsets
    except (OSError, ValueError, IndexError, EOFError):
        pass  # not there, or not whole: it is made again
    offsets = _index(path, descriptor, status.st_size)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=cached.parent, suffix='.tmp', delete=False
        ) as file:
            try:
                np.save(file, offsets)
                file.close()
                os.replace(file.name, cached)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError:
        return offsets  # a cache that cannot be written costs time, nothing else
    return np.load(cached, mmap_mode='r', allow_pickle=False)


def _index(
    path: str, descriptor: int, size: int
) -> Int64[np.ndarray, 'records_and_end']:
    """Walks the frames of a file and checks the checksum of every length."""
    headers = bytearray()
    starts = []
    position = 0
    while position + _FRAME <= size:
        header = os.pread(descriptor, _HEADER.itemsize, position)
        starts.append(position)
        headers += header
        position += int.from_bytes(header[:8], 'little') + _FRAME
    found = np.frombuffer(headers, _HEADER)
    wrong = np.flatnonzero(
        masked_crc32c(found['length'].astype('<u8').view(np.uint8).reshape(-1, 8))
        != found['crc']
    )
    if wrong.size:
        raise ValueError(
            f'{path}: the length of the record at offset {starts[wrong[0]]} does not '
            'agree with its checksum; this is no TFRecord file, or it is damaged'
        )
    if position != size:
        offset = position if position < size else starts[-1]
        raise ValueError(
            f'{path}: the record at offset {offset} goes on beyond the end of the file '
            f'({size} bytes); the file is truncated, copy it again'
        )
    return np.asarray([*starts, position], np.int64)


def masked_crc32c(rows: UInt8[np.ndarray, 'n bytes']) -> UInt32[np.ndarray, 'n']:
    """Returns the CRC-32C of every row, masked as TFRecord files store it."""
    table = _crc_table()
    crc = np.full(len(rows), 0xFFFFFFFF, np.uint32)
    for column in rows.T:
        crc = table[(crc ^ column) & 0xFF] ^ (crc >> np.uint32(8))
    crc = ~crc
    return (crc >> np.uint32(15) | crc << np.uint32(17)) + np.uint32(0xA282EAD8)


@functools.cache
def _crc_table() -> UInt32[np.ndarray, '256']:
    """Returns the remainders of single bytes by the Castagnoli polynomial."""
    crc = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        # 0x82F63B78 is the polynomial 0x1EDC6F41 with its bits reversed.
        crc = np.where(crc & 1, crc >> 1 ^ np.uint32(0x82F63B78), crc >> 1)
    return crc.astype(np.uint32)


def frames(records) -> Iterator[bytes]:
    """Yields records as frames: what a TFRecord file of them consists of."""
    for record in records:
        length = len(record).to_bytes(8, 'little')
        yield length + _crc_bytes(length) + record + _crc_bytes(record)


def _crc_bytes(data: bytes) -> bytes:
    crc = masked_crc32c(np.frombuffer(data, np.uint8).reshape(1, -1))
    return crc.astype('<u4').tobytes()
