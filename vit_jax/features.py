"""Features of every image of a dataset, to a file: python -m vit_jax.features."""

import argparse
import sys

from vit_jax.command_line import arguments, terminal
from vit_jax.inference.features import DEFAULT, FORMATS, check, write


def main(argv: list[str] | None = None) -> int:
    """Writes features from the command line; returns the exit code.

    0: done; 1: done, but some images do not decode; 2: the user's error.
    """
    parser = argparse.ArgumentParser(
        prog='python -m vit_jax.features',
        description='Writes features of every image of a dataset, or of photos.',
    )
    arguments.add_checkpoint(parser)
    parser.add_argument(
        'photos', metavar='PHOTO', nargs='*',
        help='files, folders, patterns, addresses, instead of a dataset',
    )  # fmt: skip
    arguments.add_dataset(parser)
    arguments.add_batches(parser)
    parser.add_argument(
        '--feature', metavar='NAME', action='append', default=[],
        help=f'which one, maybe several times; default: {DEFAULT}',
    )  # fmt: skip
    parser.add_argument(
        '--list', action='store_true', help='print the names and shapes of all'
    )
    parser.add_argument(
        '--out', metavar='FILE',
        help='; '.join(f'{suffix}: {what}' for suffix, what in FORMATS.items()),
    )  # fmt: skip
    args = parser.parse_intermixed_args(argv)
    args.feature = list(dict.fromkeys(args.feature or [DEFAULT]))
    return arguments.run('features', lambda: _main(args))


def _main(args: argparse.Namespace) -> int:
    reference = arguments.checkpoint_of(args, args.photos)
    if args.photos and args.dataset:
        raise ValueError('both photos and --dataset are named: leave one out')
    if args.out is not None:
        check(args.out, args.feature)  # before any work
    elif not args.list:
        raise ValueError('--out is missing: the file that the features go to')

    from vit_jax.data.datasets.photos import Photos
    from vit_jax.inference.predictor import Predictor

    predictor = Predictor.load(reference, **arguments.model_options(args))
    if args.list:
        for name, shape in predictor.feature_names().items():
            print(name, 'x'.join(map(str, shape)))
        return 0
    if args.photos:
        source = Photos(args.photos)
    else:
        dataset = arguments.dataset_of(args, predictor.card)
        split = arguments.split_of(args, predictor.card, dataset)
        source = dataset.source(split)
    from vit_jax.data import tell_skipped

    count = write(
        predictor,
        source,
        args.feature,
        args.out,
        batch=args.batch,
        num_workers=args.num_workers,
        skip_corrupt=arguments.skips(args, predictor.card),
        on_skip=tell_skipped,
    )
    print(f'{args.out}: {", ".join(args.feature)} of {count} images')
    if count < len(source):
        print(
            f'features: {len(source) - count} of {len(source)} images do not decode '
            'and were left out',
            file=sys.stderr,
        )
    return int(count < len(source))


if __name__ == '__main__':
    sys.exit(terminal.run(main))
