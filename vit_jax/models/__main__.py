"""Prints the table of published models: python -m vit_jax.models '*B_16*'."""

import argparse
import fnmatch
import json
import sys

from vit_jax.command_line import terminal
from vit_jax.words import tables

COLUMNS = ('model', 'parameters', 'file', 'classes', 'pixels', 'twins', 'top-1')


def rows(pattern: str = '*') -> list[dict]:
    """Returns one row per published file whose model, path or twin matches."""
    from vit_jax.models.zoo import google
    from vit_jax.models.zoo.google_files import PUBLISHED

    found = []
    for row in PUBLISHED:
        names = (row.model, google.short_name(row.model), row.path, *row.twins)
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            continue
        found.append(
            {
                'model': row.model,
                'parameters': num_params(row.model, row.num_classes, row.image_size),
                'file': row.url,
                'classes': row.num_classes,
                'pixels': row.image_size,
                'twins': list(row.twins),
                'top-1': row.accuracy,
            }
        )
    return found


def num_params(name: str, num_classes: int, image_size: int) -> int:
    """Returns the number of parameters, without making them."""
    from vit_jax import models
    from vit_jax.models.parameters import num_parameters, parameter_shapes

    config = models.get_config(name)
    size = (image_size, image_size)
    return num_parameters(parameter_shapes(config, num_classes, size))


def table(found: list[dict], markdown: bool) -> str:
    """Returns the rows as text."""
    cells = [
        [
            row['model'],
            f'{row["parameters"]:,}',
            f'`{row["file"]}`' if markdown else row['file'],
            str(row['classes']),
            str(row['pixels']),
            ' '.join(f'`{x}`' if markdown else x for x in row['twins']),
            '' if row['top-1'] is None else f'{row["top-1"]:.2f}',
        ]
        for row in found
    ]
    lines = [COLUMNS, *cells]
    if markdown:
        return tables.markdown(lines, left=len(COLUMNS), padded=False)
    # Addresses come last, because they are long.
    lines = [[*line[:2], *line[3:5], line[6], line[2], line[5]] for line in lines]
    text = tables.text_lines(lines, left=len(COLUMNS))
    width = tables.terminal_width()
    if width is None or max(map(len, text)) <= width:
        return '\n'.join(text)
    facts = tables.text_lines([line[:5] for line in lines], left=5)
    below = [[], *([row['file'], *row['twins']] for row in found)]
    return '\n'.join(
        '\n    '.join([fact, *addresses])
        for fact, addresses in zip(facts, below, strict=True)
    )


def main(argv: list[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog='python -m vit_jax.models', description=__doc__.split(':')[0]
    )
    parser.add_argument('pattern', nargs='?', default='*', help="such as '*B_16*'")
    parser.add_argument(
        '--format', choices=('table', 'markdown', 'json'), default='table'
    )
    args = parser.parse_args(argv)
    found = rows(args.pattern)
    if not found:
        from vit_jax import models

        near = ', '.join(models.list_models())
        print(f'models: nothing matches {args.pattern!r} among {near}', file=sys.stderr)
        return 2
    if args.format == 'json':
        print(json.dumps(found))
    else:
        print(table(found, markdown=args.format == 'markdown'))
    return 0


if __name__ == '__main__':
    sys.exit(terminal.run(main))
