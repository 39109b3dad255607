"""What a run would take, before it begins: memory, time, and which knobs to turn.

    python -m vit_jax.main --config=… --workdir=… --dry_run

opens the data and looks into the weights as the run would, compiles the very programs
that it would run, takes a few steps on numbers without meaning, and answers. It makes
no run directory. What it has compiled stays in the compile cache, so that the run
starts faster.

Where the whole step would take too long to try, or does not fit, a part of it is
tried and the time scaled up; the answer says so.
"""

import logging
import os
import pathlib
import time
from collections.abc import Iterator

import jax
import numpy as np
from ml_collections import ConfigDict

from vit_jax import checkpoint, models
from vit_jax import config as config_lib
from vit_jax.checkpoint import pretrained
from vit_jax.files.run_record import RunRecord
from vit_jax.forecast import measure
from vit_jax.forecast.answer import Forecast, is_roomy, title, usable
from vit_jax.forecast.program import Program
from vit_jax.runtime import machine, memory
from vit_jax.runtime.memory import MemoryUse
from vit_jax.training import out_of_memory
from vit_jax.training.plan import Plan, checked, prepare

log = logging.getLogger(__name__)
# Seconds after which nothing more is compiled to say how far the batch could grow.
_ENOUGH = 40.0
# What decides how fast the input is.
_INPUT_KEYS = ('num_workers', 'num_threads', 'cache.where')


def forecast(
    config: ConfigDict, workdir: str | os.PathLike, before: float = 0.0
) -> Forecast:
    """Returns what the run of a configuration would take.

    Args:
        config: as for `train.train_and_evaluate`.
        workdir: the run directory; only looked into. A run in it would go on.
        before: seconds that the command has taken so far, which a run takes as well.

    Raises:
        ValueError: the configuration, the data or the weights do not fit together.
    """
    begin = time.perf_counter()
    observed = machine.restart_peak()
    program = _program(config, workdir)
    config, plan = program.config, program.plan
    started = before + time.perf_counter() - begin
    compiling = time.perf_counter()
    step = program.compile_step()
    use = MemoryUse.of(step)
    judged = _judged(plan)
    evaluation = program.evaluation(judged) if judged else None
    compiling = time.perf_counter() - compiling
    baseline = machine.resident()  # before there are arrays, with all that is imported
    limit = memory.available(jax.devices()[0])
    peak, process = program.peak(use, evaluation, judged, baseline)
    few = measure.with_few_images(plan)
    input_rate = measure.input_rate(few)
    cached = measure.cache_bytes(plan, few)
    if process is not None:
        process += cached
    needed = peak if process is None else process
    fits = limit is None or needed <= usable(limit)
    probe = program.smaller(fits)
    with out_of_memory.explained(config):
        seconds = (
            measure.as_in_the_run(program, step, few)
            if probe is program
            else measure.scaled_up(probe, config.batch, input_rate)
        )
    if probe is program and process is not None and observed:
        # Products of matrices take some memory that the compiler does not count.
        process = needed = max(process, machine.resident('VmHWM') + program.saving())
        fits = limit is None or needed <= usable(limit)

    room = None if limit is None else usable(limit) - needed
    slope = largest = None
    is_asked = not fits or config.accum_steps > 1
    if room is not None and (is_asked or not is_roomy(needed, limit)):
        slope = _slope(program, probe, use, process is not None, begin)
        if slope is not None:
            largest = measure.largest_batch(program, room, slope)
        if largest and time.perf_counter() - begin < _ENOUGH:
            largest = measure.refined(program, use, largest, usable(limit), baseline)
    return Forecast(
        title=title(plan, models.num_parameters(program.shapes.params)),
        step=use,
        evaluation=evaluation,
        state_bytes=memory.size(program.shapes),
        peak_bytes=peak,
        process_bytes=process,
        cache_bytes=cached,
        limit=limit,
        batch=config.batch,
        seconds_per_step=seconds,
        probed=probe.config.batch,
        input_rate=input_rate,
        input=tuple((key, config_lib.flatten(config)[key]) for key in _INPUT_KEYS),
        steps=config.total_steps - (plan.start or 0),
        start_seconds=started,
        compile_seconds=compiling,
        evaluation_seconds=measure.evaluation_seconds(
            plan, seconds / config.batch, input_rate
        ),
        saving_seconds=measure.saving_seconds(plan),
        largest_batch=largest,
        advice=tuple(_advice(program, fits, room, slope, largest)),
        seconds=time.perf_counter() - begin,
    )


