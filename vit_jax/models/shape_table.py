"""A shape trace as a table: text, Markdown or JSON."""

import dataclasses
import json
from collections.abc import Sequence

from vit_jax.models import shape_trace

_TIMES = '\N{MULTIPLICATION SIGN}'
STYLES = ('text', 'markdown', 'json')


def render(summary: shape_trace.Summary, style: str = 'text') -> str:
    """Returns a summary as a table.

    Args:
        summary: see `Summary.folded` for a short one.
        style: 'text', 'markdown' or 'json'.
    """
    if style == 'json':
        content = dataclasses.asdict(summary)
        content |= {'parameters': summary.parameters, 'flops': summary.flops}
        return json.dumps(content, indent=1, ensure_ascii=False)
    header = ['layer', 'what', 'output', 'parameters', 'FLOPs', 'weights', 'result']
    rows = [['image', '', _shape(summary.image), '', '', '', '']]
    block = ''
    for layer in summary.layers:
        if shape_trace.block_of(layer) != block:
            block = shape_trace.block_of(layer)
            if block:
                each = f'{layer.repeats} blocks, each:' if layer.repeats > 1 else ''
                rows.append([block, each, '', '', '', '', ''])
        rows.append(_row(layer, block))
    total = [
        'total', '', '', f'{summary.parameters:,}', count(summary.flops),
        _bytes(sum(r.parameter_bytes * r.repeats for r in summary.layers)),
        _bytes(sum(r.output_bytes * r.repeats for r in summary.layers)),
    ]  # fmt: skip
    columns = zip(header, *rows, total, strict=True)
    widths = [max(map(len, column)) for column in columns]

    def line(cells: Sequence[str]) -> list[str]:
        """Returns words to the left, numbers to the right."""
        return [
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]

    lines = [line(cells) for cells in (header, *rows, total)]
    if style == 'markdown':
        rule = ['-' * w if i < 2 else '-' * (w - 1) + ':' for i, w in enumerate(widths)]
        table = (lines[0], rule, *lines[1:])
        return '\n'.join(f'| {" | ".join(cells)} |' for cells in table)
    lines = ['  '.join(cells).rstrip() for cells in lines]
    rule = '-' * max(map(len, lines))
    title = f'{summary.model}, {summary.dtype}, one image'
    return '\n'.join([title, '', lines[0], rule, *lines[1:-1], rule, lines[-1]])


def _row(layer: shape_trace.Layer, block: str) -> list[str]:
    name = layer.name[len(block) :].lstrip('/')
    return [
        f'\N{MIDDLE DOT} {name}' if block else name,
        layer.what,
        _shape(layer.output),
        f'{layer.parameters:,}' if layer.parameters else '',
        count(layer.flops) if layer.flops else '',
        _bytes(layer.parameter_bytes) if layer.parameters else '',
        _bytes(layer.output_bytes),
    ]


def _shape(shape: Sequence[int]) -> str:
    return _TIMES.join(map(str, shape))


def count(number: int) -> str:
    """Returns a number in about three digits, with its unit: 17.6 G."""
    return _scaled(number, 1000, ['', 'k', 'M', 'G', 'T', 'P'])


def _bytes(number: int) -> str:
    return _scaled(number, 1024, ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'])


def _scaled(number: float, step: int, units: Sequence[str]) -> str:
    power = 0
    while number >= step and power < len(units) - 1:
        number, power = number / step, power + 1
    digits = 0 if power == 0 or number >= 100 else 1 if number >= 10 else 2
    return f'{number:.{digits}f} {units[power]}'.rstrip()
