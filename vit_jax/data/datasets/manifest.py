"""Lists of images with labels: CSV files."""

import csv
import itertools
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from vit_jax.data import sources, splits
from vit_jax.data.datasets import listing
from vit_jax.data.datasets.listing import Listing
from vit_jax.files import text

# So many files of a manifest are looked for when it is opened: enough to notice a wrong
# directory at once, little enough for a network disk.
_CHECKED_ROWS = 1000
_SEPARATORS = ',;\t'
_OURS = ('path', 'label', 'split')
_UNCLOSED = (
    'a quotation mark is opened here and not closed before the end of the line; close '
    'it, or remove it'
)


def open_manifest(path: str | os.PathLike, *, holdout: float = 0.1) -> sources.Dataset:
    """Opens a CSV file that lists images.

    The first row names the columns: `path`, relative to the CSV file or absolute;
    `label`, the name of the class; and optionally `split`: train, val, validation or
    test, or what else they are called, such as valid or dev. Others are ignored. Order
    and held-out files as in `open_folder`.

    Args:
      path: the CSV file: UTF-8, or UTF-16 with its mark; separated by commas,
        semicolons or tabs.
      holdout: as in `open_folder`, where there is no column `split`.

    Raises:
      ValueError: missing columns; an incomplete row; unknown split; a class in another
        split that is not in train; a file among the first rows that does not exist.
    """
    path = pathlib.Path(path)
    return listing.pack(str(path), _read_manifest(path), holdout)


def _read_manifest(path: pathlib.Path) -> dict[str, Listing]:
    """Reads the rows of a manifest into listings by split."""
    root = str(path.parent)
    listings: dict[str, Listing] = {}
    with text.reading(path) as file:
        first = file.readline()
        separator = max(_SEPARATORS, key=first.count)
        rows = csv.reader(
            itertools.chain([first], file), delimiter=separator, skipinitialspace=True
        )
        header = [name.strip().lower() for name in next(rows, [])]
        if not {'path', 'label'} <= {*header}:
            raise ValueError(
                f'{path}: found the columns {", ".join(header) or "(none)"}, expected '
                'path, label and optionally split in the first row'
            )
        for count, (line, values) in enumerate(_numbered(path, rows)):
            if not values:  # an empty line
                continue
            row = f'{path}, row {line}'
            if line < rows.line_num and (
                len(values) != len(header)
                or any(
                    '\n' in v for k, v in zip(header, values, strict=True) if k in _OURS
                )
            ):
                raise ValueError(f'{row}: {_UNCLOSED}')
            if len(values) != len(header):
                raise ValueError(
                    f'{row}: found {len(values)} values for {len(header)} columns'
                )
            record = dict(zip(header, map(str.strip, values), strict=True))
            for column in ('path', 'label'):
                if not record[column]:
                    raise ValueError(f'{row}: found no {column}')
            split = splits.canonical(record.get('split', ''))
            if 'split' in record and split is None:
                raise ValueError(
                    f'{row}: found the split {record["split"]!r}, expected train, val, '
                    'validation or test'
                )
            name = record['path']
            if count < _CHECKED_ROWS and not os.path.exists(os.path.join(root, name)):
                raise ValueError(
                    f'{row}: the file {name!r} does not exist; expected a path '
                    f'relative to {root}'
                )
            files = listings.setdefault(split or 'all', Listing(root))
            files.first_row.setdefault(record['label'], line)
            directory, name = os.path.split(name)
            files.add(directory, [name], record['label'])
    return listings


def _numbered(path: pathlib.Path, rows: Any) -> Iterator[tuple[int, list[str]]]:
    """Yields rows, each with the line that it begins in."""
    line = rows.line_num + 1
    try:
        for values in rows:
            yield line, values
            line = rows.line_num + 1
    except csv.Error as error:  # a field of a hundred thousand characters
        raise ValueError(f'{path}, row {line}: {_UNCLOSED}') from error
