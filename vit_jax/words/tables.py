"""A table of text for the terminal."""


def table(rows: list[dict[str, object]]) -> str:
    """Returns rows of equal keys as a text table with aligned columns."""

    def cell(value: object) -> str:
        return f'{value:.4f}' if isinstance(value, float) else str(value)

    lines = [list(rows[0]), *([cell(v) for v in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return '\n'.join(
        '  '.join(text.rjust(width) for text, width in zip(line, widths, strict=True))
        for line in lines
    )
