"""Batches: from step numbers to pixels, as a Grain MapDataset entered at any step.

Batch s is a pure function of (seed, s). It does not depend on how many threads, worker
processes or hosts make it, nor on the step at which the pipeline was entered, so that
resuming needs no state of the loader.

Rows of a batch are decoded in parallel by one pool of threads. A thread per batch would
be simpler, but then as many batches are under way as there are cores, 900 MB each for
512 float32 images of 384×384.
"""

import concurrent.futures
import itertools
import math
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import cv2
import grain
import numpy as np
from absl import flags
from jaxtyping import Float32, Int64, UInt8

from vit_jax.data import sources, workers
from vit_jax.data.images import jpeg, ops

# Grain's datasets have a length; training goes on for longer than any run.
_STEPS = 1 << 40
# Batches under way or waiting in the main process: while one is finished, the threads
# that find no more work in it begin with the next.
_AHEAD = 2
# Random numbers that are drawn at once per example: three attempts at a crop and a flip
# are 13. A multiple of 4.
_DRAWS = 16
# A source of which so many examples in a row do not decode is not one of images.
MAX_SKIPPED = 1000
# No side of an image is enlarged beyond this, where the shorter one gets `resize`
# pixels: a line of 1 × 20,000 pixels would take 16 GB.
_LONGEST = 1 << 15
SKIP_HINT = '--config.skip_corrupt=True takes the next good image instead'


def train_batches(
    source: sources.Source,
    *,
    batch: int,
    size: tuple[int, int],
    seed: int,
    start: int = 0,
    resize: int | None = None,
    min_area: float = 0.05,
    flip: bool = True,
    num_workers: int = 0,
    num_threads: int | None = None,
    host: int = 0,
    num_hosts: int = 1,
    skip_corrupt: bool = False,
    channels: int = 3,
) -> workers.Batches:
    """Returns an endless iterator of shuffled, randomly cropped training batches.

    All examples are seen once per epoch, in an order of its own; batches go on across
    epochs. Work begins at once, in the background.

    Args:
      source: the examples.
      batch: number of rows of the global batch.
      size: (height, width) of the images.
      seed: decides order, crops and flips; 0 … 2³² - 1.
      start: number of the first batch.
      resize: shorter side in pixels before the crop; None crops the original.
      min_area: smallest part of the area that a crop shows.
      flip: mirror every other image.
      num_workers: worker processes; 0 decodes in threads of this process, which is
        usually as fast.
      num_threads: decoding threads of this process or of each worker; None is one per
        available core, shared among the workers.
      host: which host this is, of `num_hosts`; it gets rows host · b / num_hosts and
        following of each global batch.
      num_hosts: number of hosts.
      skip_corrupt: put the next good example in the place of one that does not decode.
      channels: of the images; see `ops.pixels`.

    Returns:
      An iterator of dicts: image uint8 (b h w c), label int32 (b,), skipped int32 (b,),
      the number of examples that were skipped for this row.

    Raises:
      ValueError: fewer examples than the batch; batch not divisible by hosts.
      UndecodableImage: by the iterator, without `skip_corrupt`.
    """
    if len(source) < batch:
        raise ValueError(
            f'found {len(source)} training examples, expected at least one batch of '
            f'{batch}: set a smaller --config.batch'
        )
    examples = _TrainExamples(
        source, shuffled(len(source), seed), seed, tuple(size), resize, min_area, flip,
        skip_corrupt, channels,
    )  # fmt: skip
    return endless(
        examples,
        batch=batch,
        start=start,
        num_workers=num_workers,
        num_threads=num_threads,
        host=host,
        num_hosts=num_hosts,
    )


def shuffled(number: int, seed: int) -> grain.MapDataset:
    """Returns which of so many examples comes at each global position."""
    return grain.MapDataset.range(number).seed(seed).shuffle().repeat()


def endless(
    examples: 'Examples',
    *,
    batch: int,
    start: int,
    num_workers: int = 0,
    num_threads: int | None = None,
    host: int,
    num_hosts: int,
) -> workers.Batches:
    """Returns an endless iterator of batches; for the arguments see `train_batches`."""
    rows = _Rows(batch, host, num_hosts)
    threads = _num_threads(num_threads, num_workers)
    steps = grain.MapDataset.range(_STEPS).map(rows).map(_Reader(examples, threads))
    return _start(steps[start:], num_workers)


