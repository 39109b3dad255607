"""Runs that are killed, again and again, end like one that nothing disturbed."""

import json
import os
import pathlib
import random
import re
import signal
import sys
import time

import processes
import pytest
from conftest import make_photos

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc and /dev/shm'),
]

# Many steps, so that none of the lives below reaches the end by itself.
STEPS = 60
SETTINGS = {
    'total_steps': STEPS,
    'warmup_steps': 5,
    'eval_every': 5,
    'checkpoint_every': 1,
    'num_workers': 2,
}

# When each of the lives of a run is ended: at any moment since its start, at any moment
# within some steps, when some checkpoint is being written, or after the last step.
LIVES = ['starting', *3 * ['saving', 'stepping'], 'saving', 'stepping', 'ending']


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    """Returns the recipe, a whole run of it, and how long until its first step."""
    folder = tmp_path_factory.mktemp('resume')
    photos = make_photos(folder / 'photos', train=8, test=5)
    recipe = processes.write_recipe(folder / 'recipe.py', photos, **SETTINGS)
    run, begin = folder / 'run', time.monotonic()
    with processes.start(recipe, run) as process:
        assert processes.wait_until(lambda: steps_logged(run), 120)
        seconds = time.monotonic() - begin
        assert process.wait(timeout=300) == 0, processes.printed(run)
    return recipe, run, seconds


def steps_logged(run: pathlib.Path) -> int:
    """Returns how many steps the runs in a directory have told of."""
    log = run / 'train.log'
    return len(re.findall(r'\bstep \d+/', log.read_text())) if log.exists() else 0


def being_written(run: pathlib.Path) -> set[pathlib.Path]:
    """Returns the directories of unfinished checkpoints."""
    return {
        path
        for path in (run / 'checkpoints').glob('*')
        if 'orbax-checkpoint-tmp' in path.name
    }


def files_of(run: pathlib.Path) -> list[str]:
    """Returns the names in a run directory; event files have the time in theirs."""
    return sorted(path.name.partition('tfevents')[0] for path in run.iterdir())


def assert_gone(run: pathlib.Path, files: set[str]) -> None:
    """Waits a little for the processes of a run to end, and files to be removed."""
    assert processes.wait_until(lambda: not processes.members(run)), 'processes left'
    assert processes.wait_until(lambda: not any(map(os.path.exists, files))), files


def wait_for_moment(how, process, run, seconds, rng) -> None:
    """Returns when a run shall be killed."""

    def until(condition, every=0.05):
        assert processes.wait_until(
            lambda: condition() or process.poll() is not None, 120, every
        ), f'{how}: waited for too long'

    if how == 'starting':
        time.sleep(rng.uniform(0, seconds))
        return
    if how == 'ending':
        until((run / 'checkpoints' / str(STEPS)).exists)
        time.sleep(rng.uniform(0, 0.3))
        return
    before, more = steps_logged(run), rng.randint(1, 4)
    until(lambda: steps_logged(run) >= before + more)
    if how == 'stepping':
        time.sleep(rng.uniform(0, 0.5))
    else:
        old = being_written(run)
        until(lambda: being_written(run) - old, every=0)
        time.sleep(rng.uniform(0, 0.02))


@pytest.mark.parametrize('keep', [3, 1])
def test_a_run_that_is_killed_ends_with_the_same_bits(uninterrupted, tmp_path, keep):
    recipe, whole, seconds = uninterrupted
    seed = random.SystemRandom().randrange(2**32)
    print('seed', seed)
    rng = random.Random(seed)
    orphans = processes.orphans()
    run, setting = tmp_path / 'run', f'--config.keep_checkpoints={keep}'
    killed, unfinished = [], 0
    for how in LIVES:
        with processes.start(recipe, run, setting) as process:
            wait_for_moment(how, process, run, seconds, rng)
            # Stopped, so that what it has stays what it has until it is killed.
            process.send_signal(signal.SIGSTOP)
            members = processes.members(run)
            memory = processes.shared_memory(members)
            files = {file for file in memory if os.path.exists(file)}
            process.kill()
            assert process.wait() == -signal.SIGKILL, processes.printed(run)
            logged, left = steps_logged(run), being_written(run)
            print(how, len(members), 'processes', logged, 'steps told', left or '')
            assert_gone(run, files)
        killed.append(len(members))
        unfinished += bool(left)
    # With the workers on, and checkpoints half written.
    assert sum(number >= 3 for number in killed) >= len(LIVES) - 2
    assert unfinished >= 2

    assert processes.finish(recipe, run, setting) == 0, processes.printed(run)
    processes.assert_same_bits(run / 'model.npz', whole / 'model.npz')
    processes.assert_same_bits(run / 'model_best.npz', whole / 'model_best.npz')
    assert processes.records(run) == processes.records(whole)
    results = [
        json.loads((r / 'run.json').read_text())['results'] for r in (run, whole)
    ]
    assert results[0] == results[1]
    assert not being_written(run)
    assert files_of(run) == files_of(whole)
    assert processes.wait_until(lambda: processes.orphans() <= orphans)
