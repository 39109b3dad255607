"""What docs/ says of the sources, taken from the sources.

    python scripts/pages.py map        every file with the first line of its docstring
    python scripts/pages.py keys       every key of the configuration
    python scripts/pages.py --write    puts them into architecture.md and config.md

A test holds the pages against them.
"""

import argparse
import ast
import pathlib
import re
from collections.abc import Iterator

from ml_collections import ConfigDict

from vit_jax.config.keys import GROUPS

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / 'docs' / 'architecture.md'
# Where what a file is begins, and how long its line may get.
_COLUMN, _WIDTH = 32, 110


def summary(path: pathlib.Path) -> str:
    """Returns the first line of a file's docstring, without its last point."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ''
    return text.partition('\n')[0].removesuffix('.')


def lines(folder: pathlib.Path, depth: int = 0) -> Iterator[str]:
    """Yields a line for each file and folder, files first."""
    indent = '  ' * (depth + 1)
    files = sorted(folder.glob('*.py'))
    folders = sorted(path.parent for path in folder.glob('*/__init__.py'))
    for path in files:
        if path.name != '__init__.py':
            yield f'{indent}{path.name}'.ljust(_COLUMN) + summary(path)
    for path in folders:
        yield f'{indent}{path.name}/'.ljust(_COLUMN) + summary(path / '__init__.py')
        yield from lines(path, depth + 1)


def map_of_files() -> str:
    """Returns the map of the package."""
    cut = (
        line if len(line) <= _WIDTH else line[: _WIDTH - 2].rstrip() + ' …'
        for line in lines(ROOT / 'vit_jax')
    )
    return '\n'.join(('vit_jax/', *cut)) + '\n'


def table_of_keys() -> str:
    """Returns the page about the keys of the configuration."""
    text = [
        '# The keys of a configuration',
        '',
        'Every key, with the value that it has where neither a recipe nor the command '
        'line sets',
        'it: `--config.batch=64`, in Python `config.batch = 64`. A key *decides the '
        'numbers* of a',
        'run, or it does not (*how*: devices, paths, logging): the latter may change '
        'when a run',
        'goes on. This page is written by `python scripts/pages.py --write` from',
        '`vit_jax/config/keys.py`.',
    ]
    for group, keys in GROUPS.items():
        text += [
            '',
            f'## {group}',
            '',
            '| key | default | | meaning |',
            '|---|---|---|---|',
        ]
        for name, key in keys.items():
            default = (
                '' if isinstance(key.default, ConfigDict) else f'`{key.default!r}`'
            )
            how = 'how' if key.how else 'decides'
            said = key.described().replace('|', r'\|')
            text.append(f'| `{name}` | {default} | {how} | {said} |')
    return '\n'.join(text) + '\n'


PARTS = {'map': map_of_files, 'keys': table_of_keys}


def main() -> None:
    """Prints a part, or writes all into their pages."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('part', nargs='?', choices=PARTS, help='what to print')
    parser.add_argument('--write', action='store_true', help='into the pages')
    args = parser.parse_args()
    if args.part:
        print(PARTS[args.part](), end='')
    if args.write:
        text = PAGE.read_text()
        block = re.compile(r'^```\nvit_jax/\n.*?^```', re.DOTALL | re.M)
        PAGE.write_text(block.sub(lambda _: f'```\n{map_of_files()}```', text))
        (ROOT / 'docs' / 'config.md').write_text(table_of_keys())


if __name__ == '__main__':
    main()
