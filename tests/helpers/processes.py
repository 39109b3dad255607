"""Runs in processes of their own, and what they leave behind when they end."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np

from vit_jax import checkpoint
from vit_jax.files import run_record

ROOT = pathlib.Path(__file__).parents[2]

# An environment variable by which the processes of a run are found.
MARK = 'VIT_JAX_TEST_RUN'
# What depends on the clock in a line of metrics.jsonl.
TIMES = ('time', 'images_per_second', 'data_wait')

RECIPE = """
from vit_jax import config as config_lib
from vit_jax import models


def get_config():
    config = config_lib.default()
    config.model = models.get_config('testing')
    config.update_from_flattened_dict({settings!r})
    return config
"""
SETTINGS = {
    'pp.crop': 16,
    'pp.train': 'train',
    'pp.val': 'test[:60%]',
    'pp.test': 'test[60%:]',
    'batch': 8,
    'accum_steps': 1,
    'total_steps': 4,
    'warmup_steps': 1,
    'eval_every': 2,
    'progress_every': 1,
    'checkpoint_every': 2,
    'num_threads': 1,
}


def write_recipe(path: pathlib.Path, dataset, **settings) -> pathlib.Path:
    """Writes the recipe of a run of a few small steps; returns its path."""
    settings = {**SETTINGS, 'dataset': str(dataset), **settings}
    path.write_text(RECIPE.format(settings=settings))
    return path


def environment(**variables: str) -> dict[str, str]:
    """Returns the environment of a run: one CPU device, unless said otherwise."""
    without = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
    paths = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    return {**without, 'PYTHONPATH': paths, 'JAX_PLATFORMS': 'cpu', **variables}


@contextlib.contextmanager
def start(
    recipe: pathlib.Path,
    workdir: pathlib.Path,
    *arguments: str,
    code=None,
    output=None,
    **variables: str,
):
    """Starts `python -m vit_jax.main` in a process group of its own.

    Args:
        recipe: its file.
        workdir: the run directory. What the run prints is appended to a file beside it.
        *arguments: more of the command line.
        code: Python to execute before the command.
        output: another file for what the run prints.
        **variables: more of its environment.
    """
    command = ['-m', 'vit_jax.main']
    if code is not None:
        command = [
            '-c',
            f'{code}\nfrom vit_jax import main; raise SystemExit(main.main())',
        ]
    arguments = (f'--config={recipe}', f'--workdir={workdir}', *arguments)
    output = (output or output_of(workdir)).open('a')
    with (
        output,
        subprocess.Popen(
            [sys.executable, *command, *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment(**{MARK: str(workdir)}, **variables),
        ) as process,
    ):
        try:
            yield process
        finally:
            for pid in members(workdir):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def output_of(workdir: pathlib.Path) -> pathlib.Path:
    """Returns the file with what the runs in a directory have printed."""
    return workdir.with_name(f'{workdir.name}.txt')


def printed(workdir: pathlib.Path) -> str:
    """Returns what the runs in a directory have printed."""
    return output_of(workdir).read_text()


def finish(recipe: pathlib.Path, workdir: pathlib.Path, *arguments: str) -> int:
    """Runs to the end; returns the exit code."""
    with start(recipe, workdir, *arguments) as process:
        return process.wait(timeout=300)


def wait_until(condition, seconds: float = 10, every: float = 0.05) -> bool:
    """Returns whether a condition has come true within some time."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(every)
    return True


def members(workdir: pathlib.Path) -> set[int]:
    """Returns the living processes of the runs in a directory, workers included."""
    mark, found = f'{MARK}={workdir}'.encode(), set()
    for environ in pathlib.Path('/proc').glob('[0-9]*/environ'):
        with contextlib.suppress(OSError):
            if mark in environ.read_bytes().split(b'\0'):
                found.add(int(environ.parent.name))
    return found


def shared_memory(pids=None) -> set[str]:
    """Returns the files in /dev/shm that processes (None: any) have open."""
    found = set()
    if pids is None:
        pids = [path.name for path in pathlib.Path('/proc').glob('[0-9]*')]
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in pathlib.Path(f'/proc/{pid}/maps').read_text().splitlines():
                if '/dev/shm/' in line and not line.endswith('(deleted)'):
                    found.add(line.split()[5])
        with contextlib.suppress(OSError):
            for fd in pathlib.Path(f'/proc/{pid}/fd').iterdir():
                with contextlib.suppress(OSError):
                    target = os.readlink(fd)
                    if target.startswith('/dev/shm/'):
                        found.add(target)
    return found


def orphans() -> set[str]:
    """Returns the files in /dev/shm that no living process has open."""
    listed = {str(path) for path in pathlib.Path('/dev/shm').iterdir()}
    return listed - shared_memory()


def records(run: pathlib.Path) -> list[dict[str, float]]:
    """Returns metrics.jsonl without what depends on the clock."""
    return [
        {key: value for key, value in record.items() if key not in TIMES}
        for record in run_record.read(run / 'metrics.jsonl')
    ]


def assert_same_bits(one: pathlib.Path, other: pathlib.Path) -> None:
    """Compares two files of weights."""
    with checkpoint.open(one) as a, checkpoint.open(other) as b:
        assert set(a) == set(b)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
