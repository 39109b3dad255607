"""The shape trace of a model as a table: python -m vit_jax.summary MODEL|REF."""

import argparse
import dataclasses
import difflib
import json
import sys
from collections.abc import Sequence

from vit_jax import commands, shapes

_TIMES = '\N{MULTIPLICATION SIGN}'
_STYLES = ('text', 'markdown', 'json')


def render(summary: shapes.Summary, style: str = 'text') -> str:
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
        if shapes.block_of(layer) != block:
            block = shapes.block_of(layer)
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


def _row(layer: shapes.Layer, block: str) -> list[str]:
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


def main(argv: list[str] | None = None) -> int:
    """Prints the shape trace of a model; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog='python -m vit_jax.summary',
        description='What happens to an image, layer by layer: shapes, parameters, '
        'operations and bytes.',
        epilog='FLOPs: floating-point operations for one image; a multiplication and '
        'an addition are two. weights: bytes of the parameters. result: bytes that '
        'the layer hands on.',
    )
    commands.add_checkpoint(parser)
    parser.add_argument(
        '--image_size', type=int, nargs=2, metavar=('H', 'W'),
        help='in pixels; default: that of the weights, or 224 224',
    )  # fmt: skip
    parser.add_argument('--num_classes', type=int,
        help='of a model by name (1000); 0: no head')  # fmt: skip
    parser.add_argument('--dtype', help='of the computation; default: float32')
    parser.add_argument('--format', choices=_STYLES,
        default='text')  # fmt: skip
    parser.add_argument(
        '--all', action='store_true', help='every block, not only the first of equal'
    )
    args = parser.parse_args(argv)

    def command() -> int:
        summary = _summary_of(args)
        # JSON is read by programs, which want every layer under its own name.
        if not args.all and args.format != 'json':
            summary = summary.folded()
        print(render(summary, args.format))
        return 0

    return commands.run('summary', command)


def _summary_of(args: argparse.Namespace) -> shapes.Summary:
    """Returns the summary of a published model, or of what can be loaded."""
    from vit_jax import models
    from vit_jax.models import zoo

    reference = commands.checkpoint_of(args)
    fields = {'dtype': args.dtype} if args.dtype else {}
    size = args.image_size and tuple(args.image_size)
    names = [*zoo.TABLE, *zoo.SHORT_NAMES]
    if args.checkpoint is None and reference in names:
        num_classes = 1000 if args.num_classes is None else args.num_classes
        model = models.get_model(reference, num_classes, **fields)
        return shapes.summarize(model, size or (224, 224))

    from flax import traverse_util

    from vit_jax import checkpoint
    from vit_jax.checkpoint import adapt

    try:
        model, params, card = checkpoint.load_model(
            reference, best=args.best, num_classes=args.num_classes, **fields
        )
    except FileNotFoundError as error:
        near = difflib.get_close_matches(reference, names)
        meant = f'did you mean {" or ".join(near)}? ' if near else ''
        raise ValueError(
            f'{error} Nor is there a model of that name: {meant}python -m '
            'vit_jax.models lists them.'
        ) from error
    flat = traverse_util.flatten_dict(params, sep='/')
    channels = flat[adapt.first_kernel(flat)].shape[2]
    return shapes.summarize(model, size or card.image_size, channels)


if __name__ == '__main__':
    sys.exit(main())
