"""python -m vit_jax.compare A B …: whether there is evidence that one is better.

    python -m vit_jax.compare runs/small runs/large
    python -m vit_jax.compare judged-small/predictions.npz judged-large

Each is a run, or any other model that vit_jax.load takes, which then judges the split
that is named (its own test split otherwise); or what `python -m vit_jax.evaluate --out`
has left, which takes no model. All must have judged the same images.

Every other one is compared with the first, image by image: McNemar's exact test says
how often chance alone would make such a difference (with Holm's correction where there
are several), and intervals say how large it may be.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
from typing import TYPE_CHECKING

from vit_jax.command_line import arguments, terminal
from vit_jax.words.tables import table

if TYPE_CHECKING:
    from vit_jax.evaluation.judgement import Judgement


def main(argv: list[str] | None = None) -> int:
    """Compares models from the command line; returns the exit code.

    0: done; 1: done, but some images do not decode; 2: the user's error.
    """
    summary, _, details = __doc__.partition('\n\n')
    parser = argparse.ArgumentParser(
        prog='python -m vit_jax.compare',
        description=summary.partition(': ')[2],
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'references', metavar='A', nargs='+', help='models, or predictions.npz'
    )
    arguments.add_which(parser)
    arguments.add_dataset(parser)
    arguments.add_batches(parser)
    parser.add_argument('--json', action='store_true', help='print one line of JSON')
    args = parser.parse_args(argv)
    return arguments.run('compare', lambda: _main(args))


def _main(args: argparse.Namespace) -> int:
    from vit_jax.compare import pairs

    names = args.references
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f'found {", ".join(names)}; expected two models or more')
    judgements = [_judgement(name, args) for name in names]
    comparisons = [pairs.compare(judgements[0], other) for other in judgements[1:]]
    adjusted = pairs.holm([comparison.p for comparison in comparisons])
    if args.json:
        print(json.dumps(_as_json(names, judgements, comparisons, adjusted)))
    else:
        _tell(names, judgements, comparisons, adjusted)
    return int(any(judgement.num_skipped for judgement in judgements))


def _judgement(name: str, args: argparse.Namespace) -> 'Judgement':
    """Returns what a model says of the images, or has said."""
    from vit_jax.evaluation.judgement import Judgement, is_saved

    saved = pathlib.Path(name).expanduser()
    if (saved / 'predictions.npz').is_file() and not (saved / 'run.json').exists():
        saved = saved / 'predictions.npz'
    if is_saved(saved):
        return Judgement.load(saved)

    from vit_jax.inference.predictor import Predictor

    predictor = Predictor.load(name, **arguments.model_options(args))
    args = argparse.Namespace(**{**vars(args), 'reference': name, 'checkpoint': None})
    return arguments.judgement_of(args, predictor)


def _tell(names, judgements, comparisons, adjusted) -> None:
    """Prints each model's accuracy, and how each differs from the first."""
    from vit_jax.compare import pairs
    from vit_jax.evaluation import intervals

    rows = []
    for name, judgement in zip(names, judgements, strict=True):
        metrics = judgement.metrics()
        low, high = intervals.wilson(metrics['accuracy'], metrics['num_examples'])
        rows.append(
            {
                'model': name,
                'accuracy': metrics['accuracy'],
                '95 %': f'{low:.4f}-{high:.4f}',
                'loss': metrics['loss'],
                'images': metrics['num_examples'],
            }
        )
    print(table(rows))
    for name, comparison, p in zip(names[1:], comparisons, adjusted, strict=True):
        print(f'\n{name} against {names[0]}, {comparison.num_examples:,} images:')
        for difference in (comparison.accuracy, *comparison.others):
            print(
                f'  {difference.name:<13}{difference.value:+.4f}  '
                f'(95 %: {difference.low:+.4f} to {difference.high:+.4f})'
            )
        print(
            f'  right for {name} alone: {comparison.only_second:,}, for {names[0]} '
            f'alone: {comparison.only_first:,}'
        )
        print(f'  {pairs.verdict(comparison, p, (names[0], name))}')
    if len(comparisons) > 1:
        print(f'\np for {len(comparisons)} comparisons at once (Holm).')


def _as_json(names, judgements, comparisons, adjusted) -> dict:
    """Returns the same as plain values."""
    models = [
        {'model': name, **judgement.metrics()}
        for name, judgement in zip(names, judgements, strict=True)
    ]
    against = [
        {'model': name, **dataclasses.asdict(comparison), 'adjusted_p': p}
        for name, comparison, p in zip(names[1:], comparisons, adjusted, strict=True)
    ]
    return {'models': models, 'against_the_first': against}


if __name__ == '__main__':
    sys.exit(terminal.run(main))
