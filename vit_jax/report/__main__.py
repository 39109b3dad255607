"""python -m vit_jax.report RUN_DIR: one HTML file about a run.

Configuration, learning curves, results, confusion matrix, the worst mistakes with
attention over them, what the model has learned, and what it takes to repeat the run.
The file holds everything it shows: it can be sent by mail and opened without a network.
Of a run under way, it says how far that is.
"""

import argparse
import importlib.resources
import logging
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from vit_jax.command_line import arguments, terminal

log = logging.getLogger('vit_jax')

if TYPE_CHECKING:
    from vit_jax import data
    from vit_jax.evaluation.judgement import Judgement
    from vit_jax.inference.predictor import Predictor


def main(argv: list[str] | None = None) -> int:
    """Writes the report of a run; returns the exit code.

    0: done; 1: done, but some images do not decode; 2: the user's error.
    """
    summary, _, details = __doc__.partition('\n\n')
    parser = argparse.ArgumentParser(
        prog='python -m vit_jax.report',
        description=summary.partition(': ')[2],
        epilog=details,
    )
    arguments.add_checkpoint(parser)
    parser.add_argument('--out', metavar='FILE', help='default: RUN_DIR/report.html')
    arguments.add_dataset(parser)
    arguments.add_batches(parser)
    parser.add_argument(
        '--predictions', metavar='FILE',
        help='predictions.npz of vit_jax.evaluate --out, instead of judging again',
    )  # fmt: skip
    args = parser.parse_args(argv)
    return arguments.run('report', lambda: write(args))


def write(args: argparse.Namespace) -> int:
    """Writes a report; `args` as in `main`.

    Raises:
        ValueError: it is no run directory, or a library is missing.
    """
    from vit_jax.runtime import extras

    for library in ('matplotlib', 'jinja2'):  # before any work
        extras.require(library, purpose='a report', install="'vit_jax[plot]'")

    from vit_jax.files import atomic
    from vit_jax.report import contents

    run_dir = pathlib.Path(arguments.checkpoint_of(args)).expanduser()
    values = contents.run_part(run_dir)
    code = 0
    if values['finished']:
        more, code = _model_and_judgement(args)
        values |= more
    out = pathlib.Path(args.out).expanduser() if args.out else run_dir / 'report.html'
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic.replacing(out) as file:
        file.write(render(values).encode())
    print(out)
    return code


def render(values: dict[str, Any]) -> str:
    """Returns the page that shows these values; see `contents`."""
    import jinja2

    from vit_jax.words import units

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters['count'] = units.readable_count
    environment.filters['number'] = _number
    environment.filters['percent'] = _percent
    text = (importlib.resources.files('vit_jax.report') / 'page.html').read_text()
    return environment.from_string(text).render(values)


def _model_and_judgement(args: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """Returns what a finished run shows besides its directory, and the exit code."""
    from vit_jax.checkpoint import references
    from vit_jax.inference.predictor import Predictor
    from vit_jax.report import contents
    from vit_jax.report.private import without_paths

    weights = references.resolve(arguments.checkpoint_of(args), best=args.best)
    predictor = Predictor.load(weights, num_heads=args.num_heads)
    values = {'which': 'best' if weights.name == 'model_best.npz' else 'last'}
    values |= contents.model_part(predictor)
    try:
        judgement = _judgement(args, predictor)
        train = _trained_on(args, predictor)
    except (ValueError, OSError) as error:
        # The data may be gone; the rest of the report is still worth having.
        if args.dataset or args.split:
            raise
        print(f'report: without judging the model again: {error}', file=sys.stderr)
        return values | {'not_judged': without_paths(str(error))}, 1
    log.info('Drawing …')
    values['judged'] = {
        **judgement.about,
        **contents.judged_part(predictor, judgement),
        **contents.data_part(predictor, judgement, train),
    }
    return values, int(judgement.num_skipped > 0)


def _judgement(args: argparse.Namespace, predictor: 'Predictor') -> 'Judgement':
    """Returns the predictions that are named, or makes them."""
    from vit_jax.evaluation.judgement import Judgement

    if args.predictions is None:
        return arguments.judgement_of(args, predictor)
    judgement = Judgement.load(args.predictions)
    if len(judgement.class_names) != predictor.card.num_classes:
        raise ValueError(
            f'{args.predictions} has {len(judgement.class_names)} classes, the model '
            f'{predictor.card.num_classes}: these are the predictions of another one'
        )
    dataset = arguments.dataset_of(args, predictor.card)
    return judgement.with_source(dataset.source(judgement.about['split']))


def _trained_on(
    args: argparse.Namespace, predictor: 'Predictor'
) -> 'data.Source | None':
    """Returns the images that the model was trained on, if these are of that data."""
    split = predictor.card.source.get('train_split')
    if not split or not arguments.is_own(args, predictor.card):
        return None
    return arguments.dataset_of(args, predictor.card).source(split)


def _number(value: Any) -> str:
    """Returns a number as people read it."""
    if isinstance(value, float):
        return f'{value:.4f}'
    return f'{value:,}' if isinstance(value, int) else str(value)


def _percent(value: float | None) -> str:
    """Returns a part of one in percent; nothing divided by nothing is a dash."""
    return '-' if value is None else f'{value:.2%}'


if __name__ == '__main__':
    sys.exit(terminal.run(main))
