"""Features of every image of a dataset, to a file: python -m vit_jax.features."""

import argparse
import contextlib
import csv
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_jax import commands

if TYPE_CHECKING:
    from vit_jax import data
    from vit_jax.predictor import Predictor

FORMATS = {
    '.npz': 'arrays by name, for NumPy',
    '.npy': 'one array, for NumPy',
    '.csv': 'a table, for everything',
    '.parquet': 'a table, for pandas and its like',
}
# What an .npz holds besides features.
COLUMNS = ('index', 'label', 'name', 'class_names')


def write(
    predictor: 'Predictor',
    source: 'data.Source',
    names: Sequence[str],
    out: pathlib.Path,
    **reading: Any,
) -> int:
    """Writes features of every example of a source; returns of how many.

    The arrays are on the disk while they grow, so that memory does not; the file is
    there when it is whole.

    Args:
        predictor: the model.
        source: the examples; those of `Photos` have the label -1.
        names: of `Predictor.feature_names`.
        out: the file; its extension says what it will be, see `FORMATS`.
        **reading: batch, num_workers, skip_corrupt of `Predictor.outputs`.

    Raises:
        ValueError: no such feature or format; the format cannot hold what is asked
            for; no image decodes.
    """
    kind = check(out, names)
    shapes = predictor.feature_names()
    out.parent.mkdir(parents=True, exist_ok=True)
    with _folder_beside(out) as folder:
        arrays: dict[str, np.memmap] = {}
        count = 0
        for row in predictor.outputs(source, names, **reading):
            if not arrays:
                arrays = _allocate(folder, row, len(source))
            end = count + len(row['index'])
            for name, array in arrays.items():
                array[count:end] = row[name]
            count = end
        if not count:
            raise ValueError('there is nothing to write: none of the images decodes')
        whole = {name: array[:count] for name, array in arrays.items()}
        new = folder / out.name
        features = {name: whole[name] for name in names}
        if kind == '.npy':
            np.save(new, features[names[0]])
        elif kind == '.npz':
            files = [source[int(i)]['name'] for i in whole['index']]
            np.savez(
                new,
                index=whole['index'],
                label=whole['label'],
                name=np.array(files, str),
                class_names=np.array(source.class_names, str),
                **features,
            )
        else:
            flat = {name: array.reshape(count, -1) for name, array in features.items()}
            columns = [
                f'{name}/{i}' if len(flat) > 1 else f'f{i}'
                for name in flat
                for i in range(int(np.prod(shapes[name])))
            ]
            _write_table(new, kind, source, whole, flat, columns)
        new.replace(out)
    return count


def check(out: pathlib.Path, names: Sequence[str]) -> str:
    """Returns the format of a file, or raises a ValueError if there is none such."""
    kind = out.suffix.lower()
    if kind not in FORMATS:
        known = ', '.join(f'{suffix} ({what})' for suffix, what in FORMATS.items())
        raise ValueError(f'{out}: the name should end with one of {known}')
    if kind == '.npy' and len(names) > 1:
        raise ValueError(f'{out} holds one array, {len(names)} are asked for: use .npz')
    if kind == '.parquet':
        from vit_jax.data import sources

        for library in ('pandas', 'pyarrow'):
            sources.require(library, purpose='.parquet', install='pandas pyarrow')
    return kind


def _allocate(
    folder: pathlib.Path, row: Mapping[str, np.ndarray], count: int
) -> dict[str, np.memmap]:
    """Returns arrays on the disk for as many rows as there can be."""
    return {
        name: np.lib.format.open_memmap(
            folder / f'{i}.npy', 'w+', _plain(value).dtype, (count, *value.shape[1:])
        )
        for i, (name, value) in enumerate(row.items())
    }


def _plain(array: np.ndarray) -> np.ndarray:
    """Returns what a program without bfloat16 can read, of the first row."""
    known = array.dtype.kind in 'iuf' and array.dtype.isbuiltin == 1
    return array[:1] if known else array[:1].astype(np.float32)


