"""The life of worker processes, and of the memory in which they hand over batches.

They leave Ctrl-C to their parent and die with it. Grain starts them and moves what they
make. It copies arrays to named segments in /dev/shm, which stay there when the parent
is killed, and which containers often limit to 64 MB. On Linux we hand over anonymous
memory instead: the kernel frees it with the last process that has it open, however that
process ends.
"""

import collections
import concurrent.futures
import contextlib
import math
import mmap
import multiprocessing
import os
import pathlib
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from multiprocessing import connection, resource_tracker
from typing import Any, ClassVar

import cv2
import numpy as np

# What one batch consists of: name -> (shape, dtype).
Layout = Mapping[str, tuple[tuple[int, ...], str]]

# Signals that a terminal or a scheduler sends to a whole group of processes.
_GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# The parent may need its workers to finish the step and to save. Longer than it waits
# for a worker that it asks to end.
_SECONDS_AFTER_SIGTERM = 60

_END = object()

_in_worker = False


def initialise(index: int, count: int) -> None:
    """Prepares worker process `index` of `count`; Grain calls it in each."""
    del index, count
    global _in_worker
    _in_worker = True
    # Out of the terminal's process group; a worker knows by itself when to end.
    with contextlib.suppress(OSError):
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _GROUP_SIGNALS)
    # A worker has no business on the accelerator, which often takes one process only.
    os.environ['JAX_PLATFORMS'] = 'cpu'
    if 'jax' in sys.modules:
        sys.modules['jax'].config.update('jax_platforms', 'cpu')
    cv2.setNumThreads(0)  # the pipeline has threads of its own
    threading.Thread(target=_die_with_parent, daemon=True).start()


def start_quietly() -> None:
    """Lets the calling thread start processes that no Ctrl-C reaches.

    Workers ignore SIGINT once they run `initialise`, but before that they import for a
    second or two. They inherit the signals that the starting thread blocks. The thread
    should do nothing else: it keeps them blocked.
    """
    # Otherwise started by this thread on demand, and it would unblock the signals.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, _GROUP_SIGNALS)


def _end_later(signum, frame) -> None:
    del signum, frame
    timer = threading.Timer(_SECONDS_AFTER_SIGTERM, os._exit, [143])
    timer.daemon = True
    timer.start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, 'only worker processes have one'
    # The sentinel is a pipe, whose end a child that the parent forked may keep open.
    while os.getppid() == parent.pid:
        if connection.wait([parent.sentinel], timeout=1):
            break
    try:
        _remove_semaphores()
    finally:
        os._exit(1)  # the main thread may be blocked


def _remove_semaphores() -> None:
    """Removes what a dead parent's queues leave in /dev/shm.

    That is the resource tracker's part, a process of Python's, which does it when the
    last worker has ended; but it is dead as well if the whole group was killed.
    """
    try:
        os.write(resource_tracker._resource_tracker._fd, b'PROBE:0:noop\n')
    except OSError:
        maps = pathlib.Path('/proc/self/maps')
        for line in maps.read_text().splitlines() if maps.exists() else ():
            path = line.split(maxsplit=5)[-1]
            if path.startswith('/dev/shm/sem.mp-'):
                with contextlib.suppress(OSError):
                    os.unlink(path)


def allocate(layout: Layout) -> tuple[dict[str, np.ndarray], object]:
    """Returns uninitialised arrays and the object to return from the pipeline.

    In the main process the object is the dict of arrays itself. In a worker it becomes
    that dict by being pickled: a `SharedBatch`.
    """
    if _in_worker and sys.platform == 'linux':
        batch = SharedBatch(layout)
        return batch.arrays, batch
    arrays = {name: np.empty(shape, dtype) for name, (shape, dtype) in layout.items()}
    return arrays, arrays


class SharedBatch:
    """Arrays in anonymous memory; unpickled elsewhere, a dict of the same arrays.

    Attributes:
      arrays: name -> array.
    """

    # The memory of the latest batches that were handed over stays open here until the
    # parent has surely opened it. Grain's queue holds one batch, so that when a batch
    # is pickled, the parent has unpickled all but the last one before.
    _handed_over: ClassVar[collections.deque] = collections.deque(maxlen=2)

    def __init__(self, layout: Layout):
        self._layout = dict(layout)
        self._memory = _Memory()
        os.ftruncate(self._memory.fd, _offsets(layout)[-1])
        self.arrays = _map(self._memory.fd, layout)

    def __reduce__(self):
        self._handed_over.append(self._memory)
        return _receive, (os.getpid(), self._memory.fd, self._layout)


class _Memory:
    """A file descriptor of anonymous memory, closed with its last reference."""

    def __init__(self):
        self.fd = os.memfd_create('vit_jax batch')

    def __del__(self):
        os.close(self.fd)


def _receive(pid: int, fd: int, layout: Layout) -> dict[str, np.ndarray] | None:
    """Opens a batch of another process; None if that process has ended."""
    try:
        own = os.open(f'/proc/{pid}/fd/{fd}', os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        return _map(own, layout)
    finally:
        os.close(own)  # the mapping lives on


def _map(fd: int, layout: Layout) -> dict[str, np.ndarray]:
    offsets = _offsets(layout)
    memory = mmap.mmap(fd, offsets[-1])
    return {
        name: np.frombuffer(memory, dtype, math.prod(shape), offset).reshape(shape)
        for offset, (name, (shape, dtype)) in zip(offsets, layout.items(), strict=False)
    }


def _offsets(layout: Layout) -> list[int]:
    """Returns where each array begins, aligned to cache lines, and the total size."""
    offsets = [0]
    for shape, dtype in layout.values():
        size = math.prod(shape) * np.dtype(dtype).itemsize
        offsets.append(offsets[-1] + math.ceil(size / 64) * 64)
    return offsets


class Batches(Iterator[dict[str, np.ndarray]]):
    """An iterator of batches whose threads and processes end with it.

    They end by `close()`, when it is used as a context manager or collected as garbage,
    and with the process.
    """

    def __init__(
        self,
        dataset: Iterable,
        seen: Callable[[dict[str, np.ndarray]], None] = lambda batch: None,
    ):
        """Begins to make the batches.

        Args:
            dataset: of which they come.
            seen: called with each batch before it is given.
        """
        self._seen = seen
        iterator = iter(dataset)
        starter = concurrent.futures.ThreadPoolExecutor(
            1, initializer=start_quietly, thread_name_prefix='vit_jax-start'
        )
        self._iterator = iterator
        self._first: concurrent.futures.Future | None = starter.submit(
            next, iterator, _END
        )
        starter.shutdown(wait=False)
        self._finalizer = weakref.finalize(self, _close, iterator, self._first)
        self._exhausted = False

    def __next__(self) -> dict[str, np.ndarray]:
        if self._exhausted or not self._finalizer.alive:
            raise StopIteration
        try:
            first, self._first = self._first, None
            batch = first.result() if first else next(self._iterator, _END)
        except BaseException:
            self.close()
            raise
        if batch is _END:
            self._exhausted = True
            self.close()
            raise StopIteration
        if batch is None:
            self.close()
            raise RuntimeError('a worker process that had made a batch was killed')
        self._seen(batch)
        return batch

    def close(self) -> None:
        """Ends threads and worker processes; the iterator is then exhausted."""
        self._finalizer()

    def __enter__(self) -> 'Batches':
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def _close(iterator: Any, first: concurrent.futures.Future) -> None:
    # Processes that are being started can be ended only afterwards.
    if not first.cancel():
        concurrent.futures.wait([first])
    iterator.close()
