"""All that judges a model says the same: training, and every command after it."""

import csv
import json

import jax
import jax.export
import numpy as np
import pytest
from conftest import make_photos, tiny_config

from vit_jax import data, evaluate, features, predict, train
from vit_jax.export import __main__ as export
from vit_jax.inference.predictor import Predictor
from vit_jax.report import __main__ as report


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """Returns photos that a short run tells apart in part: some are mislabelled."""
    root = make_photos(tmp_path_factory.mktemp('photos'), train=12, test=20)
    for i in range(0, 20, 3):
        a, b = (root / 'test' / name / f'{i}.png' for name in ('cat', 'eel'))
        content = a.read_bytes()
        a.write_bytes(b.read_bytes())
        b.write_bytes(content)
    return root


@pytest.fixture(scope='module')
def run(photos, tmp_path_factory):
    path = tmp_path_factory.mktemp('agreement') / 'run'
    config = tiny_config(
        photos, total_steps=12, base_lr=0.1, **{'pp.test': 'test', 'pp.train': 'train'}
    )
    with config.ignore_type():
        config.pp.val = None
    train.train_and_evaluate(config, path)
    return path


@pytest.fixture(scope='module')
def accuracy(run):
    """Returns what training said; neither nothing nor everything is right."""
    (row,) = json.loads((run / 'run.json').read_text())['results']
    assert row['num_examples'] == 60
    assert 0.2 < row['accuracy'] < 0.95
    return row['accuracy']


def test_evaluate(run, accuracy, capsys):
    assert evaluate.main([str(run), '--json']) == 0
    assert json.loads(capsys.readouterr().out)['accuracy'] == accuracy


def test_counting_the_lines_of_predict(run, photos, accuracy, capsys):
    assert predict.main(
        [str(run), str(photos / 'test'), '--top_k', '1', '--format', 'csv']
    ) == 0  # fmt: skip
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    right = [f'/{row["class"]}/' in row['file'] for row in rows]
    assert len(right) == 60
    assert np.mean(right) == accuracy


def test_features_and_the_head(run, accuracy, tmp_path):
    """The head, applied by hand to the pre-logits."""
    out = tmp_path / 'f.npz'
    assert features.main([str(run), '--out', str(out)]) == 0
    head = jax.device_get(Predictor.load(run).params['head'])
    with np.load(out) as found:
        logits = found['pre_logits/features'] @ head['kernel'] + head['bias']
        assert (logits.argmax(axis=1) == found['label']).mean() == accuracy


def test_the_exported_artifact(run, photos, accuracy, tmp_path):
    assert export.main([str(run), str(tmp_path / 'out')]) == 0
    content = (tmp_path / 'out' / 'model.stablehlo').read_bytes()
    artifact = jax.export.deserialize(bytearray(content))
    card = json.loads((tmp_path / 'out' / 'model.json').read_text())
    source = data.open_dataset(str(photos)).source('test')
    right = []
    for batch in data.eval_batches(source, data.Preprocess((16, 16)), batch=15):
        given = card['source']['export']['input']['dtype']
        images = (
            batch['image'] if given == 'float32' else batch['image'] * 127.5 + 127.5
        )
        (scores,) = jax.tree.leaves(artifact.call(images.astype(given)))[:1]
        right += (np.asarray(scores).argmax(axis=1) == batch['label']).tolist()
    assert np.mean(right) == accuracy


def test_the_report(run, accuracy, tmp_path):
    assert report.main([str(run), '--out', str(tmp_path / 'r.html')]) == 0
    page = (tmp_path / 'r.html').read_text()
    assert f'<b>{accuracy:.2%}</b><span>accuracy on test</span>' in page
