"""Decoded images, kept: each is decoded once, then read by all threads and processes.

The images of a source lie one after another in a file, in memory or in a directory,
which every process maps, so that all of them share one copy. Behind them come a row for
each example and the names:

    pixels | rows | names | how many examples, how many bytes of names, _MAGIC

An example that does not decode has no pixels there: it is asked of the source again,
so that it is skipped, counted and named as without a cache.
"""

import contextlib
import logging
import os
import pathlib
import shutil
import struct
import sys
import tempfile
import time
import weakref
from typing import BinaryIO, SupportsIndex

import filelock
import numpy as np

from vit_jax.data import sources
from vit_jax.data.decoder import Decoder, decoded
from vit_jax.data.images import decoding
from vit_jax.runtime import machine
from vit_jax.words.units import readable_bytes

log = logging.getLogger(__name__)

# In place of a directory.
MEMORY = 'memory'
# The part of the memory that is available which images may take.
MEMORY_SHARE = 0.8
# So many examples tell how much room all will take, and are compared with those of an
# older file.
_SAMPLE = 32
# Seconds between two lines that tell how far it is.
_TELL = 10.0
# A file that nobody has written to for so many seconds is what a killed process left.
_LEFT = 3600.0
_MAGIC = b'vit_jax images 1'
_END = struct.Struct('<QQ16s')
_ROW = np.dtype(
    [
        ('offset', '<i8'),  # of the pixels; -1: there are none
        ('shape', '<i4', 3),
        ('full_size', '<i4', 2),  # before it was shrunk; 0: it was not
        ('label', '<i8'),
        ('name', '<i8'),  # where its name ends
    ]
)


class Cached:
    """A source: another one, its images decoded.

    The images are views of memory that cannot be written to. Those that were shrunk
    have their `full_size` beside them.
    """

    def __init__(self, source: sources.Source, path: str | os.PathLike):
        """Maps a file of images.

        Raises:
          FileNotFoundError: there is none.
          ValueError: it is none, or that of another source.
        """
        self.class_names = source.class_names
        self._source, self._path = source, os.fspath(path)
        with open(self._path, 'rb') as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _END.size))
            end = file.read()
            number, length, magic = (
                _END.unpack(end) if len(end) == _END.size else (0, 0, b'')
            )
            names = size - _END.size - length
            rows = names - number * _ROW.itemsize
            if magic != _MAGIC or number != len(source) or rows < 0:
                raise ValueError(f'{path} is no file of {len(source)} decoded images')
            # Not np.memmap, whose views are slow to make.
            self._memory = np.asarray(np.memmap(file, np.uint8, 'r'))
        self._rows = self._memory[rows:names].view(_ROW)
        self._names = self._memory[names : names + length]

    def __reduce__(self):
        return type(self), (self._source, self._path)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: SupportsIndex) -> sources.Example:
        row = self._rows[index]
        offset = int(row['offset'])
        if offset < 0:
            return self._source[index]
        place = range(len(self))[index]
        start = int(self._rows[place - 1]['name']) if place else 0
        shape = row['shape'].tolist()
        stop = offset + shape[0] * shape[1] * shape[2]
        example = {
            'image': self._memory[offset:stop].reshape(shape),
            'label': int(row['label']),
            'name': os.fsdecode(self._names[start : int(row['name'])].tobytes()),
        }
        full_size = tuple(row['full_size'].tolist())
        return example | {'full_size': full_size} if any(full_size) else example

    def __repr__(self) -> str:
        return f'{self._source!r}, decoded in {self._path}'

    def has_pixels(self, index: int) -> bool:
        """Returns whether an example did decode."""
        return int(self._rows[index]['offset']) >= 0

    @property
    def nbytes(self) -> int:
        """Bytes that all of it takes."""
        return len(self._memory)

    def fingerprint(self) -> str:
        """Returns that of the source, whose examples these are."""
        return self._source.fingerprint()


def cached(
    source: sources.Source,
    where: str | os.PathLike,
    *,
    shrink: int | None = None,
    channels: int = 3,
    num_threads: int | None = None,
) -> Cached:
    """Returns a source with its images decoded, all of them now.

    Args:
      source: the examples.
      where: 'memory'; or a directory, in which the images are found again if they are
        there already. One process at a time makes them, others wait.
      shrink: pixels of the shorter side of what is larger; None keeps all pixels.
      channels: of the images; see `decoding.pixels`.
      num_threads: that decode; None is one per available core.

    Raises:
      ValueError: they do not fit, or the directory cannot be written to.
    """
    decoder = Decoder(channels, shrink)
    if os.fspath(where) == MEMORY:
        return _in_memory(source, decoder, num_threads)
    folder = pathlib.Path(where).expanduser().absolute()
    try:
        return _in_folder(source, decoder, num_threads, folder)
    except OSError as error:
        if error.filename is not None and not _is_about(error.filename, folder):
            raise  # a file of the dataset
        raise ValueError(
            f'The decoded images cannot be kept in {folder}: {error.strerror}. '
            f'{_advice(shrink)}'
        ) from error


def _is_about(path: str | bytes, folder: pathlib.Path) -> bool:
    path = pathlib.Path(os.fsdecode(path)).absolute()
    return folder in (path, *path.parents) or path in folder.parents


