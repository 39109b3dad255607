"""What a run hands back at its end."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

from vit_jax import config as config_lib
from vit_jax import data
from vit_jax.runtime import compiler
from vit_jax.training.checkpoints import TrainCheckpoints
from vit_jax.training.state import TrainState, num_params

log = logging.getLogger(__name__)


def _candidates(
    state: TrainState, checkpoints: TrainCheckpoints
) -> Iterator[tuple[str, int, PyTree]]:
    """Yields (name, step, params) of the parameters that a run can hand back."""
    step = int(state.step)
    yield 'last', step, state.params
    if (best := checkpoints.best()) is not None:
        at = int(best['step'])
        if at == step:
            yield 'best', at, state.params
        else:
            yield 'best', at, checkpoints.restore(at, state.to_saved())['params']


def _summary(step: int, results: list[dict[str, Any]]) -> dict[str, float]:
    """Returns the final metrics by name."""
    summary = {'step': step}
    for row in results:
        prefix = 'best_' if row['parameters'] == 'best' else ''
        summary[f'{prefix}step'] = row['step']
        for name in ('accuracy', 'loss'):
            summary[f'{prefix}{row["role"]}_{name}'] = row[name]
    return summary


def _announce(
    config: ConfigDict,
    dataset: data.Dataset,
    sources: Mapping[str, data.Source],
    state: TrainState,
    mesh: Mesh,
    start: int,
) -> None:
    """Tells what is about to happen."""
    counts = ', '.join(
        f'{len(source)} {role} ({config.pp[role]})' for role, source in sources.items()
    )
    log.info(
        '%s: %d classes; examples: %s', dataset.name, len(dataset.class_names), counts
    )
    if 'val' not in sources:
        log.info('Nothing is held out: no parameters are chosen, only the last kept.')
    log.info(
        '%s, %s parameters, images %s, from %s',
        config.model.get('model_name', 'The model'),
        f'{num_params(state.params):,}',
        'x'.join(str(side) for side in config_lib.image_size(config)),
        f'step {start} of this run' if start else config.pretrained or 'scratch',
    )
    log.info(
        'Steps %d to %d, batch %d in %d parts, on %d %s',
        start,
        config.total_steps,
        config.batch,
        config.accum_steps,
        mesh.size,
        jax.devices()[0].device_kind,
    )
    for name, value in compiler.options().items():
        log.info('The step is compiled with %s=%r; XLA_FLAGS wins.', name, value)
