"""What the commands share: how they name a model and a dataset, and how they end."""

import argparse
import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # so that --help answers at once
    from vit_jax import data
    from vit_jax.checkpoint import ModelCard
    from vit_jax.evaluation.judgement import Judgement
    from vit_jax.inference.predictor import Predictor


log = logging.getLogger('vit_jax')


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Adds the model: REF as the first argument, or --checkpoint REF; and which of it.

    Parse with `parser.parse_intermixed_args` where more arguments without a name
    follow, so that options may stand among them.
    """
    parser.add_argument(
        'reference', metavar='REF', nargs='?',
        help='a run directory, a file of weights, anything that vit_jax.load takes',
    )  # fmt: skip
    parser.add_argument('--checkpoint', metavar='REF', help='the same, by name')
    add_which(parser)


def add_which(parser: argparse.ArgumentParser) -> None:
    """Adds which parameters of a run, and what weights may not tell."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        '--best', action='store_true', default=None,
        help='of a run, the parameters best on val; the default where val chose',
    )  # fmt: skip
    which.add_argument(
        '--last', action='store_false', dest='best', help='of a run, the last ones'
    )
    parser.add_argument(
        '--num_heads', metavar='K', type=positive,
        help='attention heads, of weights that do not tell',
    )  # fmt: skip


def model_options(args: argparse.Namespace) -> dict[str, Any]:
    """What `vit_jax.load` has to know beside the reference."""
    return {'best': args.best, 'num_heads': args.num_heads}


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


def add_dataset(parser: argparse.ArgumentParser, split: bool = True) -> None:
    """Adds --dataset and where TFDS finds it; and --split, of which there is one."""
    parser.add_argument(
        '--dataset',
        help='TFDS name, folder, manifest.csv or hf:owner/name; default: the one that '
        'the model was trained on',
    )
    if split:
        parser.add_argument('--split', help='as in TFDS; default: the test split')
    parser.add_argument('--tfds_data_dir', help='default: as in training')
    parser.add_argument('--tfds_manual_dir', help='default: as in training')


def add_batches(parser: argparse.ArgumentParser, batch: int = 128) -> None:
    """Adds how the images of a dataset are read."""
    parser.add_argument(
        '--batch', type=positive, default=batch, help=f'images at once ({batch})'
    )
    parser.add_argument(
        '--num_workers', type=int, default=0, help='processes that read; 0: threads'
    )
    parser.add_argument(
        '--skip_corrupt', action='store_true', default=None,
        help='leave out images that do not decode, instead of stopping; default: as '
        'in training',
    )  # fmt: skip


def skips(args: argparse.Namespace, card: 'ModelCard') -> bool:
    """Whether images that do not decode are left out: as is said, or as in training."""
    own = bool(card.source.get('skip_corrupt'))
    return own if args.skip_corrupt is None else args.skip_corrupt


def dataset_of(
    args: argparse.Namespace, card: 'ModelCard', *, to_learn: bool = False
) -> 'data.Dataset':
    """Returns the dataset that the command line names, or else the model's own.

    Args:
        args: of a parser with `add_dataset`.
        card: of the model.
        to_learn: whether something is learned from it: then a part is held out, where
            it has no splits. Otherwise all of it is looked at.

    Raises:
        ValueError: neither names one, or it cannot be opened.
    """
    from vit_jax import data

    name = args.dataset or card.source.get('dataset')
    if not name:
        raise ValueError(
            'the model does not say what it was trained on: name images with labels '
            'by --dataset'
        )
    return data.open_dataset(
        name,
        data_dir=args.tfds_data_dir or card.source.get('tfds_data_dir'),
        manual_dir=args.tfds_manual_dir or card.source.get('tfds_manual_dir'),
        holdout=(
            card.source.get('holdout', 0.1) if to_learn or is_own(args, card) else 0.0
        ),
    )


def is_own(args: argparse.Namespace, card: 'ModelCard') -> bool:
    """Whether the dataset is the one that the model was trained on."""
    own = card.source.get('dataset')
    return args.dataset is None or (
        own is not None
        and own in (args.dataset, os.path.abspath(os.path.expanduser(args.dataset)))
    )


def split_of(
    args: argparse.Namespace, card: 'ModelCard', dataset: 'data.Dataset'
) -> str:
    """Returns the split that the command line names, or else the one to judge on.

    That is the run's test split, where the dataset is the run's own; or the dataset's
    split of that name; or all, where it has no splits.

    Raises:
        ValueError: there is none.
    """
    own = card.source.get('test_split') if is_own(args, card) else None
    if split := args.split or own:
        return split
    if 'test' in dataset.splits:
        return 'test'
    if len(dataset.splits) == 1:
        return 'all'
    raise ValueError(
        f'{dataset.name} has no split named test, but {", ".join(dataset.splits)}: '
        'name one by --split'
    )


def judgement_of(args: argparse.Namespace, predictor: 'Predictor') -> 'Judgement':
    """Returns the judgement of a model on the split that is named.

    Args:
        args: as `vit_jax.evaluate` has them.
        predictor: the model.

    Raises:
        ValueError: the dataset or the split is unknown, or its classes are not those
            of the model.
    """
    from vit_jax.evaluation import judgement

    card = predictor.card
    dataset = dataset_of(args, card)
    split = split_of(args, card, dataset)
    source = dataset.source(split)
    log.info('Judging %s images of %s %s …', f'{len(source):,}', dataset.name, split)
    return judgement.predict_split(
        predictor,
        source,
        judgement.label_map(source.class_names, card.class_names, card.num_classes),
        batch=args.batch,
        num_workers=args.num_workers,
        skip_corrupt=skips(args, card),
        about={
            'checkpoint': str(checkpoint_of(args)),
            'dataset': args.dataset or card.source['dataset'],
            'split': split,
        },
    )


def positive(text: str) -> int:
    """Returns a whole number of at least 1."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def run(name: str, command: Callable[[], int]) -> int:
    """Returns the command's exit code.

    2 after telling the user of their error; 130 if the user stopped it.
    """
    from vit_jax.runtime import compilation_cache

    compilation_cache.enable()
    # What the package warns of goes to the terminal, for as long as the command runs.
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f'{name}: %(message)s'))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False  # libraries give the root a handler of their own
    try:
        return command()
    except BrokenPipeError:  # `| head`: see terminal.py
        raise
    except (ValueError, OSError) as error:
        # The pipeline names the key of a training run.
        message = str(error).replace(
            '--config.skip_corrupt=True takes the next good image instead',
            '--skip_corrupt leaves such images out',
        )
        print(f'{name}: {message}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
        log.propagate = True
