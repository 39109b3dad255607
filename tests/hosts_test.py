"""Runs on two hosts: what they share, what they agree on, and how they end."""

import json
import sys

import numpy as np
import processes
import pytest
import together
from conftest import make_photos

from vit_jax import checkpoint, train
from vit_jax.main import load_recipe

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')


def assert_close(one, other) -> None:
    """Compares two files of weights that were made on other numbers of hosts."""
    with checkpoint.open(one) as a, checkpoint.open(other) as b:
        assert set(a) == set(b)
        for name in a:
            np.testing.assert_allclose(
                a[name], b[name], rtol=1e-5, atol=1e-6, err_msg=name
            )


def assert_close_records(run, other) -> None:
    found, expected = processes.records(run), processes.records(other)
    assert [set(record) for record in found] == [set(record) for record in expected]
    for a, b in zip(found, expected, strict=True):
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-4, err_msg=name)


@pytest.fixture(scope='module')
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp('hosts')
    # Fewer examples to evaluate on than devices: some hosts get none.
    photos = make_photos(folder / 'photos', train=8, test=1)
    return processes.write_recipe(
        folder / 'recipe.py', photos, **{'pp.val': 'test[:1]', 'pp.test': 'test[1:]'}
    )


@pytest.fixture(scope='module')
def on_one(recipe):
    """Returns a run in this process, on eight devices."""
    run = recipe.with_name('one')
    train.train_and_evaluate(load_recipe(str(recipe)), run)
    return run


@pytest.fixture(scope='module')
def on_two(recipe):
    """Returns the same run on two hosts with four devices each."""
    run = recipe.with_name('two')
    assert together.finish(recipe, run) == [0, 0], together.printed(run)
    return run


def test_two_hosts_train_what_one_does(on_one, on_two):
    assert_close(on_two / 'model.npz', on_one / 'model.npz')
    assert_close(on_two / 'model_best.npz', on_one / 'model_best.npz')
    assert_close_records(on_two, on_one)
    runs = [json.loads((run / 'run.json').read_text()) for run in (on_one, on_two)]
    results = [run['results'] for run in runs]
    assert [row['num_examples'] for row in results[1]] == [1, 2, 1, 2]
    for one, two in zip(*results, strict=True):
        assert one['accuracy'] == two['accuracy']
        assert one['loss'] == pytest.approx(two['loss'], rel=1e-4)


def test_one_host_writes_and_tells(on_one, on_two):
    names = [
        sorted(path.name.partition('tfevents')[0] for path in run.iterdir())
        for run in (on_one, on_two)
    ]
    assert names[0] == names[1]
    (start,) = json.loads((on_two / 'run.json').read_text())['starts']
    assert start['processes'] == 2
    assert len(start['devices']) == 8
    first, second = (together.output_of(on_two, host).read_text() for host in (0, 1))
    assert 'step 4/4' in first
    assert 'step ' not in second
