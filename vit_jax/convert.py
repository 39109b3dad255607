"""Writes weights in another format: .npz, timm's, or Hugging Face's.

    python -m vit_jax.convert runs/flowers flowers-hf --to huggingface
    python -m vit_jax.convert hf://google/vit-base-patch16-224 ViT-B_16-224.npz

Any weights that `vit_jax.load` takes are read, and written one array at a time.
"""

import argparse
import sys

from vit_jax.command_line import arguments, terminal


def main(argv: list[str] | None = None) -> int:
    """Converts from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog='python -m vit_jax.convert', description=__doc__.split('\n')[0]
    )
    parser.add_argument(
        'reference', metavar='REF', help='a run, a file of weights, or an address'
    )
    parser.add_argument('out', metavar='OUT', help='a file or folder to be made')
    parser.add_argument(
        '--to',
        choices=('npz', 'timm', 'huggingface'),
        help='default: by the suffix of OUT',
    )
    arguments.add_which(parser)
    parser.add_argument('--no_head', action='store_true', help='features alone')
    parser.add_argument('--overwrite', action='store_true')
    args = parser.parse_args(argv)

    def command() -> int:
        from vit_jax.checkpoint.conversion import convert

        path = convert(
            args.reference,
            args.out,
            args.to,
            **arguments.model_options(args),
            head=not args.no_head,
            overwrite=args.overwrite,
        )
        print(path)
        return 0

    return arguments.run('convert', command)


if __name__ == '__main__':
    sys.exit(terminal.run(main))
