"""The loop of steps, with evaluations and checkpoints in between."""

import collections
import contextlib
import itertools
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import Array
from ml_collections import ConfigDict

from vit_jax import optim
from vit_jax.runtime import hosts, sharding
from vit_jax.runtime.signals import Interrupted, Interruption
from vit_jax.training import evaluators
from vit_jax.training.checkpoints import TrainCheckpoints
from vit_jax.training.metrics import MetricsLog, Progress, Throughput
from vit_jax.training.run_directory import RunDirectory
from vit_jax.training.state import TrainState
from vit_jax.training.step import Batch, Step

log = logging.getLogger(__name__)


def _train(
    config: ConfigDict,
    run: RunDirectory,
    steps: Iterator[tuple[int, TrainState, dict[str, jax.Array]]],
    start: int,
    throughput: Throughput,
    judge: evaluators.Judge,
    checkpoints: TrainCheckpoints,
    few_shot: evaluators.FewShot,
    pictures: Mapping[str, bytes],
    shared_signal: hosts.SharedSignal,
) -> TrainState:
    """Takes the steps; evaluates, saves and tells on the way. Returns the last state.

    Evaluating and saving see state s; only then is batch s drawn.
    """
    total = config.total_steps
    learning_rate = optim.create_learning_rate_schedule(
        total, config.base_lr, config.decay_type, config.warmup_steps
    )

    def due(every: int) -> bool:
        return bool(every) and (step % every == 0 or step == total)

    with contextlib.ExitStack() as stack:
        if hosts.is_first():
            writer = stack.enter_context(MetricsLog(run.path, start))
            progress = stack.enter_context(Progress(start, total))
            for name, png in pictures.items():
                writer.write_picture(start, name, png)
        interruption = stack.enter_context(Interruption())

        for step, state, values in steps:
            checkpoints.raise_errors()
            throughput.count(config.batch)
            record, val = {}, None
            if due(config.progress_every):
                record = {name: float(value) for name, value in values.items()}
                record['learning_rate'] = float(learning_rate(step - 1))
                record['skipped'] = int(state.skipped)
                record |= throughput.rates()
                _require_finite(state, run)
            if config.pp.val is not None and due(config.eval_every):
                val = judge(state.params, 'val', step)
                record |= {f'val_{name}': val[name] for name in ('accuracy', 'loss')}
            if due(config.few_shot.every):
                record |= few_shot(state.params)
            if record and hosts.is_first():
                writer.write(step, record)
                progress.show(step, record)

            better = val is not None and checkpoints.is_better(step, val)
            last = step == total or _waited_enough(
                config, step, {'step': step} if better else checkpoints.best()
            )
            # Asked once: it may come at any moment.
            signum = shared_signal(step, interruption.signum)
            if better or last or due(config.checkpoint_every) or signum:
                _require_finite(state, run)
                checkpoints.save(step, state.to_saved(), val)
            if record:
                throughput.restart()
            if signum:
                checkpoints.wait()
                log.info('Stopped by a signal; state %d is saved.', step)
                raise Interrupted(signum, step)
            if last:
                break
        checkpoints.wait()
        return state


def on_devices(
    batches: Iterator[Mapping[str, Any]], mesh: Mesh, ahead: int
) -> Iterator[Batch]:
    """Yields batches that are on the devices, with so many more on their way."""
    rows = sharding.batch_sharding(mesh)
    placed = (sharding.to_devices(batch, rows) for batch in batches)
    queue = collections.deque(itertools.islice(placed, ahead))
    for batch in placed:
        queue.append(batch)
        yield queue.popleft()
    yield from queue


def _waited_enough(
    config: ConfigDict, step: int, best: Mapping[str, float] | None
) -> bool:
    """Returns whether early stopping ends the run at this step."""
    patience = config.early_stop * config.eval_every
    return bool(patience and best) and step - best['step'] >= patience


def _require_finite(state: TrainState, run: RunDirectory) -> None:
    """Raises a FloatingPointError that names the first step that went wrong."""
    if (first := int(state.first_nonfinite)) >= 0:
        raise FloatingPointError(
            f'The loss or a gradient was not finite in step {first + 1}; the run '
            f'stopped and saved nothing since. What is in {run.path} is from before. '
            'Lower --config.base_lr or --config.grad_norm_clip, lengthen '
            '--config.warmup_steps, or look at the data of that step.'
            + (
                ' float16 holds numbers up to 65504: --config.dtype=float32 holds more.'
                if state.loss_scale is not None
                else ''
            )
        )


# Steps that the host may be ahead of the device.
MAX_IN_FLIGHT = 4


def training_steps(
    step_fn: Step, state: TrainState, batches: Iterator, start: int, stop: int
) -> Iterator[tuple[int, TrainState, dict[str, Array]]]:
    """Yields (s, state s, what step s - 1 gave) for s from start + 1 to stop.

    Whoever takes state s may evaluate and save it: batch s is drawn only when the
    next state is asked for. Nothing here waits for the device, unless it is
    MAX_IN_FLIGHT steps behind.

    Args:
        step_fn: from `compile_step`; it donates the state.
        state: state `start`.
        batches: on the devices, batch `start` first.
        start: number of steps applied to the state.
        stop: number of steps applied in the end.
    """
    in_flight = collections.deque()
    for step in range(start, stop):
        state, values = step_fn(state, next(batches))
        in_flight.append(values['loss'])
        if len(in_flight) > MAX_IN_FLIGHT:
            in_flight.popleft().block_until_ready()
        yield step + 1, state, values
