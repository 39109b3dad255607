import collections
import contextlib
import itertools
import multiprocessing
import os
import pathlib
import pickle
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from batches import TRAIN, Pictures, eval_batches, train_batches

from vit_jax.data import workers

LINUX = pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')

# A run that says which processes it has, then draws batches until it is stopped.
RUN = """
import multiprocessing, signal, sys, time
import batches as helper

if __name__ == '__main__':
    interrupts = []
    signal.signal(signal.SIGINT, lambda *_: interrupts.append(1))
    source, options = helper.Pictures(64), dict(batch=32, size=(96, 96), seed=0)
    batches = helper.train_batches(source, **options, num_workers=2)
    print('started', flush=True)
    next(batches)
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    held = []
    until = time.monotonic() + float(sys.argv[1])
    while time.monotonic() < until:
        held = [*held[-3:], next(batches)]
    print('drew', len(held), 'interrupted', bool(interrupts), flush=True)
"""


@contextlib.contextmanager
def run(directory: pathlib.Path, seconds: float):
    """Starts RUN in a process group of its own."""
    script = directory / 'run.py'
    script.write_text(RUN)
    with subprocess.Popen(
        [sys.executable, script, str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {'PYTHONPATH': ':'.join(sys.path)},
    ) as process:
        try:
            assert process.stdout.readline() == 'started\n'
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        status = pathlib.Path(f'/proc/{pid}/stat').read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(')')[2].split()[0] != 'Z'


def shared_memory(pids: set[int]) -> set[pathlib.Path]:
    """Returns the files in /dev/shm that processes have open."""
    files = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in pathlib.Path(f'/proc/{pid}/maps').read_text().splitlines():
                if '/dev/shm/' in line and not line.endswith('(deleted)'):
                    files.add(pathlib.Path(line.split()[5]))
    return files


def wait_until(condition, seconds: float = 10) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def descendants(leader: int) -> set[int]:
    """Returns a process and those below it, whatever their group."""
    children = collections.defaultdict(set)
    for status in pathlib.Path('/proc').glob('[0-9]*/stat'):
        with contextlib.suppress(OSError):
            parent = int(status.read_text().rpartition(')')[2].split()[1])
            children[parent].add(int(status.parent.name))
    found, new = set(), {leader}
    while new:
        found |= new
        new = set().union(*(children[pid] for pid in new)) - found
    return found


def assert_nothing_left_after_sigkill(
    directory: pathlib.Path, delay: float | None, whole_group: bool = False
):
    """Kills a run `delay` seconds after its first batch; None: before it."""
    with run(directory, seconds=100) as process:
        if delay is None:
            time.sleep(random.uniform(0, 3))
        else:
            assert len(process.stdout.readline().split()) == 2
            time.sleep(delay)
        process.send_signal(signal.SIGSTOP)  # so that what it has stays what it has
        pids = descendants(process.pid)
        files = shared_memory(pids)
        assert not [file for file in files if not file.name.startswith('sem.')]
        if delay is not None:
            assert len(pids) >= 3
            assert files
        if whole_group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        assert wait_until(lambda: not any(map(alive, pids))), 'processes are left'
        assert wait_until(lambda: not any(file.exists() for file in files)), files


@LINUX
@pytest.mark.parametrize('whole_group', [False, True])
def test_sigkill_leaves_nothing(tmp_path, whole_group):
    assert_nothing_left_after_sigkill(tmp_path, 0.3, whole_group)


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize('moment', range(12))
def test_sigkill_at_random_moments_leaves_nothing(tmp_path, moment):
    delay = None if moment % 2 else random.uniform(0, 1)
    assert_nothing_left_after_sigkill(tmp_path, delay)


@LINUX
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signals_leave_workers_alone(tmp_path, number):
    """Ctrl-C reaches the whole group, from before the workers are up."""
    # Longer than the signals take: the workers must still be there for the last one.
    with run(tmp_path, seconds=4) as process:
        if number == signal.SIGINT:
            for _ in range(8):
                os.killpg(process.pid, number)
                time.sleep(0.3)
        children = [int(pid) for pid in process.stdout.readline().split()]
        assert len(children) == 2
        for pid in children:
            os.kill(pid, number)
        output, errors = process.communicate(timeout=60)
        interrupted = number == signal.SIGINT
        assert output == f'drew 4 interrupted {interrupted}\n', errors
        assert process.returncode == 0
        assert 'KeyboardInterrupt' not in errors
        pids = {process.pid, *children}
        assert wait_until(lambda: not any(map(alive, pids))), 'processes are left'


def children() -> list:
    return multiprocessing.active_children()


@LINUX
@pytest.mark.parametrize('how', ['close', 'collect', 'exhaust'])
def test_workers_end_with_the_iterator(how):
    before = {child.pid for child in children()}
    if how == 'exhaust':
        source = Pictures(12)
        batches = eval_batches(source, batch=6, size=(5, 7), num_workers=2)
    else:
        batches = train_batches(Pictures(20), **TRAIN, num_workers=2)
    held = next(batches)
    assert len({child.pid for child in children()} - before) == 2
    if how == 'close':
        batches.close()
        batches.close()  # twice is once
    elif how == 'collect':
        del batches
    else:
        assert len([*batches]) == 1
    assert wait_until(lambda: {child.pid for child in children()} <= before)
    assert held['image'].shape[0] == 6
    assert held['image'].sum() > 0  # a batch outlives its worker
    if how != 'collect':
        with pytest.raises(StopIteration):
            next(batches)


@LINUX
def test_a_killed_worker_is_an_error():
    before = {child.pid for child in children()}
    with train_batches(Pictures(20), **TRAIN, num_workers=2) as batches:
        next(batches)
        victim = next(child for child in children() if child.pid not in before)
        victim.kill()
        with pytest.raises(RuntimeError, match=r'[Ww]orker process'):
            list(itertools.islice(batches, 20))


class Witness(Pictures):
    """Its labels say what a worker is like."""

    def __getitem__(self, index):
        import jax

        initialised = jax._src.xla_bridge.backends_are_initialized()
        label = 2 * (jax.config.jax_platforms == 'cpu') + initialised
        return super().__getitem__(index) | {'label': int(label)}


def test_workers_stay_off_the_accelerator(monkeypatch):
    monkeypatch.delenv('JAX_PLATFORMS')
    with train_batches(Witness(20), **TRAIN, num_workers=1) as batches:
        assert {*next(batches)['label']} == {2}


@LINUX
class TestSharedBatch:
    layout = {  # noqa: RUF012
        'image': ((3, 5, 7), 'uint8'),
        'mask': ((3,), 'float32'),
        'none': ((0, 4), 'int32'),
    }

    def test_arrives_equal_and_without_a_copy(self):
        batch = workers.SharedBatch(self.layout)
        batch.arrays['image'][:] = np.arange(105).reshape(3, 5, 7)
        batch.arrays['mask'][:] = [1, 0, 1]
        received = pickle.loads(pickle.dumps(batch))
        assert received.keys() == batch.arrays.keys()
        for name, array in received.items():
            assert (array.shape, array.dtype.name) == self.layout[name]
            assert array.ctypes.data % 64 == 0
            np.testing.assert_array_equal(array, batch.arrays[name])
        batch.arrays['mask'][1] = 5
        assert received['mask'][1] == 5

    def test_memory_is_freed(self):
        def link(fd: pathlib.Path) -> str:
            with contextlib.suppress(FileNotFoundError):  # that of the listing
                return os.readlink(fd)
            return ''

        def memory() -> set[str]:
            maps = pathlib.Path('/proc/self/maps').read_text().splitlines()
            mapped = {line.split()[4] for line in maps if 'vit_jax batch' in line}
            fds = [*pathlib.Path('/proc/self/fd').iterdir()]
            inodes = {str(fd.stat().st_ino) for fd in fds if 'vit_jax' in link(fd)}
            return mapped | inodes

        before = memory()  # of other tests
        for _ in range(9):
            received = pickle.loads(pickle.dumps(workers.SharedBatch(self.layout)))
            assert received['image'].shape == (3, 5, 7)
        # The last two stay open for a parent that may not have opened them yet.
        del received
        assert len(memory() - before) <= 2

    def test_of_a_process_that_has_ended(self):
        process = subprocess.Popen([sys.executable, '-c', ''])
        process.wait()
        assert workers._receive(process.pid, 3, self.layout) is None
