"""What a run reports: metrics.jsonl, TensorBoard events and a progress line.

metrics.jsonl is the record; the event files are a view of it. When a run resumes at
step s, the lines after s are dropped and the events written anew from what is left,
so that both look as if the run had not been interrupted, but for their times.
"""

import contextlib
import datetime
import json
import logging
import math
import pathlib
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TypeVar

import tqdm
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import scalar

from vit_jax.files.run_record import TRAIN_LOG, read

log = logging.getLogger(__name__)

T = TypeVar('T')

# What is shown of a step, what matters first: on a terminal as far as it fits. What is
# 0 in most runs is shown in the others.
_SHOWN = {
    'loss': 'loss {:.4f}',
    'val_{chosen_by}': 'val {chosen_by} {{:.4f}}',
    'skipped': '{} draws skipped',
    'skipped_steps': '{:.0f} steps skipped',
    'images_per_second': '{:,.0f} images/s',
    'data_wait': '{:.0%} waiting for data',
    'loss_scale': 'loss scale {:.0f}',
    'learning_rate': 'rate {:.2e}',
}
_SHOWN_UNLESS_ZERO = ('skipped', 'skipped_steps')
# Waiting less than this is not worth a word.
_WAITING = 0.05
# How often the events are sent to the disk; TensorBoard shows what is there.
_FLUSH_SECONDS = 10


class MetricsLog:
    """Appends to metrics.jsonl and to a TensorBoard event file.

    The events are written by the calling thread. tensorboardX's own writer has a
    thread and a short queue: when the disk is full the thread dies, and who adds
    events then waits for ever.

    Args:
        directory: the run directory.
        step: lines of later steps are dropped; None keeps none.
    """

    def __init__(self, directory: pathlib.Path, step: int | None = None):
        path = directory / 'metrics.jsonl'
        kept = [] if step is None else [r for r in read(path) if r['step'] <= step]
        new = path.with_suffix('.jsonl.new')
        new.write_text(''.join(json.dumps(record) + '\n' for record in kept))
        new.replace(path)
        for stale in directory.glob('events.out.tfevents.*'):
            stale.unlink()
        self._lines = path.open('a')
        self._events = EventsWriter(str(directory / 'events'))
        for record in kept:
            self._add_events(record)
        self._events.flush()
        self._flushed = time.monotonic()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Appends one line; it survives the death of the process.

        What is not finite, as the gradient of a step that float16 skips, is left out:
        JSON has no word for it.

        Raises:
            OSError: it cannot be written; the error names the file.
        """
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        record = {'step': step, 'time': time.time(), **finite}
        try:
            self._lines.write(json.dumps(record) + '\n')
            self._lines.flush()
            self._add_events(record)
            if time.monotonic() - self._flushed > _FLUSH_SECONDS:
                self._events.flush()
                self._flushed = time.monotonic()
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._lines.name) from error

    def write_picture(self, step: int, name: str, png: bytes) -> None:
        """Shows a PNG file in TensorBoard."""
        width, height = (int.from_bytes(png[at : at + 4], 'big') for at in (16, 20))
        image = Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=png
        )
        summary = Summary(value=[Summary.Value(tag=name, image=image)])
        event = Event(wall_time=time.time(), step=step, summary=summary)
        self._events.write_event(event)

    def _add_events(self, record: dict[str, float]) -> None:
        for name, value in record.items():
            if name not in ('step', 'time'):
                self._events.write_event(
                    Event(
                        wall_time=record['time'],
                        step=record['step'],
                        summary=scalar(name, value),
                    )
                )

    def __enter__(self) -> 'MetricsLog':
        return self

    def __exit__(self, *_: object) -> None:
        # Every line has been flushed: what fails here has failed, and was told, before.
        for file in (self._lines, self._events):
            with contextlib.suppress(OSError):
                file.close()


class Throughput:
    """Counts images per second, and the share of time spent waiting for data."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        """Begins a new interval, so that evaluating and saving do not count."""
        self._begin = time.perf_counter()
        self._waited = 0.0
        self._images = 0

    def count(self, images: int) -> None:
        """Counts the images of one step."""
        self._images += images

    def timed(self, batches: Iterator[T]) -> Iterator[T]:
        """Yields the batches, and adds up how long they let us wait."""
        while True:
            begin = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._waited += time.perf_counter() - begin
            yield batch

    def rates(self) -> dict[str, float]:
        """Returns 'images_per_second' and 'data_wait' (0…1) of the interval."""
        seconds = time.perf_counter() - self._begin
        return {
            'images_per_second': self._images / seconds,
            'data_wait': self._waited / seconds,
        }


class Progress:
    """Shows where a run is: a bar on a terminal, plain lines otherwise.

    Args:
        start: the step that the run starts from.
        total: the step at which it ends.
        chosen_by: the metric on val that is shown.
    """

    def __init__(self, start: int, total: int, chosen_by: str = 'accuracy'):
        self._shown = {
            name.format(chosen_by=chosen_by): form.format(chosen_by=chosen_by)
            if name.startswith('val')
            else form
            for name, form in _SHOWN.items()
        }
        self._start, self._total = start, total
        self._begin = time.perf_counter()
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm.tqdm(
                initial=start,
                total=total,
                dynamic_ncols=True,
                bar_format='{n_fmt}/{total_fmt} |{bar:10}| {desc}',
            )
            self._bar.set_description_str('compiling the training step …')
        # What the bar shows is told once; train.log has it in lines.
        self._log = log if self._bar is None else TRAIN_LOG
        self._log.info('Compiling the training step …')

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Shows a step, the time left, and those of its values that say how it goes."""
        seconds = time.perf_counter() - self._begin
        left = seconds / (step - self._start) * (self._total - step)
        told = [f'{datetime.timedelta(seconds=round(left))} left']
        told += [
            form.format(values[name])
            for name, form in self._shown.items()
            if name in values
            and (values[name] or name not in _SHOWN_UNLESS_ZERO)
            and (name != 'data_wait' or values[name] >= _WAITING)
        ]
        self._log.info('step %d/%d, %s', step, self._total, ', '.join(told))
        if self._bar is not None:
            columns = shutil.get_terminal_size().columns
            room = columns - len(f'{step}/{self._total} |          | ') - 1
            self._bar.set_description_str(_fitting(told, room), refresh=False)
            self._bar.update(step - self._bar.n)

    def __enter__(self) -> 'Progress':
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _fitting(parts: list[str], columns: int) -> str:
    """The first parts that fit into a line, and in any case the first three."""
    line = ', '.join(parts[:3])
    for part in parts[3:]:
        if len(line) + len(part) + 2 <= columns:
            line = f'{line}, {part}'
    return line
