"""The end of a run: killed at any moment, it goes on or has left a whole model."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time

import processes
import pytest
from conftest import make_photos, tiny_config
from trees import assert_bit_equal

import vit_jax
from vit_jax import train
from vit_jax.training import results


class Killed(BaseException):
    """What nothing in the package catches."""


@pytest.fixture
def config(photos):
    return tiny_config(photos, total_steps=2, eval_every=1, checkpoint_every=1)


@pytest.fixture(scope='module')
def reference(photos, tmp_path_factory):
    config = tiny_config(photos, total_steps=2, eval_every=1, checkpoint_every=1)
    return train.train_and_evaluate(config, tmp_path_factory.mktemp('reference'))[0]


@pytest.mark.parametrize('survives', range(6))
def test_killed_between_the_last_step_and_the_end(
    config, reference, tmp_path, monkeypatch, survives
):
    """The kill comes when one more file is about to get its name."""
    real_finish, real_replace = results.finish, os.replace
    named = []

    def replace(source, target, **options):
        if len(named) == survives:
            raise Killed
        named.append(os.path.basename(target))
        real_replace(source, target, **options)

    def finish(*arguments):
        monkeypatch.setattr(os, 'replace', replace)
        return real_finish(*arguments)

    run = tmp_path / 'run'
    monkeypatch.setattr(results, 'finish', finish)
    is_killed = False
    try:
        train.train_and_evaluate(config, run)
    except Killed:
        is_killed = True
    monkeypatch.undo()
    if is_killed:
        for model in (run, run / 'model.npz', run / 'model_best.npz'):
            with pytest.raises(ValueError, match=r'has not finished|There is no'):
                vit_jax.load(model)
    params, _ = train.train_and_evaluate(config, run)
    assert_bit_equal(params, reference)
    _, loaded, card = vit_jax.load(run, best=False)
    assert_bit_equal(loaded, reference)
    assert card.class_names == ['cat', 'dog', 'eel']
    assert card.source['results']


@pytest.mark.parametrize('num_workers', [0, 2])
def test_each_damaged_image_is_named_once(tmp_path, caplog, num_workers):
    """Its beginning is whole, so that it is met only when it is read."""
    photos = make_photos(tmp_path / 'photos', train=8, test=5)
    damaged = [photos / f'{name}/dog/1.png' for name in ('train', 'test')]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-400])
    settings = {'total_steps': 9, 'skip_corrupt': True, 'num_workers': num_workers}
    config = tiny_config(photos, **settings, **{'pp.val': 'test'})  # several times
    with config.ignore_type():
        config.pp.test = None
    train.train_and_evaluate(config, tmp_path / 'run')
    log = (tmp_path / 'run' / 'train.log').read_text()
    with (tmp_path / 'run' / 'skipped.csv').open(newline='') as file:
        header, *rows = csv.reader(file)
    assert header == ['name', 'reason']
    assert sorted(name for name, _ in rows) == sorted(map(str, damaged))
    assert all('truncated' in reason for _, reason in rows)
    for path in damaged:
        assert log.count(f'{path} does not decode') == 1


@pytest.mark.slow
def test_fifty_kills_between_the_last_step_and_the_end(photos, tmp_path):
    """Of a process of its own, each a little later; it goes on, or is whole."""
    recipe = processes.write_recipe(tmp_path / 'tiny.py', photos, num_threads=1)
    command = [sys.executable, '-m', 'vit_jax.main', f'--config={recipe}']
    environment = processes.environment()

    def start(run) -> subprocess.Popen:
        return subprocess.Popen(
            [*command, f'--workdir={run}'],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    assert start(tmp_path / 'whole').wait() == 0
    whole = vit_jax.load(tmp_path / 'whole', best=False)[1]
    stopped = tmp_path / 'stopped'
    shutil.copytree(tmp_path / 'whole', stopped)
    for model in stopped.glob('model*'):
        model.unlink()
    record = json.loads((stopped / 'run.json').read_text())
    del record['results'], record['summary']
    (stopped / 'run.json').write_text(json.dumps(record))
    (stopped / 'train.log').write_text('')

    # How long the end takes: from what is said at its beginning to the exit.
    def begun(run) -> None:
        while 'Steps 4 to 4' not in (run / 'train.log').read_text():
            time.sleep(0.005)

    shutil.copytree(stopped, tmp_path / 'timed')
    process = start(tmp_path / 'timed')
    begun(tmp_path / 'timed')
    begin = time.monotonic()
    assert process.wait() == 0
    window = time.monotonic() - begin

    unfinished = 0
    for kill in range(50):
        run = tmp_path / f'run{kill}'
        shutil.copytree(stopped, run)
        process = start(run)
        begun(run)
        time.sleep(window * kill / 50)
        process.kill()
        process.wait()
        try:
            loaded = vit_jax.load(run, best=False)[1]
        except ValueError as error:
            assert re.search('has not finished|There is no', str(error))  # noqa: PT017
            unfinished += 1
            if kill % 10 == 0:
                assert start(run).wait() == 0
                assert_bit_equal(vit_jax.load(run, best=False)[1], whole)
        else:
            assert_bit_equal(loaded, whole)
        shutil.rmtree(run)
    assert 0 < unfinished <= 50