def _program(config: ConfigDict, workdir: str | os.PathLike) -> Program:
    """Returns what would be run, if it could be."""
    config = checked(config)
    _require_unfinished(RunRecord(pathlib.Path(workdir).expanduser()))
    plan = prepare(config, workdir)
    plan.check()
    program = Program.of(plan)
    if config.pretrained is not None and plan.start is None:
        _check_weights(program, plan.class_names)
    return program


def _require_unfinished(record: RunRecord) -> None:
    """Raises a ValueError if the run of a directory is complete."""
    if record.summary() is not None:
        raise ValueError(
            f'The run in {record.path} is complete; nothing is left to do.'
        )


class _Unread(checkpoint.Weights):
    """Weights with zeros for all values: what there is of which shape, not read."""

    def __init__(self, weights: checkpoint.Weights):
        self.path, self.card = weights.path, weights.card
        self._weights = weights

    def __getitem__(self, name: str) -> np.ndarray:
        return np.broadcast_to(np.zeros((), np.float32), self.shape(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._weights.shape(name)

    def dtype(self, name: str) -> np.dtype:
        return self._weights.dtype(name)


def _check_weights(program: Program, class_names: tuple[str, ...]) -> None:
    """Raises a ValueError unless the pretrained weights exist and fit."""
    config = program.config
    with checkpoint.open(config.pretrained) as weights:
        pretrained.fit(
            _Unread(weights),
            models.unstack(program.shapes.params),
            config.model,
            image_size=config_lib.image_size(config),
            keep_head=config.keep_head,
            class_names=class_names,
            new_parameters=config.new_parameters,
            place=lambda array, leaf: leaf,
        )


def _slope(
    program: Program, probe: Program, use: MemoryUse, on_cpu: bool, begin: float
) -> float | None:
    """Returns the bytes that another image in each part adds; None: not looked for.

    Args:
        program: of the run.
        probe: what was tried, the run's own program or a smaller one.
        use: of the run's step.
        on_cpu: whether all devices share the memory of the process.
        begin: when the forecast did.
    """
    if probe is program and time.perf_counter() - begin > _ENOUGH:
        return None
    other = probe if probe is not program else program.another_batch()
    if other is None:
        return None
    less = MemoryUse.of(other.compile_step())
    return measure.slope(program, use, other, less, on_cpu)


def _judged(plan: Plan) -> int:
    """Returns the number of examples of the largest split that is evaluated."""
    judged = [plan.sources[role] for role in ('val', 'test') if role in plan.sources]
    return max(map(len, judged), default=0)


def _advice(
    program: Program,
    fits: bool,
    room: int | None,
    slope: float | None,
    largest: int | None,
) -> Iterator[str]:
    """Yields what to turn, if anything."""
    config, devices = program.config, program.plan.mesh.size
    part = config.batch // config.accum_steps
    if not fits:
        parts = None
        if slope:
            parts = next(
                (
                    n
                    for n in out_of_memory.more_parts(config, devices)
                    if room + slope * (part - config.batch // n) >= 0
                ),
                None,
            )
        yield from out_of_memory.knobs(config, devices, parts)
        if largest:
            yield f'--config.batch={largest} (another run, in as many parts)'
    elif slope is not None and config.accum_steps > 1:
        fewer = next(
            (
                n
                for n in range(1, config.accum_steps)
                if config.batch % (n * devices) == 0
                and room >= slope * (config.batch // n - part)
            ),
            None,
        )
        if fewer is not None:
            yield (
                f'--config.accum_steps={fewer} fits as well (parts of '
                f'{config.batch // fewer} images), which is often faster'
            )
