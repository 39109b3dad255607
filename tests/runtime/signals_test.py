"""Signals: the first one asks a run to end, the second one ends it."""

import json
import os
import re
import signal
import sys
import threading
import time

import processes
import pytest
from conftest import make_photos

from vit_jax.runtime import signals
from vit_jax.runtime.signals import Interrupted, Interruption
from vit_jax.training.checkpoints import TrainCheckpoints

LINUX = pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
STEPS = 300
SETTINGS = {
    'total_steps': STEPS,
    'warmup_steps': 10,
    'eval_every': 0,
    'checkpoint_every': 0,
    'num_workers': 2,
}
# Evaluations that last; the file tells that one has begun.
LONG_EVALUATION = """
import pathlib, time
from vit_jax.evaluation import accuracy
original = accuracy.evaluate
def long(*args):
    pathlib.Path({began!r}).touch()
    time.sleep(5)
    return original(*args)
accuracy.evaluate = long
"""


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted_and_the_second_has_its_usual_effect(signum):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Interruption() as interruption:
        assert interruption.signum is None
        os.kill(os.getpid(), signum)
        assert interruption.signum == signum
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))


def test_outside_the_main_thread_nothing_is_noted():
    found = []

    def run():
        with Interruption() as interruption:
            found.append(interruption.signum)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [None]


def test_the_exit_codes():
    assert Interrupted(signal.SIGTERM, 3).code == 143
    assert Interrupted(signal.SIGINT, 3).code == 130
    assert issubclass(Interrupted, SystemExit)  # no handler of errors takes it


@pytest.fixture(scope='module')
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp('interruption')
    photos = make_photos(folder / 'photos', train=8, test=5)
    return processes.write_recipe(folder / 'recipe.py', photos, **SETTINGS)


@pytest.fixture(scope='module')
def uninterrupted(recipe):
    run = recipe.with_name('run')
    assert processes.finish(recipe, run) == 0, processes.printed(run)
    return run


def wait_for_step(run, step: int) -> None:
    log = run / 'train.log'
    assert processes.wait_until(
        lambda: log.exists() and f'step {step}/' in log.read_text(), 120, every=0.01
    ), processes.printed(run)


def stop(process, run, signum) -> int:
    """Sends a signal to all processes of a run; returns the step it stopped at."""
    begin = time.monotonic()
    os.killpg(process.pid, signum)
    code = process.wait(timeout=60)
    output = processes.printed(run)
    assert code == 128 + signum, output
    assert time.monotonic() - begin < 20
    assert 'Traceback' not in output
    assert processes.wait_until(lambda: not processes.members(run)), (
        'processes are left'
    )
    step = int(re.findall(r'Stopped by a signal; state (\d+) is saved', output)[-1])
    with TrainCheckpoints(run / 'checkpoints') as checkpoints:
        assert checkpoints.latest_step() == step
    return step


@LINUX
def test_sigterm_saves_and_ends_with_143(recipe, tmp_path):
    run = tmp_path / 'run'
    with processes.start(recipe, run) as process:
        wait_for_step(run, 3)
        assert 3 <= stop(process, run, signal.SIGTERM) < STEPS
    assert not (run / 'model.npz').exists()
    assert 'results' not in json.loads((run / 'run.json').read_text())


@LINUX
@pytest.mark.slow
def test_a_run_that_is_stopped_twice_ends_with_the_same_bits(
    recipe, uninterrupted, tmp_path
):
    run, steps = tmp_path / 'run', []
    for signum, step in ((signal.SIGINT, 2), (signal.SIGTERM, 100)):
        with processes.start(recipe, run) as process:
            wait_for_step(run, step)
            steps.append(stop(process, run, signum))
    assert 2 <= steps[0] < steps[1] < STEPS
    assert processes.finish(recipe, run) == 0, processes.printed(run)
    processes.assert_same_bits(run / 'model.npz', uninterrupted / 'model.npz')
    assert processes.records(run) == processes.records(uninterrupted)


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize('second', [None, signal.SIGTERM, signal.SIGINT])
def test_signals_during_an_evaluation(recipe, uninterrupted, tmp_path, second):
    """One lets it end, is then obeyed, and loses nothing; two end the run at once."""
    run, began = tmp_path / 'run', tmp_path / 'began'
    code = LONG_EVALUATION.format(began=str(began))
    often = '--config.checkpoint_every=1', '--config.eval_every=5'
    with processes.start(recipe, run, *often, code=code) as process:
        assert processes.wait_until(began.exists, 120)
        if second is None:
            assert stop(process, run, signal.SIGINT) == 5
            assert 'val_accuracy' in processes.records(run)[-1]
            return
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None
        begin = time.monotonic()
        os.killpg(process.pid, second)
        assert process.wait(timeout=10) == -second
        assert time.monotonic() - begin < 2
        assert processes.wait_until(lambda: not processes.members(run)), 'left'
    with TrainCheckpoints(run / 'checkpoints') as checkpoints:
        assert checkpoints.latest_step() in (3, 4)  # 5 was being evaluated


def test_ctrl_c_inside_a_finalizer_comes_a_moment_later(monkeypatch):
    """Where it is raised in a callback, Python forgets it."""

    class Finalized:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(sys, 'unraisablehook', signals.send_again)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        Finalized()  # which by itself raises nothing
        with pytest.raises(KeyboardInterrupt):
            time.sleep(5)
    finally:
        signal.signal(signal.SIGINT, before)