def eval_batches(
    source: sources.Source,
    *,
    batch: int,
    size: tuple[int, int],
    resize: int | None = None,
    num_workers: int = 0,
    num_threads: int | None = None,
    host: int = 0,
    num_hosts: int = 1,
    skip_corrupt: bool = False,
    mean: float | Sequence[float] = 127.5,
    std: float | Sequence[float] = 127.5,
    channels: int = 3,
) -> workers.Batches:
    """Returns an iterator over every example exactly once, in order.

    The last batch is filled up with zeros, which `mask` tells apart. All hosts get the
    same number of batches, ⌈n / batch⌉, even those that get nothing but padding.

    Args:
      source: the examples.
      batch: number of rows of the global batch.
      size: (height, width) of the images.
      resize: shorter side in pixels before a centre crop of `size`; None resizes the
        whole image to `size`, as the original does.
      num_workers: worker processes; 0 decodes in threads of this process.
      num_threads: as in `train_batches`.
      host: as in `train_batches`.
      num_hosts: as in `train_batches`.
      skip_corrupt: mask an example that does not decode.
      mean: of the pixels 0 … 255, one number or one per channel: (x - mean) / std.
      std: as `mean`.
      channels: of the images; see `ops.pixels`.

    Returns:
      An iterator of dicts: image float32 (b h w c), label int32 (b,), mask float32 (b,)
      1 for examples and 0 for padding, index int32 (b,) the example's place in the
      source or -1, skipped int32 (b,) 1 for an example that was masked.

    Raises:
      ValueError: no examples; batch not divisible by hosts.
      UndecodableImage: by the iterator, without `skip_corrupt`.
    """
    if len(source) == 0:
        raise ValueError('found no examples to evaluate, expected at least one')
    rows = _Rows(batch, host, num_hosts)
    examples = _EvalExamples(
        source, tuple(size), resize, ops.ValueRange(mean, std), skip_corrupt, channels
    )
    threads = _num_threads(num_threads, num_workers)
    steps = grain.MapDataset.range(math.ceil(len(source) / batch))
    return _start(steps.map(rows).map(_Reader(examples, threads)), num_workers)


@dataclass(frozen=True)
class _Rows:
    """Step -> the global positions, step · batch + row, of this host's rows."""

    batch: int
    host: int
    num_hosts: int

    def __post_init__(self):
        if self.batch < 1 or self.batch % self.num_hosts:
            raise ValueError(
                f'found a batch of {self.batch} for {self.num_hosts} hosts, expected '
                'a positive multiple of the number of hosts'
            )
        if not 0 <= self.host < self.num_hosts:
            raise ValueError(f'found host {self.host} of {self.num_hosts} hosts')

    def __call__(self, step: int) -> Int64[np.ndarray, ' b']:
        rows = self.batch // self.num_hosts
        first = step * self.batch + self.host * rows
        return np.arange(first, first + rows)


class Draws:
    """The random numbers of one position, as many as are asked for."""

    def __init__(self, seed: int, position: int, first: list[float]):
        self._known = seed, position, first
        self.random = itertools.chain(first, _more(seed, position)).__next__

    def again(self) -> 'Draws':
        """Returns the same numbers from the start."""
        return Draws(*self._known)


def draws(seed: int, positions: Int64[np.ndarray, ' b']) -> list[Draws]:
    """Returns the randomness of examples at consecutive global positions.

    The numbers of a position are a pure function of seed and position. All numbers are
    parts of one long stream, of which a few of each position are drawn at once: making
    a generator takes longer than drawing a thousand numbers, and asks the system for
    entropy that is not used.
    """
    # Philox counts blocks of four numbers.
    start = int(positions[0]) * _DRAWS // 4
    rng = np.random.Generator(np.random.Philox(key=seed, counter=start))
    numbers = rng.random((len(positions), _DRAWS)).tolist()
    return [
        Draws(seed, int(position), first)
        for position, first in zip(positions, numbers, strict=True)
    ]


def _more(seed: int, position: int) -> Iterator[float]:
    # Far from the numbers that all positions have, and 2⁶⁴ blocks for each.
    start = (1 << 192) + (position << 64)
    rng = np.random.Generator(np.random.Philox(key=seed, counter=start))
    while True:
        yield rng.random()


