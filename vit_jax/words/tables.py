"""Tables of text for the terminal, and in Markdown."""

import shutil
import sys
from collections.abc import Sequence


def terminal_width() -> int | None:
    """Returns the columns of the terminal; None where the output goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def without_columns(
    rows: Sequence[Sequence[str]], drop: Sequence[int], width: int | None
) -> list[list[str]]:
    """Returns rows of cells without the columns that a terminal has no room for.

    Args:
        rows: as many cells in each.
        drop: columns that can be left out, the first one first.
        width: of the terminal; None: there is room for all.
    """
    left_out: list[int] = []

    def kept() -> list[list[str]]:
        return [[c for i, c in enumerate(row) if i not in left_out] for row in rows]

    for column in drop:
        if width is None or max(map(len, text_lines(kept()))) <= width:
            break
        left_out.append(column)
    return kept()


def table(rows: list[dict[str, object]]) -> str:
    """Returns rows of equal keys as a text table, all to the right."""

    def cell(value: object) -> str:
        return f'{value:.4f}' if isinstance(value, float) else str(value)

    cells = [list(rows[0]), *([cell(v) for v in row.values()] for row in rows)]
    return '\n'.join(text_lines(cells))


def text_lines(rows: Sequence[Sequence[str]], left: int = 0) -> list[str]:
    """Returns rows of cells as lines with aligned columns.

    Args:
        rows: as many cells in each.
        left: so many columns are aligned to the left, the others to the right.
    """
    return ['  '.join(cells).rstrip() for cells in _aligned(rows, left)]


def markdown(
    rows: Sequence[Sequence[str]], left: int = 0, *, padded: bool = True
) -> str:
    """Returns rows of cells, the first of them titles, as a table in Markdown.

    Args:
        rows: as many cells in each.
        left: so many columns are aligned to the left, the others to the right.
        padded: lets the columns be aligned in the text as well.
    """
    header, *rest = _aligned(rows, left) if padded else rows
    widths = [len(cell) if padded else 3 for cell in header]
    rule = ['-' * w if i < left else '-' * (w - 1) + ':' for i, w in enumerate(widths)]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in (header, rule, *rest))


def _aligned(rows: Sequence[Sequence[str]], left: int) -> list[list[str]]:
    """Returns cells as wide as the widest of their column."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        for cells in rows
    ]
