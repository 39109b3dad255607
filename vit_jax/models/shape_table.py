"""A shape trace as a table: text, Markdown or JSON."""

import dataclasses
import json
from collections.abc import Sequence

from vit_jax.models import shape_trace
from vit_jax.words import tables
from vit_jax.words.units import readable_bytes, readable_count

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
        'total', '', '', f'{summary.parameters:,}', readable_count(summary.flops),
        readable_bytes(sum(r.parameter_bytes * r.repeats for r in summary.layers)),
        readable_bytes(sum(r.output_bytes * r.repeats for r in summary.layers)),
    ]  # fmt: skip
    lines = [header, *rows, total]
    if style == 'markdown':
        return tables.markdown(lines, left=2)
    # Bytes first, which follow from the shapes; then the words.
    fitting = tables.without_columns(lines, (6, 5, 1), tables.terminal_width())
    left = 2 if 'what' in fitting[0] else 1
    lines = tables.text_lines(fitting, left=left)
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
        readable_count(layer.flops) if layer.flops else '',
        readable_bytes(layer.parameter_bytes) if layer.parameters else '',
        readable_bytes(layer.output_bytes),
    ]


def _shape(shape: Sequence[int]) -> str:
    return _TIMES.join(map(str, shape))
