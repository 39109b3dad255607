"""How fast the input and the step are, measured on a few of each."""

import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from vit_jax import data
from vit_jax.forecast.program import HOST_BATCHES, Program
from vit_jax.runtime import memory
from vit_jax.runtime.memory import MemoryUse
from vit_jax.training import input as input_lib
from vit_jax.training.loop import training_steps
from vit_jax.training.plan import Plan
from vit_jax.training.state import TrainState

# Seconds that a measurement may take; the first compiled step is not among them.
_SECONDS = 6.0
_MOST_STEPS = 30
# Seconds that a small checkpoint takes on two cores, and the end of a small run; and
# the bytes per second of a disk: from the log of one quickstart, and a guess.
_SAVING, _ENDING, _DISK_RATE = 0.3, 1.5, 3e8


def input_rate(plan: Plan) -> float:
    """Returns the images per second of a plan's input by itself."""
    few = plan.config.copy_and_resolve_references()
    few.batch = min(few.batch, 128)
    images = plan.images  # decoded already, if the run keeps them so
    with contextlib.closing(input_lib.train_batches(few, images, 0)) as batches:
        next(batches)
        # What was made while the first was awaited is not counted.
        for _ in range(HOST_BATCHES - 1):
            next(batches)
        begin, images = time.perf_counter(), 0
        for _ in range(16):
            images += len(next(batches)['label'])
            if time.perf_counter() - begin > _SECONDS / 2:
                break
        return images / (time.perf_counter() - begin)


def with_few_images(plan: Plan) -> Plan:
    """Returns the plan with as much of a cache of images as a measurement needs.

    A run that keeps its images decoded makes all of them at its start, which may take
    hours, on disk too; a forecast keeps two batches of them in memory. They are read
    as the run reads its own.
    """
    if plan.config.cache.where is None:
        return plan
    config = plan.config.copy_and_resolve_references()
    config.cache.where = 'memory'
    train = plan.sources['train']
    few = data.Picked.spread(train, min(2 * config.batch, len(train)))
    sources = {**plan.sources, 'train': few}
    return dataclasses.replace(plan, config=config, sources=sources)


def cache_bytes(plan: Plan, few: Plan) -> int:
    """Returns the memory that a run's decoded images take, from those of a few."""
    if plan.config.cache.where != 'memory':
        return 0
    return round(few.images.nbytes / len(few.images) * len(plan.sources['train']))


def alone(program: Program, step: Any) -> float:
    """Returns the seconds of a step whose batch is on the devices already."""
    batches = itertools.repeat(program.numbers())
    return _seconds(training_steps(step, program.state(), batches, 0, 2 + _MOST_STEPS))


def scaled_up(probe: Program, batch: int, images_per_second: float) -> float:
    """Returns about the seconds of a step of a larger batch than is tried.

    Args:
        probe: what is tried.
        batch: of the run.
        images_per_second: of its input.
    """
    seconds = alone(probe, probe.compile_step())
    return max(seconds / probe.config.batch, 1 / images_per_second) * batch


def as_in_the_run(program: Program, step: Any, few: Plan) -> float:
    """Returns the seconds of a step with the run's input, as the run will take them.

    Args:
        program: of the run.
        step: compiled.
        few: from `with_few_images`.
    """
    plan = program.plan
    with contextlib.closing(few.input()) as host_batches:
        batches = input_lib.on_devices(host_batches, plan.mesh, plan.config.prefetch)
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


def slope(
    program: Program, use: MemoryUse, other: Program, less: MemoryUse, on_cpu: bool
) -> float:
    """Returns the bytes that another image in each part adds."""
    one, two = (p.config.batch // p.config.accum_steps for p in (program, other))
    grown = (use.total - use.arguments) - (less.total - less.arguments)
    return max(grown, 0) / (one - two) * (jax.local_device_count() if on_cpu else 1)


def largest_batch(program: Program, room: int, slope: float) -> int | None:
    """Returns about how many images fit in as many parts."""
    config, devices = program.config, program.plan.mesh.size
    copies = HOST_BATCHES + config.prefetch + 1
    on_cpu = jax.default_backend() == 'cpu'
    image = memory.size(program.batch()) / config.batch
    image *= copies * jax.local_device_count() if on_cpu else 1 + config.prefetch
    per_image = slope / config.accum_steps + image
    unit = devices * config.accum_steps
    return max(0, int((config.batch + room / per_image) // unit * unit))


def refined(
    program: Program, use: MemoryUse, largest: int, usable: int, baseline: int
) -> int:
    """Returns the largest batch anew, from what the one that was guessed takes."""
    parts = program.config.accum_steps
    guessed = program.with_batch(largest, parts)
    unit = program.plan.mesh.size * parts
    if largest == program.config.batch:
        return largest

    def needed(program: Program, use: MemoryUse) -> int:
        peak, process = program.peak(use, None, 0, baseline)
        return peak if process is None else process

    one = needed(program, use)
    two = needed(guessed, MemoryUse.of(guessed.compile_step()))
    per_image = (two - one) / (largest - program.config.batch)
    if per_image <= 0:
        return largest
    batch = program.config.batch + (usable - one) / per_image
    return max(0, int(batch // unit * unit))


def evaluation_seconds(
    plan: Plan, seconds_per_image: float, images_per_second: float
) -> float:
    """Returns about how long all evaluations take: a third of a step, or the input.

    Args:
        plan: of the run.
        seconds_per_image: of a training step.
        images_per_second: of the input.
    """
    config, sources, start = plan.config, plan.sources, plan.start or 0
    seconds = max(seconds_per_image / 3, 1 / images_per_second)
    images = sum(len(sources[role]) for role in ('val', 'test') if role in sources)
    if 'val' in sources and config.eval_every:
        images *= 2  # at the end, the last parameters and the best
        times = config.total_steps // config.eval_every - start // config.eval_every
        images += times * len(sources['val'])
    return images * seconds


def saving_seconds(plan: Plan) -> float:
    """Returns about how long the checkpoints hold a run up, and its end takes.

    They are written beside the steps: what remains is a copy of the state each time,
    and work for the same cores. At the end the last one, and the models, are awaited.
    """
    config, start = plan.config, plan.start or 0
    size = plan.bytes_on_disk() / (config.keep_checkpoints + 2)
    rhythms = [config.checkpoint_every]
    if 'val' in plan.sources:
        rhythms.append(config.eval_every)  # each may be the best so far
    saves = {
        step
        for every in rhythms
        if every
        for step in range(start + every, config.total_steps, every)
    }
    each = _SAVING + size / _DISK_RATE
    return len(saves) * each + _ENDING + 2 * size / _DISK_RATE
