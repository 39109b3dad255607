"""Evaluation: every example of a split exactly once, on any number of devices.

Training asks for two numbers, which `evaluate` sums up on the devices. `python -m
vit_jax.evaluate REF --dataset … --split …` judges a model that training has left, and
keeps what it said of every example: see `judgement`.
"""

import argparse
import importlib.util
import json
import logging
import pathlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vit_jax.command_line import arguments, terminal
from vit_jax.words.tables import table

if TYPE_CHECKING:
    from vit_jax.evaluation.judgement import Judgement
    from vit_jax.inference.predictor import Predictor

log = logging.getLogger(__name__)

# With more classes, the terminal is not the place to look at each.
_CLASSES_TOLD = 20
_PAIRS_TOLD = 5


def main(argv: list[str] | None = None) -> int:
    """Evaluates a checkpoint from the command line; returns the exit code.

    0: done; 1: done, but some images do not decode; 2: the user's error.
    """
    parser = argparse.ArgumentParser(
        prog='python -m vit_jax.evaluate',
        description='Judges a model on every example of a split; or tells again what '
        'was judged, from the predictions.npz that --out has left.',
    )
    arguments.add_checkpoint(parser)
    arguments.add_dataset(parser)
    arguments.add_batches(parser)
    parser.add_argument(
        '--out', metavar='DIR',
        help='write predictions, per-class results, the confusion matrix and the worst '
        'mistakes to this folder, as CSV, JSON and figures; and predictions.npz',
    )  # fmt: skip
    parser.add_argument('--json', action='store_true', help='print one line of JSON')
    args = parser.parse_args(argv)
    return arguments.run('evaluate', lambda: _main(args))


def _main(args: argparse.Namespace) -> int:
    from vit_jax.evaluation import intervals
    from vit_jax.evaluation.judgement import Judgement, is_saved

    reference = arguments.checkpoint_of(args)
    if is_saved(reference):
        predictor, judgement = None, Judgement.load(reference)
    else:
        from vit_jax.inference.predictor import Predictor

        predictor = Predictor.load(reference, **arguments.model_options(args))
        judgement = arguments.judgement_of(args, predictor)
    about, metrics = judgement.about, judgement.metrics()
    count = metrics['num_examples']
    if args.out is not None:
        for path in write(
            judgement, predictor, {**about, **metrics}, pathlib.Path(args.out)
        ):
            print(path, file=sys.stderr if args.json else sys.stdout)
    if args.json:
        print(json.dumps({**about, **metrics}))
        return int(judgement.num_skipped > 0)
    print(
        '{checkpoint}: {num_examples} examples of {dataset} {split}: accuracy '
        '{text}, loss {loss:.4f}'.format(
            text=intervals.text(metrics['accuracy'], count), **about, **metrics
        )
    )
    if 'top_5_accuracy' in metrics:
        print('top-5 accuracy', intervals.text(metrics['top_5_accuracy'], count))
    error = intervals.calibration_text(metrics['calibration_error'], count)
    print('expected calibration error', error)
    rows = judgement.per_class()
    if len(rows) <= _CLASSES_TOLD:
        print(table(rows))
    wrong = [row for row in judgement.confused if row[0] != row[1]][:_PAIRS_TOLD]
    for right, said, count in wrong:
        names = judgement.class_names
        print(f'{names[right]} taken for {names[said]}: {count}')
    return int(judgement.num_skipped > 0)


def write(
    judgement: 'Judgement',
    predictor: 'Predictor | None',
    metrics: Mapping[str, Any],
    out: pathlib.Path,
) -> list[pathlib.Path]:
    """Writes tables and, where matplotlib is installed, figures; returns the files.

    Args:
        judgement: see `evaluation.tables.write`.
        predictor: the model; None: without the photos of mistakes.
        metrics: what metrics.json holds.
        out: the folder.
    """
    from vit_jax.evaluation import tables

    out = out.expanduser()
    files = tables.write(judgement, metrics, out)
    if importlib.util.find_spec('matplotlib') is None:
        log.warning("No figures: they need pip install 'vit_jax[plot]'.")
        return files
    from vit_jax.visualize import drawing, judged

    for name, figure in judged.all_figures(judgement, predictor).items():
        files.append(out / f'{name}.png')
        drawing.save(figure, files[-1])
    if predictor is None:
        log.warning('mistakes.png is left out: its photos take the model and its data.')
    return files


if __name__ == '__main__':
    sys.exit(terminal.run(main))