def _advice(shrink: int | None) -> str:
    smaller = 'a smaller' if shrink else 'a number for'
    return (
        f'Choose another directory by --config.cache.where, {smaller} '
        '--config.cache.shrink, or leave the cache out.'
    )


def _in_memory(
    source: sources.Source, decoder: Decoder, num_threads: int | None
) -> Cached:
    room = machine.free_memory()
    _require_room(
        source,
        decoder,
        None if room is None else int(room * MEMORY_SHARE),
        f'of which images may take {MEMORY_SHARE:.0%} of what is available',
        'memory',
    )
    if sys.platform == 'linux':
        # Without a name: the kernel frees it with the last process that maps it. It is
        # not limited as /dev/shm is in containers.
        file = open(os.memfd_create('vit_jax images'), 'w+b')  # noqa: SIM115
        path = f'/proc/{os.getpid()}/fd/{file.fileno()}'
        release = file.close
    else:
        file = tempfile.NamedTemporaryFile(prefix='vit_jax-images-')  # noqa: SIM115
        path, release = file.name, file.close
    try:
        _write(file, source, decoder, num_threads)
        file.flush()
        found = Cached(source, path)
    except BaseException:
        release()
        raise
    # Workers open it by its path.
    weakref.finalize(found, release)
    log.info(
        '%d images are decoded, %s of memory', len(found), readable_bytes(found.nbytes)
    )
    return found


def _in_folder(
    source: sources.Source,
    decoder: Decoder,
    num_threads: int | None,
    folder: pathlib.Path,
) -> Cached:
    key = sources.sha256(
        source.fingerprint(), len(source), decoder.channels, decoder.shrink
    )
    path = folder / f'{key}.images'
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / f'{key}.lock'):
        with contextlib.suppress(FileNotFoundError, ValueError):
            found = Cached(source, path)
            if _agree(found, source, decoder):
                log.info('%d decoded images were found in %s', len(found), path)
                return found
            log.warning('%s has other images than the dataset: made again', path)
        for left in folder.glob(f'{key}.*.tmp'):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > _LEFT:
                    left.unlink()
        room = shutil.disk_usage(folder).free
        _require_room(source, decoder, room, 'which is free there', str(folder))
        with tempfile.NamedTemporaryFile(
            dir=folder, prefix=f'{key}.', suffix='.tmp', delete=False
        ) as file:
            try:
                _write(file, source, decoder, num_threads)
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, path)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(file.name)
                raise
        found = Cached(source, path)
    log.info(
        '%d decoded images, %s, are in %s',
        len(found),
        readable_bytes(found.nbytes),
        path,
    )
    return found


def _agree(found: Cached, source: sources.Source, decoder: Decoder) -> bool:
    """Returns whether some examples are those that the source has now.

    Fingerprints tell which files there are, not what is in them.
    """
    for place in sources.Picked.spread(source, _SAMPLE).places:
        example = source[place]
        kept = found[place]
        if example['label'] != kept['label']:
            return False
        try:
            image, full_size = decoder(example)
        except decoding.UndecodableImage:
            if found.has_pixels(place):
                return False
            continue
        if not found.has_pixels(place) or kept.get('full_size') != full_size:
            return False
        if not np.array_equal(image, kept['image']):
            return False
    return True


def _require_room(
    source: sources.Source, decoder: Decoder, room: int | None, whose: str, where: str
) -> None:
    """Raises a ValueError if all images would take more room than there is."""
    places = sources.Picked.spread(source, _SAMPLE).places
    sizes = []
    for place in places:
        with contextlib.suppress(decoding.UndecodableImage):
            sizes.append(decoder(source[place])[0].nbytes)
    needed = int(np.mean(sizes or [0]) * len(source)) + _ROW.itemsize * len(source)
    if room is not None and needed > room:
        raise ValueError(
            f'The {len(source):,} decoded images would take about '
            f'{readable_bytes(needed)} in {where}, more than the '
            f'{readable_bytes(room)} {whose}. {_advice(decoder.shrink)}'
        )


def _write(
    file: BinaryIO, source: sources.Source, decoder: Decoder, num_threads: int | None
) -> None:
    """Writes all images in the order of the examples."""
    rows = np.zeros(len(source), _ROW)
    names = bytearray()
    offset = 0
    told = time.monotonic()
    for place, (image, full_size, label, name) in enumerate(
        decoded(source, decoder, num_threads)
    ):
        row = rows[place]
        if isinstance(image, decoding.UndecodableImage):
            row['offset'] = -1
        else:
            row['offset'], row['shape'] = offset, image.shape
            row['full_size'] = full_size or (0, 0)
            file.write(np.ascontiguousarray(image).data)
            offset += image.nbytes
            names += os.fsencode(name)
        row['label'], row['name'] = label, len(names)
        if time.monotonic() > told + _TELL:
            told = time.monotonic()
            log.info('%s of %s images are decoded', f'{place + 1:,}', f'{len(rows):,}')
    file.write(rows.tobytes())
    file.write(names)
    file.write(_END.pack(len(rows), len(names), _MAGIC))
