"""Few-shot linear classification on frozen features: python -m vit_jax.few_shot.

Dosovitskiy et al., 2020, section 4.1: a regularized least-squares regression maps the
features of a few training images per class to targets -1 and 1. It has a closed form,
so that the number says something about the features and nothing about an optimizer.
The details are those of the authors' own evaluations: the pre-logits, whitened with
mean and deviation of the few images, a constant feature of 100 beside them, λ = 1024.
One differs: images keep their aspect ratio when their shorter side becomes 256, while
theirs become 256 x 256, before both are cropped to 224.
"""

import argparse
import contextlib
import csv
import dataclasses
import json
import sys
from typing import Any

import numpy as np

from vit_jax.command_line import arguments, terminal
from vit_jax.evaluation.few_shot import (
    L2_REG,
    SEEDS,
    SHOTS,
    _names,
    check,
    few_shot_accuracies,
)
from vit_jax.words.tables import table


def main(argv: list[str] | None = None) -> int:
    """Runs the protocol from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog='python -m vit_jax.few_shot',
        description='Accuracy of a linear classifier, learned from a few images per '
        'class, on the features of a model.',
    )
    arguments.add_checkpoint(parser)
    arguments.add_dataset(parser, split=False)
    parser.add_argument('--train_split', help='to choose from; default: as in training')
    parser.add_argument(
        '--test_split', '--split', dest='split', metavar='TEST_SPLIT',
        help='to be judged on; default: the test split',
    )  # fmt: skip
    parser.add_argument(
        '--shots', type=int, nargs='+', default=SHOTS, metavar='N',
        help='training images per class (1 5 10 25)',
    )  # fmt: skip
    parser.add_argument('--seeds', type=int, default=SEEDS, help='choices of them (3)')
    parser.add_argument(
        '--l2_reg', type=float, default=L2_REG, help='the weight λ of |W|² (1024)'
    )
    parser.add_argument(
        '--size', type=arguments.positive,
        help='side of the images in pixels; default: what the model was trained on',
    )  # fmt: skip
    parser.add_argument(
        '--resize', type=int,
        help='shorter side before the centre crop; 0: none; default: 8/7 of the size, '
        'which for 224 is 256',
    )  # fmt: skip
    arguments.add_batches(parser)
    parser.add_argument('--format', choices=('table', 'json', 'csv'), default='table')
    args = parser.parse_args(argv)
    return arguments.run('few_shot', lambda: _main(args))


def _main(args: argparse.Namespace) -> int:
    # Libraries tell there what they prepare; standard output is for the results.
    with contextlib.redirect_stdout(sys.stderr):
        found = judge_checkpoint(args)
    rows = found['few_shot']
    shown = ('shots', 'mean', 'std', 'num_train')
    brief = [{name: row[name] for name in shown} for row in rows]
    if args.format == 'json':
        print(json.dumps(found))
    elif args.format == 'csv':
        writer = csv.DictWriter(sys.stdout, shown, lineterminator='\n')
        writer.writeheader()
        writer.writerows(brief)
    else:
        print(table(brief))
    for row in rows:
        if fewer := row['fewer']:
            classes = [f'{name} ({number})' for name, number in fewer.items()]
            print(
                f'few_shot: fewer than {row["shots"]} training images, so all of them: '
                f'{_names(range(len(classes)), classes)}',
                file=sys.stderr,
            )
    if skipped := rows[0]['skipped']:
        print(
            f'few_shot: {skipped} images do not decode and were left out',
            file=sys.stderr,
        )
    return int(skipped > 0)


def judge_checkpoint(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the results of a checkpoint, and how they came about.

    Args:
        args: as in `main`.

    Raises:
        ValueError: model, dataset or splits are not there or do not fit together.
    """
    from vit_jax.inference.predictor import Predictor

    reference = arguments.checkpoint_of(args)
    # Before any work.
    check(np.arange(2), np.arange(2), args.shots, args.seeds, args.l2_reg)
    size = None if args.size is None else (args.size, args.size)
    predictor = Predictor.load(
        reference, image_size=size, **arguments.model_options(args)
    )
    card = predictor.card
    resize = args.resize
    if resize is None:
        resize = round(min(card.image_size) * 8 / 7)
    elif resize < 0 or 0 < resize < max(card.image_size):
        raise ValueError(
            f'--resize is {resize}, smaller than the crop of '
            f'{max(card.image_size)} pixels that is cut from it; 0 resizes straight '
            'to the size'
        )
    predictor.card = dataclasses.replace(card, resize=resize or None)
    dataset = arguments.dataset_of(args, card, to_learn=True)
    own = None if args.dataset else card.source.get('train_split')
    train_split = args.train_split or own or 'train'
    test_split = arguments.split_of(args, card, dataset)
    rows = few_shot_accuracies(
        predictor,
        dataset.source(train_split),
        dataset.source(test_split),
        shots=args.shots,
        seeds=args.seeds,
        l2_reg=args.l2_reg,
        batch=args.batch,
        num_workers=args.num_workers,
        skip_corrupt=arguments.skips(args, card),
    )
    return {
        'checkpoint': str(reference),
        'dataset': dataset.name,
        'train_split': train_split,
        'test_split': test_split,
        'image_size': list(card.image_size),
        'resize': predictor.card.resize,
        'l2_reg': args.l2_reg,
        'few_shot': rows,
    }


if __name__ == '__main__':
    sys.exit(terminal.run(main))
