"""What a run would take, before it begins: memory, time, and which knobs to turn.

    python -m vit_jax.main --config=… --workdir=… --dry_run

opens the data and looks into the weights as the run would, compiles the very programs
that it would run, takes a few steps on numbers without meaning, and answers. It makes
no run directory. What it has compiled stays in the compile cache, so that the run
starts faster.

Where the whole step would take too long to try, or does not fit, a part of it is
tried and the time scaled up; the answer says so.
"""

import contextlib
import dataclasses
import datetime
import itertools
import json
import logging
import math
import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vit_jax import checkpoint, data, evaluate, memory, models, optim, sharding, train
from vit_jax import config as config_lib
from vit_jax.checkpoint import pretrained
from vit_jax.memory import Taken, readable
from vit_jax.train_state import Initializer, TrainState, num_params
from vit_jax.train_step import compile_step, training_steps

log = logging.getLogger(__name__)

# Seconds that a measurement may take; the first compiled step is not among them.
_SECONDS = 6.0
_MOST_STEPS = 30
# A step that would take longer is not tried whole.
_LONGEST_STEP = 6.0
# Seconds after which nothing more is compiled to say how far the batch could grow.
_ENOUGH = 40.0
# Batches that the pipeline has ready or under way: two ahead, and the one it gives.
_HOST_BATCHES = 3
# Batches that evaluation has on the devices: see evaluate.evaluate.
_EVAL_BATCHES = 3
# Of a state that is saved: as it was at that step, and as it is written.
_SAVED_COPIES = 2
# Share of a device's memory that is left alone: it is never free in one piece.
_SPARE = 0.04


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What a run would take. Bytes are those of one device, unless said otherwise.

    Attributes:
        title: what would be run.
        step: memory of a training step.
        evaluation: memory of an evaluation step; None without.
        state_bytes: of parameters and optimizer state, in `step` already.
        peak_bytes: the most that a device holds at a time, batches in waiting included.
        process_bytes: on the CPU, the most that the whole process takes, all devices
            and Python included; None elsewhere.
        limit: bytes that a device has, or on the CPU the process; None: not told.
        seconds_per_step: in the run, data included.
        probed: images of the step that was tried, the batch unless it was too long.
        input_rate: images per second that the input makes, undisturbed.
        input: the settings that decide that.
        steps: that are left to do.
        evaluation_seconds: of all evaluations, estimated.
        largest_batch: that fits with as many parts; None: not known.
        advice: settings, and why.
        seconds: that the answer took.
    """

    title: str
    step: Taken
    evaluation: Taken | None
    state_bytes: int
    peak_bytes: int
    process_bytes: int | None
    limit: int | None
    batch: int
    seconds_per_step: float
    probed: int
    input_rate: float
    input: tuple[tuple[str, Any], ...]
    steps: int
    evaluation_seconds: float
    largest_batch: int | None
    advice: tuple[str, ...]
    seconds: float

    @property
    def fits(self) -> bool:
        """Whether the memory is enough, as far as that is known."""
        return self.limit is None or _needed(self) <= _usable(self.limit)

    @property
    def keeps_up(self) -> bool:
        """Whether the input by itself is faster than the run."""
        return self.input_rate > 1.1 * self.batch / self.seconds_per_step

    def text(self) -> str:
        """Returns the answer for the terminal."""
        lines = [self.title, *self._memory()]
        tried = (
            ''
            if self.probed == self.batch
            else f', scaled up from {self.probed} of the {self.batch} images'
        )
        lines += [
            f'Step        {_duration(self.seconds_per_step)}, '
            f'{self.batch / self.seconds_per_step:,.0f} images/s{tried}',
            f'Input       {self.input_rate:,.0f} images/s undisturbed: '
            + (
                'it keeps up'
                if self.keeps_up
                else 'the device will wait for data; '
                + ', '.join(f'--config.{key} is {value}' for key, value in self.input)
            ),
            f'Time        {self.steps:,} steps '
            f'{_duration(self.steps * self.seconds_per_step)}, evaluation about '
            f'{_duration(self.evaluation_seconds)}, in all '
            + _duration(self.steps * self.seconds_per_step + self.evaluation_seconds),
        ]
        if self.largest_batch is not None:
            lines.append(
                f'Batch       {self.largest_batch:,} images at most would fit, about'
            )
        lines += [f'Turn        {line}' for line in self.advice]
        lines.append(
            f'Nothing was written to the run directory; this took {self.seconds:.0f} s.'
        )
        return '\n'.join(lines)

    def _memory(self) -> Iterator[str]:
        parts = self.step
        batch = parts.arguments - self.state_bytes
        yield (
            f'Memory      a step {readable(parts.total)} per device: parameters and '
            f'optimizer {readable(self.state_bytes)}, batch {readable(batch)}, '
            f'temporaries {readable(parts.total - parts.arguments)}'
        )
        if self.evaluation is not None:
            yield f'            evaluation {readable(self.evaluation.total)} per device'
        whole = '' if self.process_bytes is None else 'the whole process about '
        limit = (
            'the device does not say how much it has'
            if self.limit is None
            else f'of {readable(self.limit)}: '
            + ('it fits' if self.fits else 'it does NOT fit')
        )
        yield f'            at most {whole}{readable(_needed(self))}, {limit}'


def _needed(forecast: Forecast) -> int:
    return forecast.process_bytes or forecast.peak_bytes


def _usable(limit: int) -> int:
    return int(limit * (1 - _SPARE))


def forecast(config: ConfigDict, workdir: str | os.PathLike) -> Forecast:
    """Returns what the run of a configuration would take.

    Args:
        config: as for `train.train_and_evaluate`.
        workdir: the run directory; only looked into. A run in it would go on.

    Raises:
        ValueError: the configuration, the data or the weights do not fit together.
    """
    begin = time.perf_counter()
    observed = memory.restart_peak()
    config = config.copy_and_resolve_references()
    config_lib.check(config, num_devices=jax.device_count())
    start, before = _found(pathlib.Path(workdir).expanduser())
    dataset = data.open_dataset(
        config.dataset,
        data_dir=config.tfds_data_dir,
        manual_dir=config.tfds_manual_dir,
        holdout=config.pp.holdout,
    )
    sources = train.open_splits(config, dataset)
    train.fill_in(config, len(sources['train']), before)
    train.follow_weights(config, before)
    train.check_filled_in(config, sources)
    program = _Program.of(config, len(dataset.class_names))
    if config.pretrained is not None and before is None:
        _check_weights(program, dataset.class_names)

    step = program.compile_step()
    taken = Taken.by(step)
    judged = _judged(config, sources)
    evaluation = program.evaluation(judged) if judged else None
    baseline = memory.resident()  # before there are arrays, with all that is imported
    limit = memory.available(jax.devices()[0])
    peak, process = program.peak(taken, evaluation, judged, baseline)
    needed = peak if process is None else process
    fits = limit is None or needed <= _usable(limit)

    input_rate = _input_rate(config, sources['train'])
    probe = program.smaller(fits)
    probed = probe.config.batch
    with memory.explained(config):
        if probe is program:
            seconds = _as_in_the_run(program, step, sources['train'])
        else:
            alone = _alone(probe, probe.compile_step())
            seconds = max(alone / probed, 1 / input_rate) * config.batch
    if probe is program and process is not None and observed:
        # Products of matrices take some memory that the compiler does not count.
        process = needed = max(process, memory.resident('VmHWM') + program.saving())
        fits = limit is None or needed <= _usable(limit)

    other = probe if probe is not program else program.another_batch()
    slope = None
    if limit is not None and other is not None:
        if probe is program and time.perf_counter() - begin > _ENOUGH:
            other = None
        else:
            less = Taken.by(other.compile_step())
            slope = _slope(program, taken, other, less, process is not None)
    room = None if limit is None else _usable(limit) - needed
    largest = None if slope is None else _largest_batch(program, room, slope)
    if largest and time.perf_counter() - begin < _ENOUGH:
        largest = _refined(program, taken, largest, _usable(limit), baseline)
    evaluations = _evaluation_seconds(
        config, sources, start, seconds / config.batch, input_rate
    )
    return Forecast(
        title=_title(program, dataset, sources, start),
        step=taken,
        evaluation=evaluation,
        state_bytes=memory.size(program.shapes),
        peak_bytes=peak,
        process_bytes=process,
        limit=limit,
        batch=config.batch,
        seconds_per_step=seconds,
        probed=probed,
        input_rate=input_rate,
        input=(
            ('num_workers', config.num_workers),
            ('num_threads', config.num_threads),
            ('pp.scaled_decoding', config.pp.scaled_decoding),
            ('cache.where', config.cache.where),
        ),
        steps=config.total_steps - start,
        evaluation_seconds=evaluations,
        largest_batch=largest,
        advice=tuple(_advice(program, fits, room, slope, largest)),
        seconds=time.perf_counter() - begin,
    )


@dataclasses.dataclass(frozen=True)
class _Program:
    """What is compiled for a configuration, and for which shapes."""

    config: ConfigDict
    num_classes: int
    model: nn.Module
    optimizer: optax.GradientTransformation
    mesh: Mesh
    shapes: TrainState

    @classmethod
    def of(cls, config: ConfigDict, num_classes: int) -> '_Program':
        mesh = sharding.make_mesh(config.sharding.fsdp)
        optimizer = optim.create_optimizer(config)
        model = train.create_model(config, num_classes)
        shapes = Initializer(config, num_classes, optimizer, mesh).shapes()
        return cls(config, num_classes, model, optimizer, mesh, shapes)

    def with_batch(self, batch: int, accum_steps: int) -> '_Program':
        config = self.config.copy_and_resolve_references()
        config.batch, config.accum_steps = batch, accum_steps
        return dataclasses.replace(self, config=config)

    def batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        rows, images = self.config.batch, config_lib.image_size(self.config)
        where = sharding.batch_sharding(self.mesh)
        return {
            name: jax.ShapeDtypeStruct((rows, *rest), dtype, sharding=where)
            for name, rest, dtype in (
                ('image', (*images, self.config.pp.channels), np.uint8),
                ('label', (), np.int32),
                ('skipped', (), np.int32),
            )
        }

    def eval_batch(self, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
        images = config_lib.image_size(self.config)
        where = sharding.batch_sharding(self.mesh)
        return {
            name: jax.ShapeDtypeStruct((rows, *rest), dtype, sharding=where)
            for name, rest, dtype in (
                ('image', (*images, self.config.pp.channels), np.float32),
                ('label', (), np.int32),
                ('mask', (), np.float32),
            )
        }

    def compile_step(self) -> Any:
        """Returns the training step, compiled as the run will."""
        step = compile_step(self.config, self.model, self.optimizer, self.shapes)
        return step.lower(self.shapes, self.batch()).compile()

    def evaluation(self, num_examples: int) -> Taken:
        """Returns what a step of the largest evaluation takes."""
        batch = self.eval_batch(self._eval_rows(num_examples))
        step = evaluate.make_eval_step(self.model)
        return Taken.by(step.lower(self.shapes.params, batch).compile())

    def _eval_rows(self, num_examples: int) -> int:
        return evaluate.batch_size(self.config.batch_eval, num_examples, self.mesh.size)

    def peak(
        self, taken: Taken, evaluation: Taken | None, judged: int, baseline: int
    ) -> tuple[int, int | None]:
        """Returns the most of a device's memory, and on the CPU of the process's."""
        batch = memory.size(self.batch())
        waiting = self.config.prefetch * batch
        at_once, host = taken.total, _HOST_BATCHES * batch
        if evaluation is not None:
            one = memory.size(self.eval_batch(self._eval_rows(judged)))
            rest = memory.size(self.shapes.replace(params=None))
            judging = evaluation.total + rest + (_EVAL_BATCHES - 1) * one
            if judging > at_once:
                at_once = judging
                host += _HOST_BATCHES * one
        peak = at_once + waiting
        if jax.default_backend() != 'cpu' or not baseline:
            return peak, None
        devices = jax.local_device_count()
        return peak, baseline + devices * (peak + host) + self.saving()

    def saving(self) -> int:
        """Returns what the host takes to save a state while the steps go on."""
        leaves = jax.tree.leaves(self.shapes)
        return _SAVED_COPIES * sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    def state(self) -> TrainState:
        """Returns a state without meaning, as large as the run's, and as quickly made.

        Not zeros where that matters: a GPU multiplies zeros faster than numbers.
        """

        def made(leaf: jax.ShapeDtypeStruct) -> jax.Array:
            if jax.default_backend() == 'cpu':
                return jnp.zeros(leaf.shape, leaf.dtype)
            count = jnp.arange(math.prod(leaf.shape), dtype=jnp.uint32)
            bits = (count * jnp.uint32(2654435769)) >> 16  # all but random
            numbers = bits.astype(jnp.float32) / 2**16 - 0.5
            return (0.04 * numbers).reshape(leaf.shape).astype(leaf.dtype)

        where = jax.tree.map(lambda leaf: leaf.sharding, self.shapes)
        return jax.jit(
            lambda: TrainState.create(
                jax.tree.map(made, self.shapes.params),
                self.optimizer,
                self.config.dtype,
            ),
            out_shardings=where,
        )()

    def numbers(self) -> dict[str, jax.Array]:
        """Returns a batch without meaning on the devices."""
        rng = np.random.default_rng(0)
        batch = {}
        for name, leaf in self.batch().items():
            array = np.zeros(leaf.shape, leaf.dtype)
            if name == 'image':
                array = rng.integers(0, 256, leaf.shape, np.uint8)
            batch[name] = array
        return sharding.to_devices(batch, sharding.batch_sharding(self.mesh))

    def smaller(self, fits: bool) -> '_Program':
        """Returns this, or with fewer images if the step is too long to be tried."""
        config, devices = self.config, self.mesh.size
        seconds = self._expected_seconds()
        if fits and seconds <= _LONGEST_STEP:
            return self
        part = config.batch // config.accum_steps
        rows = part if fits else part // 2
        wanted = min(rows, int(config.batch * _LONGEST_STEP / 3 / seconds))
        rows = max(devices, wanted // devices * devices)
        return self if rows == config.batch else self.with_batch(rows, 1)

    def another_batch(self) -> '_Program | None':
        """Returns this with half the images in each part; with twice, if it must be."""
        config, devices = self.config, self.mesh.size
        parts = config.accum_steps
        share = config.batch // parts // devices
        other = share // 2 if share > 1 else 2
        return self.with_batch(other * parts * devices, parts)

    def _expected_seconds(self) -> float:
        """Returns about how long the step takes, by its matrix products alone."""
        size = config_lib.image_size(self.config)
        from vit_jax import shapes

        flops = shapes.summarize(self.model, size, self.config.pp.channels).flops
        # Half of what one large product reaches; three passes over the layers.
        return 3 * flops * self.config.batch / self.mesh.size / (_matmul_rate() / 2)


def _matmul_rate(side: int = 1024) -> float:
    """Returns the operations per second of a product of matrices."""
    x = jnp.full((side, side), 0.5, jnp.float32)
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()
    times = []
    for _ in range(4):
        begin = time.perf_counter()
        product(x, x).block_until_ready()
        times.append(time.perf_counter() - begin)
    devices = jax.local_device_count() if jax.default_backend() == 'cpu' else 1
    return 2 * side**3 / min(times) / devices


def _found(workdir: pathlib.Path) -> tuple[int, Mapping[str, Any] | None]:
    """Returns the newest step of a run in a directory, and its configuration.

    Raises:
        ValueError: the run is complete.
    """
    record, config = workdir / 'run.json', workdir / 'config.json'
    steps = [
        int(path.name)
        for path in (workdir / 'checkpoints').glob('*')
        if path.name.isdigit()
    ]
    if not record.exists() or not config.exists():
        return 0, None
    if 'summary' in json.loads(record.read_text()):
        raise ValueError(f'The run in {workdir} is complete; nothing is left to do.')
    return max(steps, default=0), json.loads(config.read_text()) if steps else None


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


def _check_weights(program: _Program, class_names: tuple[str, ...]) -> None:
    """Raises a ValueError unless the pretrained weights exist and fit."""
    config = program.config
    with checkpoint.open(config.pretrained) as weights:
        pretrained.fit(
            _Unread(weights),
            models.unstack(program.shapes.params),
            config.model,
            card=weights.card,
            image_size=config_lib.image_size(config),
            keep_head=config.keep_head,
            class_names=class_names,
            place=lambda array, leaf: leaf,
        )


def _judged(config: ConfigDict, sources: Mapping[str, data.Source]) -> int:
    """Returns the number of examples of the largest split that is evaluated."""
    return max(
        (len(sources[role]) for role in ('val', 'test') if role in sources), default=0
    )


def _input_rate(config: ConfigDict, source: data.Source) -> float:
    """Returns the images per second of the input by itself."""
    few = config.copy_and_resolve_references()
    few.batch = min(config.batch, 128)
    with contextlib.closing(train.train_batches(few, source, 0)) as batches:
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
    with contextlib.closing(train.train_batches(config, source, 0)) as host_batches:
        batches = train.on_devices(host_batches, program.mesh, config.prefetch)
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


def _advice(
    program: _Program,
    fits: bool,
    room: int | None,
    slope: float | None,
    largest: int | None,
) -> Iterator[str]:
    """Yields what to turn, if anything."""
    config, devices = program.config, program.mesh.size
    part = config.batch // config.accum_steps
    if not fits:
        parts = None
        if slope:
            parts = next(
                (
                    n
                    for n in memory.more_parts(config, devices)
                    if room + slope * (part - config.batch // n) >= 0
                ),
                None,
            )
        yield from memory.knobs(config, devices, parts)
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


def _title(
    program: _Program,
    dataset: data.Dataset,
    sources: Mapping[str, data.Source],
    start: int,
) -> str:
    config = program.config
    counts = ', '.join(f'{len(source):,} {role}' for role, source in sources.items())
    size = 'x'.join(str(side) for side in config_lib.image_size(config))
    return (
        f'Dry run     {config.model.get("model_name", "the model")}, '
        f'{num_params(program.shapes.params):,} parameters, images {size}, batch '
        f'{config.batch} in {config.accum_steps} parts, on {program.mesh.size} '
        f'{jax.devices()[0].device_kind}\n'
        f'Data        {dataset.name}: {len(dataset.class_names)} classes; {counts}'
        + (f'\nGoes on     from step {start}' if start else '')
    )


def _duration(seconds: float) -> str:
    """Returns a time as people say it."""
    if seconds < 60:
        return f'{seconds:.3g} s'
    return str(datetime.timedelta(seconds=round(seconds)))
