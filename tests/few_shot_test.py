"""The few-shot protocol, against scikit-learn's Ridge and through the command."""

import csv
import io
import json

import numpy as np
import pytest
from conftest import make_photos, tiny_config
from sklearn.linear_model import Ridge

from vit_jax import data, few_shot, train
from vit_jax.predictor import PRE_LOGITS, Predictor


def blobs(num_classes: int, per_class: int, width: int, seed: int = 0):
    """Returns features and labels of classes that overlap."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(num_classes, width))
    labels = np.repeat(np.arange(num_classes), per_class)
    rng.shuffle(labels)
    noise = 2 * rng.normal(size=(len(labels), width))
    return np.float32(centres[labels] + noise), labels


@pytest.mark.parametrize('l2_reg', [1e-2, 1.0, 1024.0])
@pytest.mark.parametrize('width', [8, 300])  # more and fewer features than examples
def test_as_ridge(width, l2_reg):
    x, y = blobs(7, 12, width)
    judged, _ = blobs(7, 30, width, seed=1)
    few, judged = few_shot.whiten(x, judged)
    ridge = Ridge(alpha=l2_reg, fit_intercept=False).fit(few, 2 * np.eye(7)[y] - 1)
    found = judged @ few_shot.regress(few, y, 7, l2_reg)
    np.testing.assert_allclose(found, ridge.predict(judged), atol=1e-6)
    assert (found.argmax(1) == ridge.predict(judged).argmax(1)).all()


def test_whitened_by_the_training_features_alone():
    x, _ = blobs(2, 50, 5)
    few, other = few_shot.whiten(3 * x + 7, 3 * x[:4] + 7)
    assert few[:, :-1].mean(axis=0) == pytest.approx(0, abs=1e-6)
    assert few[:, :-1].std(axis=0) == pytest.approx(1, abs=1e-4)
    assert (few[:, -1] == 100).all()
    np.testing.assert_array_equal(other, few[:4])


def test_a_constant_feature_is_no_division_by_zero():
    few, _ = few_shot.whiten(np.ones((3, 2)), np.ones((1, 2)))
    assert np.isfinite(few).all()


def test_choices():
    _, labels = blobs(4, 9, 3)
    for shots in (1, 3, 9, 20):
        chosen = few_shot.choose(labels, shots, seed=1)
        assert np.bincount(labels[chosen]).tolist() == [min(shots, 9)] * 4
        assert len(set(chosen.tolist())) == len(chosen)
    assert set(few_shot.choose(labels, 2, 0)) <= set(few_shot.choose(labels, 5, 0))
    assert set(few_shot.choose(labels, 2, 0)) != set(few_shot.choose(labels, 2, 1))


def test_more_shots_are_better():
    rows = few_shot.few_shot(blobs(5, 60, 20), blobs(5, 60, 20, seed=1), l2_reg=1.0)
    assert [row['shots'] for row in rows] == list(few_shot.SHOTS)
    assert [row['num_train'] for row in rows] == [5, 25, 50, 125]
    means = [row['mean'] for row in rows]
    assert means == sorted(means)
    assert 0.2 < means[0] < means[-1] < 1
    assert rows[0]['std'] == pytest.approx(np.std(rows[0]['accuracies']))


@pytest.fixture(scope='module')
def run(photos, tmp_path_factory):
    path = tmp_path_factory.mktemp('few_shot') / 'run'
    train.train_and_evaluate(tiny_config(photos, base_lr=0.1), path)
    return path


def test_a_model_as_by_hand(run, photos, capsys):
    """Through the command; the test split and what is read are the run's."""
    shots = ['--shots', '2', '5', '--resize', '0', '--format', 'json']
    assert few_shot.main([str(run), *shots]) == 0
    found = json.loads(capsys.readouterr().out)['few_shot']
    predictor = Predictor.load(run)
    dataset = data.open_dataset(str(photos))

    def features(split):
        rows = list(predictor.outputs(dataset.source(split), [PRE_LOGITS]))
        return (
            np.concatenate([row[PRE_LOGITS] for row in rows]),
            np.concatenate([row['label'] for row in rows]),
        )

    x, y = features('train')
    test, labels = features('test[60%:]')
    for row in found:
        accuracies = []
        for seed in range(3):
            chosen = few_shot.choose(y, row['shots'], seed)
            few, judged = few_shot.whiten(x[chosen], test)
            ridge = Ridge(alpha=1024, fit_intercept=False)
            ridge.fit(few, 2 * np.eye(3)[y[chosen]] - 1)
            accuracies.append((ridge.predict(judged).argmax(1) == labels).mean())
        assert row['accuracies'] == pytest.approx(accuracies)
        assert row['mean'] == pytest.approx(np.mean(accuracies))


def test_only_what_is_chosen_is_read(run, photos, monkeypatch):
    predictor = Predictor.load(run)
    source = data.open_dataset(str(photos))
    read = []
    real = data.folder.Files.__getitem__
    monkeypatch.setattr(
        data.folder.Files, '__getitem__', lambda s, i: read.append(i) or real(s, i)
    )
    train_split, test_split = source.source('train'), source.source('test')
    few_shot.judge(predictor, train_split, test_split, shots=[1], seeds=1)
    assert len(read) == 3 + len(test_split)


def test_other_formats_and_sizes(run, capsys):
    assert few_shot.main([str(run), '--shots', '1', '--format', 'csv']) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row['num_train'] == '3'
    assert 0 <= float(row['mean']) <= 1
    assert few_shot.main([str(run), '--shots', '1', '--size', '32']) == 0
    assert capsys.readouterr().out.split()[:4] == ['shots', 'mean', 'std', 'num_train']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['{run}', '--shots', '0'], 'shots and seeds of at least 1'),
        (['{run}', '--seeds', '0'], 'shots and seeds of at least 1'),
        (['{run}', '--l2_reg', '0'], 'l2_reg above 0'),
        (['{run}', '--train_split', 'tran'], "did you mean 'train'"),
        (['{run}', '--dataset', '{one}'], 'of one class'),
        (['{run}', '--train_split', 'test[:0]'], 'found 0 training'),
        (['{run}', '--resize', '8'], '--resize is 8, smaller than the crop of 16'),
        (['{run}', '--size', '17'], '17'),
        ([], 'no model is named'),
    ],
)
def test_bad_input(run, tmp_path, capsys, arguments, message):
    places = {'run': run, 'one': tmp_path / 'one'}
    make_photos(places['one'], classes=('cat',), train=2, test=1)
    arguments = [argument.format(**places) for argument in arguments]
    assert few_shot.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith('few_shot: ')
    assert message in error


def test_a_class_that_nobody_has_seen():
    with pytest.raises(ValueError, match=r'is of the classes \[2, 5\]'):
        few_shot.check(np.array([0, 1, 1]), np.array([5, 2, 2, 0]))
