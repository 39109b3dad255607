"""What the commands share: how they name a model, and how they end."""

import argparse
import sys
from collections.abc import Callable


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Adds the model: REF as the first argument, or --checkpoint REF; and --best.

    Parse with `parser.parse_intermixed_args` where more arguments without a name
    follow, so that options may stand among them.
    """
    parser.add_argument(
        'reference', metavar='REF', nargs='?',
        help='a run directory, a file of weights, anything that vit_jax.load takes',
    )  # fmt: skip
    parser.add_argument('--checkpoint', metavar='REF', help='the same, by name')
    parser.add_argument(
        '--best', action='store_true', help='of a run, the parameters best on val'
    )


def checkpoint_of(args: argparse.Namespace, rest: list[str] | None = None) -> str:
    """Returns the model that the command line names.

    Args:
        args: of a parser with `add_checkpoint`.
        rest: the arguments after REF. With --checkpoint, what stood in the place of
            REF belongs to them, and is put before them.

    Raises:
        ValueError: it names no model, or two.
    """
    if args.checkpoint is None:
        if args.reference is None:
            raise ValueError(
                'no model is named: give a run directory or a file of weights first, '
                'or by --checkpoint'
            )
        return args.reference
    if args.reference is not None:
        if rest is None:
            raise ValueError(
                f'two models are named, {args.reference} and {args.checkpoint}: leave '
                'one out'
            )
        rest.insert(0, args.reference)
    return args.checkpoint


def run(name: str, command: Callable[[], int]) -> int:
    """Returns the command's exit code, or 2 after telling the user of their error."""
    try:
        return command()
    except (ValueError, OSError) as error:
        print(f'{name}: {error}', file=sys.stderr)
        return 2
