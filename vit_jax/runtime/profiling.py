"""A trace of some steps: what host and devices did, microsecond by microsecond."""

import itertools
import logging
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax

log = logging.getLogger(__name__)

# What one step of the trace is called; TensorBoard looks for it.
_STEP = 'train'


def traced(
    steps: Iterator[tuple[int, Any, Any]],
    start: int,
    wanted: Sequence[int],
    folder: pathlib.Path,
) -> Iterator[tuple[int, Any, Any]]:
    """Yields the steps, and writes a trace of those that are wanted.

    A step in it lasts from when its batch is asked for to when the host has told the
    devices what to do; what they did stands below. What happens between two steps,
    such as an evaluation, is in the trace as well. Whoever ends early must close this.

    Args:
        steps: (s, state s, values), from `training_steps`.
        start: number of steps applied before.
        wanted: (first, last) step to be traced, both included; () for none.
        folder: the run directory; files go to plugins/profile/ in it, where
            TensorBoard looks for them.
    """
    if not wanted or start >= wanted[1]:
        yield from steps
        return
    first, last = wanted
    yield from itertools.islice(steps, max(0, first - 1 - start))
    options = jax.profiler.ProfileOptions()
    # Python's calls would be most of the events, of which viewers show a million.
    options.python_tracer_level = 0
    jax.profiler.start_trace(
        folder, create_perfetto_trace=True, profiler_options=options
    )
    try:
        for step in range(max(first, start + 1), last + 1):
            with jax.profiler.StepTraceAnnotation(_STEP, step_num=step):
                item = next(steps, None)
            if item is None:
                break
            if step == last:
                jax.block_until_ready(item[1:])
            else:
                yield item
    finally:
        jax.profiler.stop_trace()
        log.info('%s', _how_to_open(folder))
    if item is not None:
        yield item
    yield from steps


def _how_to_open(folder: pathlib.Path) -> str:
    """Returns where the newest trace is, and what opens it."""
    newest = max(
        folder.glob('plugins/profile/*/perfetto_trace.json.gz'),
        key=lambda path: path.stat().st_mtime,
    )
    return (
        f'The trace is in {newest.parent}. Open {newest.name} at https://ui.perfetto.dev,'
        f' or run tensorboard --logdir={folder} (pip install tensorboard xprof).'
    )
