"""How fast the input and the step are, measured on a few of each."""

import contextlib
import itertools
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from vit_jax import data
from vit_jax.forecast.program import _HOST_BATCHES, _Program
from vit_jax.runtime import memory
from vit_jax.runtime.memory import Taken
from vit_jax.training import input as input_lib
from vit_jax.training import loop
from vit_jax.training.loop import training_steps
from vit_jax.training.state import TrainState

# Seconds that a measurement may take; the first compiled step is not among them.
_SECONDS = 6.0
_MOST_STEPS = 30


def _input_rate(config: ConfigDict, source: data.Source) -> float:
    """Returns the images per second of the input by itself."""
    few = config.copy_and_resolve_references()
    few.batch = min(config.batch, 128)
    with contextlib.closing(input_lib.train_batches(few, source, 0)) as batches:
        next(batches)
        # What was made while the first was awaited is not counted.
        for _ in range(_HOST_BATCHES - 1):
            next(batches)
        begin, images = time.perf_counter(), 0
        for _ in range(16):
            images += len(next(batches)['label'])
            if time.perf_counter() - begin > _SECONDS / 2:
                break
        return images / (time.perf_counter() - begin)


def _alone(program: _Program, step: Any) -> float:
    """Returns the seconds of a step whose batch is on the devices already."""
    batches = itertools.repeat(program.numbers())
    return _seconds(training_steps(step, program.state(), batches, 0, 2 + _MOST_STEPS))


def _as_in_the_run(program: _Program, step: Any, source: data.Source) -> float:
    """Returns the seconds of a step with the run's input, as the run will take them."""
    config = program.config
    with contextlib.closing(input_lib.train_batches(config, source, 0)) as host_batches:
        batches = loop.on_devices(host_batches, program.mesh, config.prefetch)
        return _seconds(
            training_steps(step, program.state(), batches, 0, 2 + _MOST_STEPS)
        )


def _seconds(steps: Iterator[tuple[int, TrainState, Mapping[str, Any]]]) -> float:
    """Returns the mean time of steps, the first one left out."""
    _, _, values = next(steps)
    values['loss'].block_until_ready()
    begin = time.perf_counter()
    _, _, values = next(steps)
    values['loss'].block_until_ready()
    more = math.ceil(_SECONDS / (time.perf_counter() - begin))
    more = min(max(more, 1), _MOST_STEPS)
    # A run as well waits for the device only now and then.
    *_, (_, _, values) = itertools.islice(steps, more)
    values['loss'].block_until_ready()
    return (time.perf_counter() - begin) / (1 + more)


def _slope(
    program: _Program, taken: Taken, other: _Program, less: Taken, on_cpu: bool
) -> float:
    """Returns the bytes that another image in each part adds."""
    one, two = (p.config.batch // p.config.accum_steps for p in (program, other))
    grown = (taken.total - taken.arguments) - (less.total - less.arguments)
    return max(grown, 0) / (one - two) * (jax.local_device_count() if on_cpu else 1)


def _largest_batch(program: _Program, room: int, slope: float) -> int | None:
    """Returns about how many images fit in as many parts."""
    config, devices = program.config, program.mesh.size
    copies = _HOST_BATCHES + config.prefetch + 1
    on_cpu = jax.default_backend() == 'cpu'
    image = memory.size(program.batch()) / config.batch
    image *= copies * jax.local_device_count() if on_cpu else 1 + config.prefetch
    per_image = slope / config.accum_steps + image
    unit = devices * config.accum_steps
    return max(0, int((config.batch + room / per_image) // unit * unit))


def _refined(
    program: _Program, taken: Taken, largest: int, usable: int, baseline: int
) -> int:
    """Returns the largest batch anew, from what the one that was guessed takes."""
    parts = program.config.accum_steps
    guessed = program.with_batch(largest, parts)
    unit = program.mesh.size * parts
    if largest == program.config.batch:
        return largest

    def needed(program: _Program, taken: Taken) -> int:
        peak, process = program.peak(taken, None, 0, baseline)
        return peak if process is None else process

    one = needed(program, taken)
    two = needed(guessed, Taken.by(guessed.compile_step()))
    per_image = (two - one) / (largest - program.config.batch)
    if per_image <= 0:
        return largest
    batch = program.config.batch + (usable - one) / per_image
    return max(0, int(batch // unit * unit))


def _evaluation_seconds(
    config: ConfigDict,
    sources: Mapping[str, data.Source],
    start: int,
    seconds_per_image: float,
    input_rate: float,
) -> float:
    """Returns about how long all evaluations take: a third of a step, or the input."""
    seconds = max(seconds_per_image / 3, 1 / input_rate)
    images = sum(len(sources[role]) for role in ('val', 'test') if role in sources)
    if 'val' in sources and config.eval_every:
        times = config.total_steps // config.eval_every - start // config.eval_every
        images += times * len(sources['val'])
    return images * seconds
