"""Features of a source of images, written to a file."""

import contextlib
import csv
import dataclasses
import errno
import io
import itertools
import json
import operator
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, SupportsIndex

import numpy as np

from vit_jax.runtime import extras

if TYPE_CHECKING:
    from vit_jax.inference.predictor import Predictor

DEFAULT = 'pre_logits/features'  # what the head sees
FORMATS = {
    '.npz': 'arrays by name, for NumPy',
    '.npy': 'one array, for NumPy',
    '.csv': 'a table, for everything',
    '.parquet': 'a table, for pandas and its like',
}
# What an .npz holds besides features.
COLUMNS = ('index', 'label', 'name', 'class_names')
# Numbers of a table in memory at once.
_AT_ONCE = 1 << 22


def write(
    predictor: 'Predictor',
    source: 'data.Source',
    names: Sequence[str],
    out: str | os.PathLike,
    **reading: Any,
) -> int:
    """Writes features of every example of a source; returns of how many.

    What is known so far is on the disk, so that memory does not grow with the dataset.
    The file is there when it is whole; after an error all is as before.

    Args:
        predictor: the model.
        source: the examples; those of `Photos` have the label -1.
        names: of `Predictor.feature_names`.
        out: the file; its extension says what it will be, see `FORMATS`.
        **reading: batch, num_workers, skip_corrupt of `Predictor.outputs`.

    Raises:
        ValueError: no such feature or format; the format cannot hold what is asked
            for; no image decodes.
        OSError: what the system says, such as that the disk is full.
    """
    from vit_jax.files import atomic  # imports jax

    out, kind = check(out, names)
    with _folder_beside(out) as folder, contextlib.ExitStack() as files:
        named = _Named(source)
        columns: dict[str, _Column] = {}
        name_file = files.enter_context((folder / 'names').open('w+'))
        longest = 1
        for row in predictor.outputs(named, names, **reading):
            for i, (column, values) in enumerate(row.items()):
                if column not in columns:
                    path = folder / str(i)
                    columns[column] = _Column(path, _plain(values), values.shape[1:])
                    files.callback(columns[column].file.close)
                columns[column].append(values)
            for index in row['index'].tolist():
                name = named.name(index)
                longest = max(longest, len(name))
                name_file.write(json.dumps(name) + '\n')
        found = {name: column.array() for name, column in columns.items()}
        if not len(found['index']):
            raise ValueError('there is nothing to write: none of the images decodes')
        features = {name: found[name] for name in names}

        def lines() -> Iterator[str]:
            name_file.seek(0)
            return map(json.loads, name_file)

        with atomic.replacing(out) as file:
            if kind == '.npy':
                _write_npy(file, columns[names[0]])
            elif kind == '.npz':
                column = _Column(folder / 'U', np.dtype(f'U{longest}'), ())
                files.callback(column.file.close)
                for some in _parts(lines(), _AT_ONCE // longest):
                    column.append(np.array(some))
                np.savez(
                    file,
                    index=found['index'],
                    label=found['label'],
                    name=column.array(),
                    class_names=np.array(source.class_names, str),
                    **features,
                )
            else:
                flat = {name: x.reshape(len(x), -1) for name, x in features.items()}
                classes = [
                    source.class_names[label]
                    if 0 <= label < len(source.class_names)
                    else None
                    for label in found['label'].tolist()
                ]
                table = _Table(lines(), found['label'], classes, flat)
                (_write_csv if kind == '.csv' else _write_parquet)(file, table)
        return len(found['index'])


def check(out: str | os.PathLike, names: Sequence[str]) -> tuple[pathlib.Path, str]:
    """Returns a file and its format, or raises a ValueError if there is none such."""
    if '://' in str(out):
        raise ValueError(f'{out} is a URL, expected a path on this machine')
    out = pathlib.Path(out).expanduser()
    kind = out.suffix.lower()
    if kind not in FORMATS:
        known = ', '.join(f'{suffix} ({what})' for suffix, what in FORMATS.items())
        raise ValueError(f'{out}: the name should end with one of {known}')
    if out.is_dir():
        raise ValueError(f'{out} is a folder, expected the name of a file')
    if kind == '.npy' and len(names) > 1:
        raise ValueError(f'{out} holds one array, {len(names)} are asked for: use .npz')
    if kind == '.parquet':
        extras.require('pyarrow', purpose='.parquet', install='pyarrow')
    return out, kind


class _Named:
    """A source that knows the names of what has been read, where threads read it."""

    def __init__(self, source: 'data.Source'):
        self.class_names = source.class_names
        self._source = source
        self._names: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: SupportsIndex) -> 'data.Example':
        example = self._source[index]
        self._names[operator.index(index)] = example['name']
        return example

    def fingerprint(self) -> str:
        return self._source.fingerprint()

    def name(self, index: int) -> str:
        """Returns the name of an example, and forgets it."""
        # Worker processes keep what they have read for themselves.
        name = self._names.pop(index, None)
        return self._source[index]['name'] if name is None else name