@runtime_checkable
class Examples(Protocol):
    """Global positions -> the rows of a batch.

    What is decided in Python is planned for the whole batch by one thread, so that the
    threads that decode seldom wait for each other's interpreter lock.
    """

    def layout(self, rows: int) -> workers.Layout:
        """Returns what a batch of so many rows consists of."""
        ...

    def plan(self, positions: Int64[np.ndarray, ' b']) -> list:
        """Returns what `read` needs, for each row."""
        ...

    def read(self, planned: Any) -> dict[str, Any]:
        """Returns a row."""
        ...


@dataclass(frozen=True)
class _TrainExamples:
    source: sources.Source
    order: grain.MapDataset  # position -> index
    seed: int
    size: tuple[int, int]
    resize: int | None
    min_area: float
    flip: bool
    skip_corrupt: bool
    channels: int

    def layout(self, rows: int) -> workers.Layout:
        return {
            'image': ((rows, *self.size, self.channels), 'uint8'),
            'label': ((rows,), 'int32'),
            'skipped': ((rows,), 'int32'),
        }

    def plan(self, positions: Int64[np.ndarray, ' b']) -> list:
        indices = [self.order[position] for position in positions.tolist()]
        return list(zip(indices, draws(self.seed, positions), strict=True))

    def read(self, planned: tuple[int, Draws]) -> dict[str, Any]:
        """Returns an example, or the next good one and how many were passed over."""
        index, rng = planned
        if not self.skip_corrupt:
            return self._one(index, rng, SKIP_HINT) | {'skipped': 0}
        for skipped in range(min(len(self.source), MAX_SKIPPED)):
            try:
                example = self._one((index + skipped) % len(self.source), rng.again())
            except ops.UndecodableImage as error:
                last = error
            else:
                return example | {'skipped': skipped}
        raise ops.UndecodableImage(
            last.name, last.reason, f'Nor do the {skipped} examples before it'
        )

    def _one(self, index: int, rng: ops.Random, hint: str = '') -> dict[str, Any]:
        example = self.source[index]
        size = example.get('full_size')  # of what a cache has shrunk
        if size is None and isinstance(example['image'], bytes):
            size = ops.jpeg_size(example['image'])
        if size is None:
            pixels = _pixels(example, self.channels, self.resize, hint)
            image = self.augment(pixels, rng)
        else:
            image = self._augment_part(example, size, rng, hint)
        return {'image': image, 'label': example['label']}

    def augment(
        self, image: UInt8[np.ndarray, 'h w c'], rng: ops.Random
    ) -> UInt8[np.ndarray, 'new_h new_w c']:
        if self.resize is not None:
            image = ops.ResizeShorter(self.resize)(image)
        return self._finish(ops.RandomCrop(self.min_area)(image, rng), rng)

    def _augment_part(
        self,
        example: sources.Example,
        size: tuple[int, int],
        rng: ops.Random,
        hint: str,
    ) -> UInt8[np.ndarray, 'new_h new_w c']:
        """Crops an image of known size, decoding no more of it than the result needs.

        The crop is that of `augment`.
        """
        if self.resize is not None:
            return self.augment(_pixels(example, self.channels, self.resize, hint), rng)
        box = ops.RandomCrop(self.min_area).box(*size, rng)
        if isinstance(example['image'], bytes):
            crop = _pixels(example, self.channels, None, hint, box=box)
        else:
            image = _pixels(example, self.channels, None, hint)
            crop = ops.crop(image, ops.scaled_box(box, size, image.shape[:2]))
        return self._finish(crop, rng)

    def _finish(
        self, image: UInt8[np.ndarray, 'h w c'], rng: ops.Random
    ) -> UInt8[np.ndarray, 'new_h new_w c']:
        image = ops.Resize(self.size)(image)
        return ops.Flip()(image, rng) if self.flip else image


