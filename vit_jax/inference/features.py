"""Features of a source of images, written to a file."""

import contextlib
import csv
import dataclasses
import io
import itertools
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from vit_jax.inference.named import Named
from vit_jax.runtime import extras

if TYPE_CHECKING:
    from vit_jax import data
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

# Some examples: index (n,), label (n,), name (n,), and each feature (n …).
Rows = Mapping[str, np.ndarray]


def write(
    predictor: 'Predictor',
    source: 'data.Source',
    names: Sequence[str],
    out: str | os.PathLike,
    **reading: Any,
) -> int:
    """Writes features of every example of a source; returns their number.

    Features go to the disk as they come, so that memory does not grow with them. The
    file is there when it is whole; after an error all is as before.

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
    named = Named(source)

    def rows() -> Iterator[Rows]:
        for batch in predictor.outputs(named, names, **reading):
            own = np.array([named.name(i) for i in batch['index'].tolist()], object)
            features = {name: _plain(batch[name]) for name in names}
            yield {'index': batch['index'], 'label': batch['label'], 'name': own} | (
                features
            )

    with atomic.replacing(out) as file:
        some = rows()
        first = next((batch for batch in some if len(batch['index'])), None)
        if first is None:
            raise ValueError('there is nothing to write: none of the images decodes')
        batches = itertools.chain([first], some)
        return _WRITERS[kind](file, _Images(batches, names, source.class_names))


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


def _plain(array: np.ndarray) -> np.ndarray:
    """Returns an array of a type that a program without bfloat16 can read."""
    known = array.dtype.kind in 'iuf' and array.dtype.isbuiltin == 1
    return array if known else array.astype(np.float32)


class _Column:
    """An array on the disk, beside the file that is written, that grows by rows.

    A file that grows says when the disk is full; a map of one that has no room is the
    end of the process.
    """

    def __init__(self, path: str, first: np.ndarray):
        self._file = open(path, 'wb')  # noqa: SIM115
        self._dtype, self._shape, self._count = first.dtype, first.shape[1:], 0

    def append(self, rows: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(rows).data)
        self._count += len(rows)

    def array(self) -> np.ndarray:
        """Returns all rows; they are read from the disk when they are used."""
        self._file.flush()
        shape = (self._count, *self._shape)
        return np.memmap(self._file.name, self._dtype, 'r', shape=shape)

    def close(self) -> None:
        self._file.close()
        os.unlink(self._file.name)


@dataclasses.dataclass(frozen=True)
class _Images:
    """Images with their features, some at a time, as tables have them.

    Attributes:
        batches: of all of them.
        names: of the features.
        class_names: by label.
    """

    batches: Iterator[Rows]
    names: Sequence[str]
    class_names: Sequence[str]

    def flat(self, rows: Rows) -> list[np.ndarray]:
        """Returns each feature as (n, d)."""
        return [rows[name].reshape(len(rows[name]), -1) for name in self.names]

    def header(self, rows: Rows) -> list[str]:
        """Returns the columns: f0, f1, … of one feature, name/0, … of several."""
        return ['name', 'label', 'class'] + [
            f'{name}/{i}' if len(self.names) > 1 else f'f{i}'
            for name, array in zip(self.names, self.flat(rows), strict=True)
            for i in range(array.shape[1])
        ]

    def classes(self, rows: Rows) -> list[str | None]:
        """Returns the class of each image by name; None: unknown."""
        known = dict(enumerate(self.class_names))
        return [known.get(label) for label in rows['label'].tolist()]

    def in_groups(self) -> Iterator[Rows]:
        """Yields as many rows at once as there may be numbers in memory."""
        waiting: dict[str, np.ndarray] = {}
        for rows in self.batches:
            waiting = {
                name: np.concatenate([waiting[name], x]) if waiting else x
                for name, x in rows.items()
            }
            size = max(1, _AT_ONCE // sum(x.shape[1] for x in self.flat(waiting)))
            while len(waiting['index']) >= size:
                yield {name: x[:size] for name, x in waiting.items()}
                waiting = {name: x[size:] for name, x in waiting.items()}
        if len(waiting['index']):
            yield waiting


@contextlib.contextmanager
def _on_disk(file: BinaryIO, images: _Images) -> Iterator[dict[str, np.ndarray]]:
    """Gives all rows, features as arrays on the disk, which go afterwards."""
    with contextlib.ExitStack() as stack:
        columns: dict[str, _Column] = {}
        rest: dict[str, list] = {name: [] for name in COLUMNS[:3]}
        for batch in images.batches:
            for i, name in enumerate(images.names):
                if name not in columns:
                    columns[name] = _Column(f'{file.name}.{i}', batch[name])
                    stack.callback(columns[name].close)
                columns[name].append(batch[name])
            for name, parts in rest.items():
                parts.append(batch[name])
        yield {name: np.concatenate(parts) for name, parts in rest.items()} | {
            name: column.array() for name, column in columns.items()
        }


def _write_npz(file: BinaryIO, images: _Images) -> int:
    with _on_disk(file, images) as arrays:
        arrays['name'] = arrays['name'].astype(str)
        np.savez(file, class_names=np.array(images.class_names, str), **arrays)
        return len(arrays['index'])


def _write_npy(file: BinaryIO, images: _Images) -> int:
    with _on_disk(file, images) as arrays:
        (array,) = (arrays[name] for name in images.names)
        # np.save does not tell that the disk is full, but how many numbers went to it.
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(file, header)
        with open(array.filename, 'rb') as rows:
            shutil.copyfileobj(rows, file)
        return len(array)


def _write_csv(file: BinaryIO, images: _Images) -> int:
    text = io.TextIOWrapper(
        file, encoding='utf-8', errors='surrogateescape', newline='', write_through=True
    )
    writer, count = csv.writer(text), 0
    for rows in images.batches:
        if not count:
            writer.writerow(images.header(rows))
        # As few digits as say which number it is.
        numbers = np.concatenate([x.astype(str) for x in images.flat(rows)], axis=1)
        columns = rows['name'], rows['label'].tolist(), images.classes(rows)
        for name, label, known, row in zip(*columns, numbers.tolist(), strict=True):
            writer.writerow([name, label, known, *row])
        count += len(numbers)
    text.detach()
    return count


def _write_parquet(file: BinaryIO, images: _Images) -> int:
    import pyarrow as pa
    from pyarrow import parquet

    count = 0
    with contextlib.ExitStack() as stack:
        for rows in images.in_groups():
            # What is no text in a file name is written as Python does.
            text = [
                n.encode('utf-8', 'backslashreplace').decode() for n in rows['name']
            ]
            columns = [pa.array(text, pa.string()), pa.array(rows['label'])]
            columns.append(pa.array(images.classes(rows), pa.string()))
            for array in images.flat(rows):
                columns += map(pa.array, np.ascontiguousarray(array.T))
            table = pa.Table.from_arrays(columns, images.header(rows))
            if not count:
                # A dictionary of numbers of which no two are equal would be larger.
                writer = stack.enter_context(
                    parquet.ParquetWriter(file, table.schema, use_dictionary=['class'])
                )
            writer.write_table(table)
            count += len(table)
    return count


_WRITERS: dict[str, Callable[..., int]] = {
    '.npz': _write_npz,
    '.npy': _write_npy,
    '.csv': _write_csv,
    '.parquet': _write_parquet,
}
