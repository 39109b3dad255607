"""What a run says at its beginning and hands back at its end."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jaxtyping import PyTree

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax.evaluation import intervals
from vit_jax.files.run_record import TRAIN_LOG
from vit_jax.runtime import compiler, hosts
from vit_jax.training.checkpoints import TrainCheckpoints
from vit_jax.training.evaluators import VAL, Scheduled, Split
from vit_jax.training.plan import Plan
from vit_jax.training.run_directory import RunDirectory
from vit_jax.training.state import TrainState
from vit_jax.words.tables import table

log = logging.getLogger(__name__)


def announce(plan: Plan, state: TrainState) -> None:
    """Tells what is about to happen."""
    config, dataset, start = plan.config, plan.dataset, plan.start or 0
    counts = ', '.join(
        f'{len(source)} {role} ({config.pp[role]})'
        for role, source in plan.sources.items()
    )
    log.info(
        '%s: %d classes; examples: %s', dataset.name, len(dataset.class_names), counts
    )
    if VAL not in plan.sources:
        log.info('Nothing is held out: no parameters are chosen, only the last kept.')
    log.info(
        '%s, %s parameters, images %s, from %s',
        config.model.get('model_name', 'The model'),
        f'{models.num_parameters(state.params):,}',
        'x'.join(str(side) for side in config_lib.image_size(config)),
        f'step {start} of this run' if start else config.pretrained or 'scratch',
    )
    log.info(
        'Steps %d to %d, batch %d%s, on %d %s',
        start,
        config.total_steps,
        config.batch,
        f' in {config.accum_steps} parts' if config.accum_steps > 1 else '',
        plan.mesh.size,
        jax.devices()[0].device_kind,
    )
    for name, value in compiler.options().items():
        text = 'The step is compiled with %s=%r; XLA_FLAGS wins.'
        TRAIN_LOG.info(text, name, value)


def finish(
    plan: Plan,
    state: TrainState,
    run: RunDirectory,
    checkpoints: TrainCheckpoints,
    evaluators: Sequence[Scheduled],
) -> tuple[PyTree, dict[str, float]]:
    """Judges the last weights and the best on val, and writes both with their card.

    Returns:
        The last weights in the published layout, and the final metrics by name.
    """
    judges = {e.name: e.evaluate for e in evaluators if e.name == VAL}
    if 'test' in plan.sources:
        judges['test'] = Split(plan, 'test')
    results = []
    # First, so that no weights are ever without what must be known to use them.
    with hosts.raise_on_all():
        run.save_card(plan.card())
    for which, step, weights in _candidates(state, checkpoints):
        run.save_model(which, models.unstack(weights))
        results += [
            {
                'parameters': which,
                'step': step,
                'role': role,
                'split': plan.config.pp[role],
                **judge(weights, step),
            }
            for role, judge in judges.items()
        ]
    for judge in judges.values():
        if judge.skipped:
            run.note_skipped(judge.skipped.items())
    summary = _summary(int(state.step), results)
    with hosts.raise_on_all():
        run.save_card(plan.card(results))
        run.finish(results, summary)
    if results:
        log.info('Results:\n%s', table(list(map(_with_interval, results))))
    return models.unstack(state.weights), summary


def _with_interval(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the results with the 95 % interval of its accuracy beside it."""
    shown = {}
    for name, value in row.items():
        shown[name] = value
        if name == 'accuracy':
            low, high = intervals.wilson(value, row['num_examples'])
            shown['95 %'] = f'{low:.4f}-{high:.4f}'
    return shown


def _candidates(
    state: TrainState, checkpoints: TrainCheckpoints
) -> Iterator[tuple[str, int, PyTree]]:
    """Yields (name, step, weights) of what a run can hand back."""
    step = int(state.step)
    yield 'last', step, state.weights
    if (best := checkpoints.best()) is not None:
        at = int(best['step'])
        if at != step:
            saved = checkpoints.restore(at, state.to_saved())
            state = TrainState.from_saved(saved)
        yield 'best', at, state.weights


def _summary(step: int, results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Returns the final metrics by name."""
    summary = {'step': step}
    described = {'parameters', 'step', 'role', 'split', 'num_examples'}
    for row in results:
        prefix = 'best_' if row['parameters'] == 'best' else ''
        summary[f'{prefix}step'] = row['step']
        for name in row.keys() - described:
            summary[f'{prefix}{row["role"]}_{name}'] = row[name]
    return summary
