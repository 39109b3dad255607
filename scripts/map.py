"""The map of the package: every file with the first line of its docstring.

    python scripts/map.py             prints it
    python scripts/map.py --write     puts it into docs/architecture.md

A test holds the page against it.
"""

import argparse
import ast
import pathlib
import re
from collections.abc import Iterator

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


def render() -> str:
    """Returns the map."""
    cut = (
        line if len(line) <= _WIDTH else line[: _WIDTH - 2].rstrip() + ' …'
        for line in lines(ROOT / 'vit_jax')
    )
    return '\n'.join(('vit_jax/', *cut)) + '\n'


def main() -> None:
    """Prints the map, or writes it into the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--write', action='store_true', help='into the page')
    if not parser.parse_args().write:
        print(render(), end='')
        return
    text = PAGE.read_text()
    block = re.compile(r'^```\nvit_jax/\n.*?^```', re.DOTALL | re.M)
    PAGE.write_text(block.sub(lambda _: f'```\n{render()}```', text))


if __name__ == '__main__':
    main()