@dataclass(frozen=True)
class _EvalExamples:
    source: sources.Source
    size: tuple[int, int]
    resize: int | None
    value_range: ops.ValueRange
    skip_corrupt: bool
    channels: int

    def layout(self, rows: int) -> workers.Layout:
        return {
            'image': ((rows, *self.size, self.channels), 'float32'),
            'label': ((rows,), 'int32'),
            'mask': ((rows,), 'float32'),
            'index': ((rows,), 'int32'),
            'skipped': ((rows,), 'int32'),
        }

    def plan(self, positions: Int64[np.ndarray, ' b']) -> list:
        return positions.tolist()

    def read(self, planned: int) -> dict[str, Any]:
        position = planned
        padding = {'image': 0, 'label': 0, 'mask': 0, 'index': -1, 'skipped': 0}
        if position >= len(self.source):
            return padding
        hint = '' if self.skip_corrupt else SKIP_HINT
        try:
            example = self.source[position]
            image = _pixels(example, self.channels, self.resize, hint)
        except ops.UndecodableImage:
            if not self.skip_corrupt:
                raise
            return padding | {'index': position, 'skipped': 1}
        return {
            'image': self.prepare(image),
            'label': example['label'],
            'mask': 1,
            'index': position,
            'skipped': 0,
        }

    def prepare(
        self, image: UInt8[np.ndarray, 'h w c']
    ) -> Float32[np.ndarray, 'new_h new_w c']:
        pixels = image.astype(np.float32)
        if self.resize is None:
            pixels = ops.Resize(self.size)(pixels)
        else:
            pixels = ops.ResizeShorter(self.resize)(pixels)
            pixels = ops.CentreCrop(self.size)(pixels)
        return self.value_range(pixels)


def _pixels(
    example: sources.Example,
    channels: int,
    resize: int | None,
    hint: str = '',
    box: jpeg.Box | None = None,
) -> UInt8[np.ndarray, 'h w c']:
    name = example['name']
    try:
        image = ops.pixels(example['image'], name, channels, box=box)
    except ops.UndecodableImage as error:
        raise ops.UndecodableImage(error.name, error.reason, hint) from error
    height, width = image.shape[:2]
    longest, shortest = max(height, width), min(height, width)
    if resize is not None and longest * resize > _LONGEST * shortest:
        reason = (
            f'with {width:,} x {height:,} pixels it is too elongated to get {resize} '
            'on its shorter side'
        )
        raise ops.UndecodableImage(name, reason, hint)
    return image


class _Reader:
    """Positions -> a batch, its rows read in parallel."""

    def __init__(self, examples: Examples, num_threads: int):
        self._examples = examples
        self._num_threads = num_threads
        self._lock = threading.Lock()
        self._pool: concurrent.futures.ThreadPoolExecutor | None = None

    def __reduce__(self):
        return type(self), (self._examples, self._num_threads)

    def __call__(self, positions: Int64[np.ndarray, ' b']) -> Any:
        rows = len(positions)
        arrays, batch = workers.allocate(self._examples.layout(rows))
        plan = self._examples.plan(positions)

        def fill(part: range) -> None:
            for row in part:
                values = self._examples.read(plan[row])
                for name, array in arrays.items():
                    array[row] = values[name]

        # Some parts per thread, so that all are busy to the end.
        step = math.ceil(rows / (4 * self._num_threads))
        parts = [range(i, min(i + step, rows)) for i in range(0, rows, step)]
        futures = [self._threads().submit(fill, part) for part in parts]
        try:
            for future in futures:  # in order: the first bad row is what is reported
                future.result()
        finally:
            for future in futures:
                future.cancel()
        return batch

    def _threads(self) -> concurrent.futures.ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = concurrent.futures.ThreadPoolExecutor(
                    self._num_threads, thread_name_prefix='vit_jax-decode'
                )
            return self._pool


def _num_threads(num_threads: int | None, num_workers: int) -> int:
    if num_threads is not None:
        return max(1, num_threads)
    return math.ceil(available_cores() / max(1, num_workers))


def available_cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start(batches: grain.MapDataset, num_workers: int) -> workers.Batches:
    # Grain asks absl flags, which as a library nobody has parsed.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    cv2.setNumThreads(0)  # as many threads as cores decode already
    if num_workers == 0:
        return workers.Batches(
            batches.to_iter_dataset(grain.ReadOptions(_AHEAD, _AHEAD))
        )
    return workers.Batches(
        batches.to_iter_dataset(grain.ReadOptions(0, 0)).mp_prefetch(
            grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=1),
            worker_init_fn=workers.initialise,
        )
    )
