"""The shape trace of a model as a table: python -m vit_jax.summary MODEL|REF."""

import argparse
import sys
from typing import TYPE_CHECKING

from vit_jax.command_line import arguments, terminal
from vit_jax.words.suggest import did_you_mean

if TYPE_CHECKING:
    from vit_jax.models.shape_trace import Summary


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
    arguments.add_checkpoint(parser)
    parser.add_argument(
        '--image_size', type=int, nargs=2, metavar=('H', 'W'),
        help='in pixels; default: that of the weights, or 224 224',
    )  # fmt: skip
    parser.add_argument('--num_classes', type=int,
        help='of a model by name (1000); 0: no head')  # fmt: skip
    parser.add_argument('--dtype', help='of the computation; default: float32')
    parser.add_argument('--format', choices=('text', 'markdown', 'json'),
        default='text')  # fmt: skip
    parser.add_argument(
        '--all', action='store_true', help='every block, not only the first of equal'
    )
    args = parser.parse_args(argv)

    def command() -> int:
        from vit_jax.models import shape_table

        summary = _summary_of(args)
        # JSON is read by programs, which want every layer under its own name.
        if not args.all and args.format != 'json':
            summary = summary.folded()
        print(shape_table.render(summary, args.format))
        return 0

    return arguments.run('summary', command)


def _summary_of(args: argparse.Namespace) -> 'Summary':
    """Returns the summary of a published model, or of what can be loaded."""
    from vit_jax import models
    from vit_jax.models import shape_trace
    from vit_jax.models.zoo import google

    reference = arguments.checkpoint_of(args)
    fields = {'dtype': args.dtype} if args.dtype else {}
    size = args.image_size and tuple(args.image_size)
    names = [*google.TABLE, *google.SHORT_NAMES]
    if args.checkpoint is None and reference in names:
        num_classes = 1000 if args.num_classes is None else args.num_classes
        model = models.get_model(reference, num_classes, **fields)
        return shape_trace.summarize(model, size or (224, 224))

    from vit_jax import checkpoint

    try:
        model, params, card = checkpoint.load_model(
            reference,
            num_classes=args.num_classes,
            **arguments.model_options(args),
            **fields,
        )
    except FileNotFoundError as error:
        raise ValueError(
            f'{error} Nor is there a model of that name: python -m vit_jax.models '
            f'lists them.{did_you_mean(reference, names)}'
        ) from error
    channels = checkpoint.num_channels(params)
    return shape_trace.summarize(model, size or card.image_size, channels)


if __name__ == '__main__':
    sys.exit(terminal.run(main))
