"""A run directory that an older version wrote: still a model, still goes on.

tests/golden/run_of_f96a5e1 was written by commit f96a5e1, before the rooms were
rebuilt: one run to its end, and the same one stopped after two of four steps. Logs,
events and the checkpoints of the finished one are left out.
"""

import json
import shutil

import numpy as np
import pytest
from conftest import GOLDEN, tiny_config
from flax import traverse_util

from vit_jax import checkpoint, evaluate, train
from vit_jax.inference.predictor import Predictor

RUNS = GOLDEN / 'run_of_f96a5e1'


@pytest.fixture
def older(tmp_path):
    """Returns a function from a run's name to a copy of its directory."""
    return lambda name: shutil.copytree(RUNS / name, tmp_path / name)


def config(photos):
    few_shot = {'few_shot.every': 2, 'few_shot.shots': (1, 2)}
    settings = {'seed': 3, 'base_lr': 0.1, 'optim_dtype': 'float32'}
    return tiny_config(photos, **settings, **few_shot)


def results(run):
    return json.loads((run / 'run.json').read_text())['results']


def test_it_goes_on_to_the_same_end(photos, older):
    run = older('stopped')
    params, summary = train.train_and_evaluate(config(photos), run)
    expected = checkpoint.load(RUNS / 'complete' / 'model.npz')
    for (path, got), (other, right) in zip(flat(params), flat(expected), strict=True):
        assert path == other
        np.testing.assert_allclose(got, right, atol=1e-6, rtol=0, err_msg=path)
    before = json.loads((RUNS / 'complete' / 'run.json').read_text())['summary']
    assert summary == pytest.approx(before, abs=1e-6)


def test_a_finished_one_is_handed_back(photos, older):
    run = older('complete')
    params, summary = train.train_and_evaluate(config(photos), run)
    assert summary == json.loads((run / 'run.json').read_text())['summary']
    assert set(params) >= {'Transformer', 'embedding', 'head'}


def test_its_model_predicts_and_is_evaluated(photos, older, capsys):
    run = older('complete')
    (row,) = [
        row
        for row in results(run)
        if (row['parameters'], row['role']) == ('last', 'test')
    ]
    command = [str(run), '--dataset', str(photos), '--split', 'test[60%:]', '--json']
    command.append('--last')
    assert evaluate.main(command) == 0
    found = json.loads(capsys.readouterr().out)
    for name in ('accuracy', 'loss', 'num_examples'):
        assert found[name] == pytest.approx(row[name], abs=1e-6)
    predictor = Predictor.load(run)
    answer = predictor.predict(photos / 'test' / 'dog' / '0.png')
    assert {name for name, _ in answer} == {'cat', 'dog', 'eel'}
    assert sum(probability for _, probability in answer) == pytest.approx(1)


def flat(params):
    return sorted(traverse_util.flatten_dict(dict(params), sep='/').items())
