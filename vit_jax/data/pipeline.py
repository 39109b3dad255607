"""Batches: from step numbers to pixels, as a Grain MapDataset entered at any step.

Batch s is a pure function of (seed, s). It does not depend on how many threads, worker
processes or hosts make it, nor on the step at which the pipeline was entered, so that
resuming needs no state of the loader.

Rows of a batch are decoded in parallel by one pool of threads. A thread per batch would
be simpler, but then as many batches are under way as there are cores, 900 MB each for
512 float32 images of 384×384.
"""

import concurrent.futures
import logging
import math
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import grain
import numpy as np
from absl import flags
from jaxtyping import Int64

from vit_jax.data import sources, workers
from vit_jax.data.examples import EvalExamples, Examples, TrainExamples
from vit_jax.data.images.augment import Augment
from vit_jax.data.images.decoding import UndecodableImage
from vit_jax.data.images.preprocess import Preprocess

# Grain's datasets have a length; training goes on for longer than any run.
_STEPS = 1 << 40
# Batches under way or waiting in the main process: while one is finished, the threads
# that find no more work in it begin with the next.
_AHEAD = 2

# Told of each image that is left out.
OnSkip = Callable[[UndecodableImage], None]

log = logging.getLogger(__name__)


def tell_skipped(image: UndecodableImage) -> None:
    """Says that an image is left out."""
    log.warning('%s; it is left out', image)


@dataclass(frozen=True)
class Reading:
    """How examples are read, which changes no batch but for images that do not decode.

    Attributes:
      num_threads: decoding threads of this process or of each worker; None is one per
        available core, shared among the workers.
      num_workers: worker processes; 0 decodes in threads of this process, which is
        usually as fast.
      skip_corrupt: what to do with an example that does not decode: in training the
        next good one takes its place, in evaluation it is masked. False: raise.
      host: which host this is, of `num_hosts`; it gets rows host · b / num_hosts and
        following of each global batch.
      num_hosts: number of hosts.
    """

    num_threads: int | None = None
    num_workers: int = 0
    skip_corrupt: bool = False
    host: int = 0
    num_hosts: int = 1

    def __post_init__(self):
        if not 0 <= self.host < self.num_hosts:
            raise ValueError(f'found host {self.host} of {self.num_hosts} hosts')

    @property
    def threads(self) -> int:
        """Decoding threads in each process."""
        if self.num_threads is not None:
            return max(1, self.num_threads)
        return math.ceil(available_cores() / max(1, self.num_workers))


def train_batches(
    source: sources.Source,
    augment: Augment,
    *,
    batch: int,
    seed: int,
    start: int = 0,
    reading: Reading = Reading(),
    on_skip: OnSkip | None = None,
) -> workers.Batches:
    """Returns an endless iterator of shuffled, augmented training batches.

    All examples are seen once per epoch, in an order of its own; batches go on across
    epochs. Work begins at once, in the background.

    Args:
      source: the examples.
      augment: makes images of them.
      batch: number of rows of the global batch.
      seed: decides order, crops and flips; 0 … 2³² - 1.
      start: number of the first batch.
      reading: how they are read.
      on_skip: called for each image that is left out, once, however often it is drawn.

    Returns:
      An iterator of dicts: image uint8 (b h w c), label int32 (b,), skipped int32 (b,),
      the number of examples that were skipped for this row.

    Raises:
      ValueError: fewer examples than the batch; batch not divisible by hosts.
      UndecodableImage: by the iterator, without `reading.skip_corrupt`.
    """
    if len(source) < batch:
        raise ValueError(
            f'found {len(source)} training examples, expected at least one batch of '
            f'{batch}: set a smaller --config.batch'
        )
    order = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
    examples = TrainExamples(source, order, augment, seed, reading.skip_corrupt)
    batches = _batches(examples, batch, _STEPS, reading)[start:]
    rows = _Rows(batch, reading.host, reading.num_hosts)
    return _start(batches, reading, _Skipped(examples, rows, start, on_skip))


def eval_batches(
    source: sources.Source,
    preprocess: Preprocess,
    *,
    batch: int,
    reading: Reading = Reading(),
    on_skip: OnSkip | None = None,
) -> workers.Batches:
    """Returns an iterator over every example exactly once, in order.

    The last batch is filled up with zeros, which `mask` tells apart. All hosts get the
    same number of batches, ⌈n / batch⌉, even those that get nothing but padding.

    Args:
      source: the examples.
      preprocess: makes images of them.
      batch: number of rows of the global batch.
      reading: how they are read.
      on_skip: called for each image that is left out.

    Returns:
      An iterator of dicts: image float32 (b h w c), label int32 (b,), mask float32 (b,)
      1 for examples and 0 for padding, index int32 (b,) the example's place in the
      source or -1, skipped int32 (b,) 1 for an example that was masked.

    Raises:
      ValueError: no examples; batch not divisible by hosts.
      UndecodableImage: by the iterator, without `reading.skip_corrupt`.
    """
    if len(source) == 0:
        raise ValueError('found no examples to evaluate, expected at least one')
    examples = EvalExamples(source, preprocess, reading.skip_corrupt)
    steps = math.ceil(len(source) / batch)
    rows = _Rows(batch, reading.host, reading.num_hosts)
    seen = _Skipped(examples, rows, 0, on_skip)
    return _start(_batches(examples, batch, steps, reading), reading, seen)


def _batches(
    examples: Examples, batch: int, steps: int, reading: Reading
) -> grain.MapDataset:
    """Returns the batches of a host, by step."""
    rows = _Rows(batch, reading.host, reading.num_hosts)
    reader = _Reader(examples, reading.threads)
    return grain.MapDataset.range(steps).map(rows).map(reader)


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

    def __call__(self, step: int) -> Int64[np.ndarray, ' b']:
        rows = self.batch // self.num_hosts
        first = step * self.batch + self.host * rows
        return np.arange(first, first + rows)


class _Skipped:
    """Names the examples that were passed over, whichever process has met them."""

    def __init__(
        self, examples: Examples, rows: _Rows, start: int, on_skip: OnSkip | None
    ):
        self._examples, self._rows = examples, rows
        self._step, self._on_skip = start, on_skip
        self._told: set[int] = set()

    def __call__(self, batch: Mapping[str, np.ndarray]) -> None:
        """Takes the next batch."""
        step, self._step = self._step, self._step + 1
        if self._on_skip is None or not batch['skipped'].any():
            return
        skipped = zip(self._rows(step).tolist(), batch['skipped'].tolist(), strict=True)
        for position, count in skipped:
            for place in self._examples.skipped_places(position, count):
                if place not in self._told and (why := self._examples.why(place)):
                    self._on_skip(why)
                self._told.add(place)


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


def available_cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start(
    batches: grain.MapDataset,
    reading: Reading,
    seen: Callable[[dict[str, np.ndarray]], None] = lambda batch: None,
) -> workers.Batches:
    # Grain asks absl flags, which as a library nobody has parsed.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    cv2.setNumThreads(0)  # as many threads as cores decode already
    if reading.num_workers == 0:
        return workers.Batches(
            batches.to_iter_dataset(grain.ReadOptions(_AHEAD, _AHEAD)), seen
        )
    return workers.Batches(
        batches.to_iter_dataset(grain.ReadOptions(0, 0)).mp_prefetch(
            grain.MultiprocessingOptions(reading.num_workers, per_worker_buffer_size=1),
            worker_init_fn=workers.initialise,
        ),
        seen,
    )