def _write_table(
    path: pathlib.Path,
    kind: str,
    source: 'data.Source',
    whole: Mapping[str, np.ndarray],
    flat: Mapping[str, np.ndarray],
    columns: list[str],
) -> None:
    """Writes one row for each image: name, label, class, and all numbers."""

    def rows() -> Iterator[list[Any]]:
        for i, (index, label) in enumerate(
            zip(whole['index'].tolist(), whole['label'].tolist(), strict=True)
        ):
            known = 0 <= label < len(source.class_names)
            numbers = [x for array in flat.values() for x in array[i].tolist()]
            yield [
                source[index]['name'],
                label,
                source.class_names[label] if known else '',
                *numbers,
            ]

    header = ['name', 'label', 'class', *columns]
    if kind == '.csv':
        with path.open('w', newline='', encoding='utf-8') as file:
            writer = csv.writer(file)
            writer.writerow(header)
            writer.writerows(rows())
        return
    import pandas as pd

    pd.DataFrame(rows(), columns=header).to_parquet(path, index=False)


@contextlib.contextmanager
def _folder_beside(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a folder on the same disk as a file, and removes it."""
    folder = tempfile.mkdtemp(prefix=f'.{out.name}.', dir=out.parent)
    try:
        yield pathlib.Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(argv: list[str] | None = None) -> int:
    """Writes features from the command line; returns the exit code.

    0: done; 1: done, but some images do not decode; 2: the user's error.
    """
    from vit_jax.predictor import PRE_LOGITS

    parser = argparse.ArgumentParser(
        prog='python -m vit_jax.features',
        description='Writes features of every image of a dataset, or of photos.',
    )
    commands.add_checkpoint(parser)
    parser.add_argument(
        'photos', metavar='PHOTO', nargs='*',
        help='files, folders, patterns, addresses, instead of a dataset',
    )  # fmt: skip
    commands.add_dataset(parser)
    commands.add_batches(parser)
    parser.add_argument(
        '--feature', metavar='NAME', action='append', default=[],
        help=f'which one, maybe several times; default: {PRE_LOGITS}',
    )  # fmt: skip
    parser.add_argument(
        '--list', action='store_true', help='print the names and shapes of all'
    )
    parser.add_argument(
        '--out', metavar='FILE', type=pathlib.Path,
        help='; '.join(f'{suffix}: {what}' for suffix, what in FORMATS.items()),
    )  # fmt: skip
    args = parser.parse_intermixed_args(argv)
    args.feature = list(dict.fromkeys(args.feature or [PRE_LOGITS]))
    return commands.run('features', lambda: _main(args))


def _main(args: argparse.Namespace) -> int:
    reference = commands.checkpoint_of(args, args.photos)
    if args.photos and args.dataset:
        raise ValueError('both photos and --dataset are named: leave one out')
    if args.out is not None:
        args.out = args.out.expanduser()
        check(args.out, args.feature)  # before any work
    elif not args.list:
        raise ValueError('--out is missing: the file that the features go to')

    from vit_jax.data.photos import Photos
    from vit_jax.predictor import Predictor

    predictor = Predictor.load(reference, best=args.best)
    if args.list:
        for name, shape in predictor.feature_names().items():
            print(name, 'x'.join(map(str, shape)))
        return 0
    if args.photos:
        source = Photos(args.photos)
    else:
        dataset = commands.dataset_of(args, predictor.card)
        split = commands.split_of(args, predictor.card, dataset)
        source = dataset.source(split)
    count = write(
        predictor,
        source,
        args.feature,
        args.out,
        batch=args.batch,
        num_workers=args.num_workers,
        skip_corrupt=args.skip_corrupt,
    )
    print(f'{os.fspath(args.out)}: {", ".join(args.feature)} of {count} images')
    if count < len(source):
        print(
            f'features: {len(source) - count} images do not decode and were left out',
            file=sys.stderr,
        )
    return int(count < len(source))


if __name__ == '__main__':
    sys.exit(main())
