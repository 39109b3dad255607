"""The loop of steps, with evaluations and checkpoints in between."""

import collections
import contextlib
import logging
from collections.abc import Iterator, Sequence

from jaxtyping import Array

from vit_jax import optim
from vit_jax.data import UndecodableImage, tell_skipped
from vit_jax.runtime import hosts, profiling
from vit_jax.runtime.signals import Interrupted, Interruption
from vit_jax.training import input as input_lib
from vit_jax.training.checkpoints import TrainCheckpoints
from vit_jax.training.evaluators import VAL, Scheduled
from vit_jax.training.metrics import Throughput
from vit_jax.training.pictures import show_images
from vit_jax.training.plan import Plan
from vit_jax.training.reporter import Reporter
from vit_jax.training.run_directory import RunDirectory
from vit_jax.training.state import TrainState
from vit_jax.training.step import Step
from vit_jax.training.stopping import Stopping

log = logging.getLogger(__name__)

# Steps that the host may be ahead of the device.
MAX_IN_FLIGHT = 4


def train(
    plan: Plan,
    state: TrainState,
    run: RunDirectory,
    checkpoints: TrainCheckpoints,
    evaluators: Sequence[Scheduled],
) -> TrainState:
    """Takes the steps; evaluates, saves and tells on the way. Returns the last state.

    Evaluating and saving see state s; only then is batch s drawn.

    Raises:
        FloatingPointError: the loss or a gradient was not finite.
        Interrupted: a signal asked for the end; the state is saved.
    """
    config, start = plan.config, plan.start or 0
    total = config.total_steps
    learning_rate = optim.create_learning_rate_schedule(
        total, config.base_lr, config.decay_type, config.warmup_steps
    )

    def due(every: int) -> bool:
        return bool(every) and (step % every == 0 or step == total)

    pictures = show_images(plan, run)
    stopping, throughput = Stopping(plan), Throughput()
    if stopping.is_last(start, checkpoints.best()):
        return state
    with contextlib.ExitStack() as stack:
        steps = stack.enter_context(_steps(plan, state, run, throughput))
        reporter = stack.enter_context(Reporter(plan, run))
        for name, png in pictures.items():
            reporter.write_picture(name, png)
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
            for evaluator in evaluators:
                if due(evaluator.every):
                    metrics = evaluator.evaluate(state.weights, step)
                    record |= evaluator.record(metrics)
                    val = metrics if evaluator.name == VAL else val
            if record:
                reporter.write(step, record)

            better = val is not None and checkpoints.is_better(step, val)
            best = {'step': step} if better else checkpoints.best()
            last = stopping.is_last(step, best)
            # Asked once: it may come at any moment.
            signum = stopping.signal(step, interruption.signum)
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


@contextlib.contextmanager
def _steps(
    plan: Plan, state: TrainState, run: RunDirectory, throughput: Throughput
) -> Iterator[Iterator[tuple[int, TrainState, dict[str, Array]]]]:
    """Gives the steps of a run, and ends its input with them."""
    config, start = plan.config, plan.start or 0

    def on_skip(image: UndecodableImage) -> None:
        tell_skipped(image)
        run.note_skipped([(image.name, image.reason)])

    with contextlib.closing(plan.input(start, on_skip)) as host_batches:
        batches = input_lib.on_devices(
            throughput.timed(host_batches), plan.mesh, config.prefetch
        )
        steps = training_steps(
            plan.compile_step(state), state, batches, start, config.total_steps
        )
        traced = config.profile_steps if hosts.is_first() else ()
        with contextlib.closing(
            profiling.traced(steps, start, traced, run.path)
        ) as steps:
            yield steps


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