class _Column:
    """An array on the disk that grows by rows.

    A file that grows says when the disk is full; a map of one that has no room is the
    end of the process.
    """

    def __init__(self, path: pathlib.Path, dtype: np.dtype, shape: tuple[int, ...]):
        self.file = path.open('wb')
        self._dtype, self._shape = dtype, shape
        self._count = 0

    def append(self, rows: np.ndarray) -> None:
        self.file.write(np.ascontiguousarray(rows, self._dtype).data)
        self._count += len(rows)

    def array(self) -> np.ndarray:
        """Returns all rows; they are read from the disk when they are used."""
        self.file.close()  # and tell if something could not be written
        shape = (self._count, *self._shape)
        if not self._count:
            return np.zeros(shape, self._dtype)
        return np.memmap(self.file.name, self._dtype, 'r', shape=shape)


def _plain(array: np.ndarray) -> np.dtype:
    """Returns the type that a program without bfloat16 can read."""
    known = array.dtype.kind in 'iuf' and array.dtype.isbuiltin == 1
    return array.dtype if known else np.dtype(np.float32)


def _parts(values: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yields lists of at most so many values, of at least one."""
    values = iter(values)
    while some := list(itertools.islice(values, max(1, size))):
        yield some


@dataclasses.dataclass(frozen=True)
class _Table:
    """One row for each image: name, label, class, and all numbers.

    Attributes:
        names: of the images.
        labels: of the images.
        classes: of the images, by name; None: unknown.
        features: each as (n, d).
    """

    names: Iterator[str]
    labels: np.ndarray
    classes: Sequence[str | None]
    features: Mapping[str, np.ndarray]

    def header(self) -> list[str]:
        """Returns the columns: f0, f1, … of one feature, name/0, … of several."""
        several = len(self.features) > 1
        return ['name', 'label', 'class'] + [
            f'{name}/{i}' if several else f'f{i}'
            for name, array in self.features.items()
            for i in range(array.shape[1])
        ]

    def parts(self, at_once: int) -> Iterator[tuple[list[str], slice]]:
        """Yields the names of some rows, and which these are, by their numbers."""
        width = sum(array.shape[1] for array in self.features.values())
        start = 0
        for names in _parts(self.names, at_once // width):
            yield names, slice(start, start + len(names))
            start += len(names)


def _write_npy(file: BinaryIO, column: _Column) -> None:
    # np.save does not tell that the disk is full, but how many numbers went to it.
    header = np.lib.format.header_data_from_array_1_0(column.array())
    np.lib.format.write_array_header_1_0(file, header)
    with open(column.file.name, 'rb') as rows:
        shutil.copyfileobj(rows, file)


def _write_csv(file: BinaryIO, table: _Table) -> None:
    text = io.TextIOWrapper(
        file, encoding='utf-8', errors='surrogateescape', newline='', write_through=True
    )
    writer = csv.writer(text)
    writer.writerow(table.header())
    for names, rows in table.parts(_AT_ONCE // 16):
        # As few digits as say which number it is.
        numbers = [x[rows].astype(str) for x in table.features.values()]
        writer.writerows(
            [name, label, known, *row]
            for name, label, known, row in zip(
                names,
                table.labels[rows].tolist(),
                table.classes[rows],
                np.concatenate(numbers, axis=1).tolist(),
                strict=True,
            )
        )
    text.detach()


def _write_parquet(file: BinaryIO, table: _Table) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    header = table.header()
    types = [pa.string(), pa.from_numpy_dtype(table.labels.dtype), pa.string()]
    for array in table.features.values():
        types += [pa.from_numpy_dtype(array.dtype)] * array.shape[1]
    schema = pa.schema(zip(header, types, strict=True))
    # A dictionary of numbers of which no two are equal would be larger than they are.
    with parquet.ParquetWriter(file, schema, use_dictionary=['class']) as writer:
        for names, rows in table.parts(_AT_ONCE):
            # What is no text in a file name is written as Python does.
            text = [name.encode('utf-8', 'backslashreplace').decode() for name in names]
            columns = [text, table.labels[rows], table.classes[rows]]
            for array in table.features.values():
                columns += list(np.ascontiguousarray(array[rows].T))
            arrays = map(pa.array, columns, types)
            writer.write_table(pa.Table.from_arrays(list(arrays), schema=schema))


@contextlib.contextmanager
def _folder_beside(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives an empty folder on the same disk as a file, and removes it."""
    # One fixed name: what a killed process left is overwritten, not collected.
    folder = out.with_name(f'.{out.name}.rows')
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT) and str(out) not in str(e):
            raise OSError(e.errno, e.strerror, str(out)) from e
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
