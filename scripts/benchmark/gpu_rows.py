"""What the part `gpu` measures, the most important first."""

import dataclasses
import os
from collections.abc import Callable, Iterator

from benchmark.gpu_run import Program, Run

Measure = Callable[[Run], Iterator[dict]]


@dataclasses.dataclass(frozen=True)
class Row:
    """Something to measure.

    Attributes:
        group: by which it can be asked for.
        name: what is measured.
        measure: yields results, dicts with a name.
        estimate: seconds that it takes on a large GPU, compilation included.
        aim: what is to be reached, for people.
    """

    group: str
    name: str
    measure: Measure
    estimate: float
    aim: str = ''


@dataclasses.dataclass(frozen=True)
class Network:
    """A network, with the numbers of images to begin with.

    Attributes:
        model: its name.
        size: of the square images.
        training: images in a training batch.
        inference: images in a batch of inference.
        others: training batches to try as well.
    """

    model: str
    size: int
    training: int
    inference: int
    others: tuple[int, ...] = ()

    def program(self, work: str, **settings) -> Program:
        """Returns its program for 'training' or 'inference'."""
        batch = getattr(self, work)
        return Program(work, self.model, self.size, batch, **settings)

    @property
    def title(self) -> str:
        """Names it."""
        return f'{self.model} at {self.size}'


B16 = Network('ViT-B_16', 224, 256, 512, (128, 512))
S16 = Network('ViT-S_16', 224, 512, 1024, (256, 1024))
B16_384 = Network('ViT-B_16', 384, 128, 256, (64,))
L16 = Network('ViT-L_16', 224, 128, 256, (256,))


def rows(tiny: bool) -> list[Row]:
    """Returns what is measured; tiny: of a network for tests, without other batches."""
    b16, s16, b16_384, l16 = B16, S16, B16_384, L16
    if tiny:
        b16 = s16 = b16_384 = l16 = Network('testing', 32, 4, 4)
    images, steps = (8, 1) if tiny else (8192, 16)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1
    table = [
        Row('training', b16.title, alone(b16, 'training'), 60, '4500, first 3300'),
        Row('training', s16.title, alone(s16, 'training'), 50, '10000'),
        Row('training', b16_384.title, alone(b16_384, 'training'), 60, '1040'),
        Row('training', l16.title, alone(l16, 'training'), 90, '1000'),
        Row('inference', b16.title, alone(b16, 'inference'), 25, '15000'),
        Row('inference', s16.title, alone(s16, 'inference'), 20),
        Row('inference', b16_384.title, alone(b16_384, 'inference'), 25),
        Row('inference', l16.title, alone(l16, 'inference'), 35),
        *(
            Row(network, f'{b16.title}, {work}', against(b16, work, network), *rest)
            for network, work, *rest in [
                ('timm', 'training', 75, '1.1 times'),
                ('timm', 'inference', 45, '1.1 times'),
                ('plain', 'training', 50),
                ('plain', 'inference', 25),
            ]
        ),
        Row('loop', f'{b16.title}, threads', real_loop(b16, 0, steps), 45, '0.97'),
        Row(
            'loop', f'{b16.title}, {cores} worker processes',
            real_loop(b16, cores, steps), 45, '0.97',
        ),
        Row('predict', b16.title, photos(b16, images), 40, '0.90'),
        Row('float16', f'{b16.title}, training', variant(b16, dtype='float16'), 50),
        Row('attention', f'{b16.title}, by XLA', variant(b16, attention='xla'), 50),
        Row('attention', f'{b16_384.title}, by XLA', variant(b16_384, attention='xla'),
            60),
    ]  # fmt: skip
    for network in (b16, s16, b16_384, l16):
        for batch in network.others:
            other = dataclasses.replace(network, training=batch)
            table.append(Row('batches', network.title, alone(other, 'training'), 50))
    return table


def alone(network: Network, work: str) -> Measure:
    """Measures a program, and its share of the peak."""

    def measure(run: Run) -> Iterator[dict]:
        program = network.program(work)
        facts = run.prepare(program)
        (rates,) = run.rates(program)
        yield {'name': f'{work}, {network.title}', **run.share(program, facts, rates)}

    return measure


def against(network: Network, work: str, other: str) -> Measure:
    """Measures our program and another one alternately, on batches as large."""

    def measure(run: Run) -> Iterator[dict]:
        program = network.program(work)
        facts = run.prepare(program)
        theirs = dataclasses.replace(program, network=other, batch=facts['batch'])
        name = run.prepare(theirs).get('network', other)
        yield {
            'name': f'{work}, {network.title}, against {name}',
            'batch': facts['batch'],
            **run.ratio(program, theirs),
        }

    return measure


def variant(network: Network, **settings: str) -> Measure:
    """Measures the training step with a setting, against the one without."""

    def measure(run: Run) -> Iterator[dict]:
        program = network.program('training')
        facts = run.prepare(program)
        other = dataclasses.replace(program, batch=facts['batch'], **settings)
        memory = run.prepare(other)['memory_bytes']
        what = ', '.join(f'{name}={value}' for name, value in settings.items())
        yield {
            'name': f'training, {network.title}, {what}, against without',
            'batch': facts['batch'],
            'memory_bytes': memory,
            **run.ratio(other, program),
        }

    return measure


def real_loop(network: Network, workers: int, steps: int) -> Measure:
    """Measures `train_and_evaluate` on JPEG files against its bare step."""

    def measure(run: Run) -> Iterator[dict]:
        made_by = f'{workers} worker processes' if workers else 'threads'
        batch = run.batch(network.program('training'))
        found = run.call(
            'jax', 'loop', model=network.model, size=network.size, batch=batch,
            dtype='bfloat16', workers=workers, steps=steps,
        )  # fmt: skip
        name = f'loop, {network.title}, {made_by}, against its bare step'
        yield {'name': name, 'batch': batch, **found}

    return measure


def photos(network: Network, images: int) -> Measure:
    """Measures predictions for JPEG files against the bare model."""

    def measure(run: Run) -> Iterator[dict]:
        yield from run.call(
            'jax', 'predict', model=network.model, size=network.size,
            batch=network.inference, dtype='bfloat16', images=images, workers=0,
            repeats=3,
        )  # fmt: skip

    return measure
