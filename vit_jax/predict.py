"""python -m vit_jax.predict: what is on these photos? The likeliest classes of each.

PHOTO is a file, a folder, a pattern in quotes ('album/**/*.jpg'), an address (http://,
https://, gs://bucket/file, hf://owner/repo/file), or - for one image on standard input.
Results come in the order of the photos, as soon as they are there; a photo that is
named twice is there twice. A photo that cannot be read or does not decode is reported
on standard error, and the others go on. Exit code: 0, all photos have an answer; 1,
some have not; 2, nothing was done: a file that does not exist, a folder without images,
weights that do not load.

Formats: table, for people; csv, one line for each class: file, rank, class,
class_index, probability; json, one object in a line for each photo (JSON Lines):
{"file": …, "predictions": [{"class": …, "class_index": …, "probability": …}, …]}.
Classes without names are called by their numbers.
"""

import argparse
import contextlib
import csv
import io
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from vit_jax.command_line import arguments, terminal
from vit_jax.inference.answers import Answer, answers

if TYPE_CHECKING:
    from vit_jax.data.datasets.photos import Photos

_STDIN = '-'
# The format that the ending of --out stands for.
_ENDINGS = {'.csv': 'csv', '.json': 'json', '.jsonl': 'json'}
# In a table, longer names take a line of their own.
_NAME_WIDTH = 72


def main(argv: list[str] | None = None) -> int:
    """Predicts from the command line; returns the exit code.

    0: done; 1: done, but some photos could not be read; 2: the user's error.
    """
    summary, _, details = __doc__.partition('\n\n')
    parser = argparse.ArgumentParser(
        prog='python -m vit_jax.predict',
        description=summary.partition(': ')[2],
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_checkpoint(parser)
    parser.add_argument('photos', metavar='PHOTO', nargs='*', help='see below')
    parser.add_argument(
        '--files_from', metavar='FILE',
        help='take more photos from a text file, one in each line; - is standard input',
    )  # fmt: skip
    parser.add_argument(
        '--top_k', metavar='K', type=arguments.positive, default=5,
        help='how many classes of each photo, at most (5)',
    )  # fmt: skip
    parser.add_argument(
        '--format', choices=list(_FORMATS),
        help='default: what --out ends with (.csv, .json, .jsonl), else table',
    )  # fmt: skip
    parser.add_argument('--out', metavar='FILE', help='default: standard output')
    parser.add_argument(
        '--batch', type=arguments.positive, default=64, help='photos at once (64)'
    )
    parser.add_argument(
        '--num_workers', type=int, default=0, help='processes that read; 0: threads'
    )
    args = parser.parse_intermixed_args(argv)
    return arguments.run('predict', lambda: predict(args))


def predict(args: argparse.Namespace) -> int:
    """Writes what a model says of photos; `args` as in `main`; returns the exit code.

    Raises:
        ValueError: photos are not found, the model cannot be loaded or has no head.
        OSError: the output cannot be written.
    """
    import tqdm

    reference = arguments.checkpoint_of(args, args.photos)
    photos = _photos(args)  # what is not there is told before the model is loaded

    from vit_jax.inference.predictor import Predictor

    predictor = Predictor.load(reference, **arguments.model_options(args))
    if not predictor.model.num_classes:
        raise ValueError(
            f'{reference}: the model has no head (num_classes is 0), so it gives '
            'features but no classes'
        )
    ending = pathlib.PurePath(args.out or '').suffix.lower()
    form = args.format or _ENDINGS.get(ending, 'table')
    said = answers(
        predictor,
        photos,
        top_k=args.top_k,
        batch=args.batch,
        num_workers=args.num_workers,
    )
    broken = 0
    with (
        _opened(args.out) as file,
        tqdm.tqdm(
            total=len(photos),
            unit=' photos',
            dynamic_ncols=True,
            leave=False,
            disable=not sys.stderr.isatty(),
        ) as bar,
    ):

        def write(text: str) -> None:
            if file.isatty():
                bar.write(text, file=file, end='')  # not into the bar
            else:
                file.write(text)
            file.flush()

        layout = _FORMATS[form](photos.names)
        write(layout.head)
        for answer in said:
            if answer.reason:
                broken += 1
                bar.write(f'predict: {answer.name}: {answer.reason}', sys.stderr)
            else:
                write(layout.lines(answer))
            bar.update()
    if broken and len(photos) > 1:
        left_out = f'{broken} of {len(photos)} photos have no answer'
        print(f'predict: {left_out}', file=sys.stderr)
    return int(broken > 0)


def _photos(args: argparse.Namespace) -> 'Photos':
    """Returns the photos that the command line names."""
    from vit_jax.data.datasets.photos import Photos
    from vit_jax.files import text

    paths, contents = list(args.photos), {}
    if args.files_from is not None:
        if args.files_from != _STDIN:
            listed = pathlib.Path(args.files_from).expanduser().read_bytes()
        elif _STDIN in paths:
            raise ValueError(
                'standard input cannot be both a photo (-) and a list (--files_from -)'
            )
        else:
            listed = sys.stdin.buffer.read()
        paths += text.names(listed)
        if not paths:
            raise ValueError(f'{args.files_from}: no photos are named in it')
    if _STDIN in args.photos:
        contents[_STDIN] = sys.stdin.buffer.read()
    return Photos(paths, contents)


@contextlib.contextmanager
def _opened(path: str | None) -> Iterator[TextIO]:
    """Yields a file that is written from its beginning, or standard output."""
    # Names of files need not be UTF-8, and come out as they are.
    if path is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors='surrogateescape')
        yield sys.stdout
        return
    found = pathlib.Path(path).expanduser()
    found.parent.mkdir(parents=True, exist_ok=True)
    with found.open('w', encoding='utf-8', errors='surrogateescape', newline='') as f:
        yield f


class _Layout(Protocol):
    """How answers look."""

    head: str

    def lines(self, answer: Answer) -> str: ...


class _Table:
    """Aligned columns; the name of a photo stands at its first class alone."""

    def __init__(self, names: Sequence[str]):
        widths = [len(name) for name in ('file', *names)]
        self._width = max(width for width in widths if width <= _NAME_WIDTH)
        self.head = f'{"file":{self._width}}  probability  class\n'

    def lines(self, answer: Answer) -> str:
        name, lines = answer.name, []
        if len(name) > self._width:
            lines.append(f'{name}\n')
            name = ''
        for found in answer.classes:
            lines.append(
                f'{name:{self._width}}  {found.probability:11.4f}  {found.name}\n'
            )
            name = ''
        return ''.join(lines)


class _Csv:
    """One line for each class."""

    def __init__(self, names: Sequence[str]):
        del names
        self.head = self._text(
            [['file', 'rank', 'class', 'class_index', 'probability']]
        )

    def lines(self, answer: Answer) -> str:
        return self._text(
            [answer.name, rank, found.name, found.index, found.probability]
            for rank, found in enumerate(answer.classes, 1)
        )

    def _text(self, rows: Any) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator='\n').writerows(rows)
        return text.getvalue()


class _Json:
    """One object in a line for each photo."""

    head = ''

    def __init__(self, names: Sequence[str]):
        del names

    def lines(self, answer: Answer) -> str:
        classes = [
            {'class': x.name, 'class_index': x.index, 'probability': x.probability}
            for x in answer.classes
        ]
        return json.dumps({'file': answer.name, 'predictions': classes}) + '\n'


_FORMATS: dict[str, type[_Layout]] = {'table': _Table, 'json': _Json, 'csv': _Csv}


if __name__ == '__main__':
    sys.exit(terminal.run(main))
