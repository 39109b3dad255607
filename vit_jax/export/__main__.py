"""Exports a model to run elsewhere: StableHLO for anything that has XLA, or ONNX.

    python -m vit_jax.export runs/flowers exported
    python scripts/run_exported.py exported rose.jpg

OUT is a new folder:

    model.stablehlo     what jax.export.deserialize reads; `.call(images)` runs it
    model.json          the card: class names, normalization; and what is in the file
    model.safetensors   the weights, if they are not inside (more than 1.5 GB)

Images come in any number b, at once, on any of the platforms. What they are:

    --preprocessing resize      uint8 (b h w c) of any size, decoded photos: the default
    --preprocessing normalize   uint8 (b h w c) of the card's size (ONNX's default)
    --preprocessing none        float32 (b h w c) of the card's size, already normalized
                                by its mean and std: what the model itself takes

Decoding files is never included. The outputs are those of the model to the bit where
both run on the same backend; with `resize`, whose arithmetic is OpenCV's only up to
rounding, to about 1e-6 of the inputs' range.
"""

import argparse
import logging
import pathlib
import sys

from vit_jax.command_line import arguments, terminal
from vit_jax.export.options import (
    FORMATS,
    MAX_INSIDE,
    PLATFORMS,
    PREPROCESSING,
    WEIGHTS,
)


def main(argv: list[str] | None = None) -> int:
    """Exports from the command line; returns the exit code."""
    first, _, details = __doc__.partition('\n\n')
    parser = argparse.ArgumentParser(
        prog='python -m vit_jax.export',
        description=first,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_checkpoint(parser)
    parser.add_argument('out', metavar='OUT', nargs='*', help='a folder to be made')
    parser.add_argument('--to', choices=FORMATS, default='stablehlo')
    parser.add_argument(
        '--preprocessing', choices=PREPROCESSING, default='auto',
        help='what is included; default: as much as the format can hold',
    )  # fmt: skip
    parser.add_argument(
        '--output', metavar='NAME', action='append',
        help='logits (default), probabilities, pre_logits/features, or any other '
        'feature; may be repeated',
    )  # fmt: skip
    parser.add_argument(
        '--weights', choices=WEIGHTS, default='auto',
        help=f'inside up to {MAX_INSIDE / 1e9} GB, beside above, or as said here',
    )  # fmt: skip
    parser.add_argument(
        '--platforms', default=','.join(PLATFORMS),
        help='separated by commas; default: %(default)s',
    )  # fmt: skip
    parser.add_argument(
        '--dtype', default='', help='of the computation; default: as in training'
    )
    args = parser.parse_intermixed_args(argv)
    logging.basicConfig(format='%(message)s', level=logging.WARNING)

    def command() -> int:
        from vit_jax.export.artifact import export, summary

        reference = arguments.checkpoint_of(args, args.out)
        if len(args.out) != 1:
            raise ValueError(
                f'expected one folder to be made after the model, found {args.out}'
            )
        told = export(
            reference,
            args.out[0],
            args.to,
            **arguments.model_options(args),
            dtype=args.dtype,
            preprocessing=args.preprocessing,
            outputs=args.output or (),
            weights=args.weights,
            platforms=[p.strip() for p in args.platforms.split(',') if p.strip()],
        )
        print(summary(pathlib.Path(args.out[0]).expanduser(), told))
        return 0

    return arguments.run('export', command)


if __name__ == '__main__':
    sys.exit(terminal.run(main))
