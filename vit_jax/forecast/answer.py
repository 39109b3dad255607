"""What a run would take, as numbers and as text."""

import dataclasses
import datetime
from collections.abc import Iterator
from typing import Any

import jax

from vit_jax import config as config_lib
from vit_jax.runtime.memory import MemoryUse
from vit_jax.training.plan import Plan
from vit_jax.words.units import readable_bytes

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
        cache_bytes: of `process_bytes`, the images that the run keeps decoded.
        limit: bytes that a device has, or on the CPU the process; None: not told.
        seconds_per_step: in the run, data included.
        probed: images of the step that was tried, the batch unless it was too long.
        input_rate: images per second that the input makes, undisturbed.
        input: the settings that decide that.
        steps: that are left to do.
        start_seconds: until the data and the weights are known, Python included.
        compile_seconds: of what was compiled here; less where the cache has it.
        evaluation_seconds: of all evaluations, those of the end included, estimated.
        saving_seconds: of all checkpoints, estimated.
        largest_batch: that fits with as many parts; None: not known, or so large that
            it was not looked for.
        advice: settings, and why.
        seconds: that the answer took.
    """

    title: str
    step: MemoryUse
    evaluation: MemoryUse | None
    state_bytes: int
    peak_bytes: int
    process_bytes: int | None
    cache_bytes: int
    limit: int | None
    batch: int
    seconds_per_step: float
    probed: int
    input_rate: float
    input: tuple[tuple[str, Any], ...]
    steps: int
    start_seconds: float
    compile_seconds: float
    evaluation_seconds: float
    saving_seconds: float
    largest_batch: int | None
    advice: tuple[str, ...]
    seconds: float

    @property
    def fits(self) -> bool:
        """Whether the memory is enough, as far as that is known."""
        return self.limit is None or _needed(self) <= usable(self.limit)

    @property
    def is_roomy(self) -> bool:
        """Whether so little of the memory is needed that the batch is no question."""
        return self.limit is not None and is_roomy(_needed(self), self.limit)

    @property
    def run_seconds(self) -> float:
        """The whole run, from its command to its table of results."""
        overhead = self.start_seconds + self.compile_seconds
        judged = self.evaluation_seconds + self.saving_seconds
        return overhead + self.steps * self.seconds_per_step + judged

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
            f'Time        in all about {_duration(self.run_seconds)}: start '
            f'{_duration(self.start_seconds)}, compiling '
            f'{_duration(self.compile_seconds)} (less where the',
            f'            cache has it), {self.steps:,} steps '
            f'{_duration(self.steps * self.seconds_per_step)}, evaluation '
            f'{_duration(self.evaluation_seconds)}, saving '
            f'{_duration(self.saving_seconds)}',
        ]
        if self.is_roomy and self.largest_batch is None:
            lines.append('Batch       much larger ones would fit')
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
        say = readable_bytes
        parts = self.step
        batch = parts.arguments - self.state_bytes
        yield (
            f'Memory      a step {say(parts.total)} per device: parameters and '
            f'optimizer {say(self.state_bytes)}, batch {say(batch)}, '
            f'temporaries {say(parts.total - parts.arguments)}'
        )
        if self.evaluation is not None:
            yield f'            evaluation {say(self.evaluation.total)} per device'
        if self.cache_bytes:
            yield f'            {say(self.cache_bytes)} of images, kept decoded'
        whole = '' if self.process_bytes is None else 'the whole process about '
        limit = (
            'the device does not say how much it has'
            if self.limit is None
            else f'of {readable_bytes(self.limit)}: '
            + ('it fits' if self.fits else 'it does NOT fit')
        )
        yield f'            at most {whole}{readable_bytes(_needed(self))}, {limit}'


def _needed(forecast: Forecast) -> int:
    """Returns the bytes that are compared with the limit."""
    return forecast.process_bytes or forecast.peak_bytes


def usable(limit: int) -> int:
    """Returns the bytes of a device's memory that a run may take."""
    return int(limit * (1 - _SPARE))


def is_roomy(needed: int, limit: int) -> bool:
    """Returns whether less than a tenth of a device's memory is needed."""
    return 10 * needed < usable(limit)


def title(plan: Plan, num_parameters: int) -> str:
    """Returns what would be run, in two or three lines."""
    config, dataset = plan.config, plan.dataset
    counts = ', '.join(
        f'{len(source):,} {role}' for role, source in plan.sources.items()
    )
    size = 'x'.join(str(side) for side in config_lib.image_size(config))
    return (
        f'Dry run     {config.model.get("model_name", "the model")}, '
        f'{num_parameters:,} parameters, images {size}, batch '
        f'{config.batch} in {config.accum_steps} parts, on {plan.mesh.size} '
        f'{jax.devices()[0].device_kind}\n'
        f'Data        {dataset.name}: {len(dataset.class_names)} classes; {counts}'
        + (f'\nGoes on     from step {plan.start}' if plan.start else '')
    )


def _duration(seconds: float) -> str:
    """Returns a time as people say it."""
    if seconds < 60:
        return f'{seconds:.3g} s'
    return str(datetime.timedelta(seconds=round(seconds)))
