"""The few-shot protocol, against scikit-learn's Ridge and through the command."""

import csv
import dataclasses
import io
import json
import pathlib

import numpy as np
import pytest
from conftest import make_photos, tiny_config
from sklearn.linear_model import Ridge

from vit_jax import data, train
from vit_jax import few_shot as door
from vit_jax.evaluation import few_shot
from vit_jax.inference.predictor import PRE_LOGITS, Predictor


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


def test_choices_are_the_authors():
    """One generator for each seed; the places of each class in turn are shuffled."""
    labels = np.array([1, 0, 2, 0, 1, 0, 2, 2, 0, 1])
    generator = np.random.default_rng(7)
    orders = [generator.permutation(np.flatnonzero(labels == y)) for y in range(3)]
    for shots in (1, 2, 9):
        expected = np.sort(np.concatenate([order[:shots] for order in orders]))
        np.testing.assert_array_equal(few_shot.choose(labels, shots, 7), expected)


def test_what_has_no_label_or_does_not_decode_is_not_chosen():
    labels = np.array([0, 1, -1, 0, 1, 0, 1, -1])
    all_of_them = few_shot.choose(labels, 9, 0)
    assert all_of_them.tolist() == [0, 1, 3, 4, 5, 6]
    first = few_shot.choose(labels, 2, 0)
    others = few_shot.choose(labels, 2, 0, without=first[:1])
    assert first[0] not in others
    assert set(first[1:]) < set(others)  # only what is left out is replaced
    assert np.bincount(labels[others]).tolist() == [2, 2]


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


def test_classes_with_fewer_examples_are_named():
    x, y = blobs(3, 8, 5)
    keep = np.flatnonzero((y != 1) | (np.cumsum(y == 1) <= 3))
    rows = few_shot.few_shot((x[keep], y[keep]), (x, y), shots=[2, 5, 9], seeds=1)
    assert [row['fewer'] for row in rows] == [{}, {1: 3}, {0: 8, 1: 3, 2: 8}]
    assert [row['num_train'] for row in rows] == [6, 5 + 3 + 5, 8 + 3 + 8]


def test_features_that_are_no_numbers():
    x, y = blobs(2, 4, 3)
    x[3, 1] = np.nan
    with pytest.raises(ValueError, match='not finite'):
        few_shot.few_shot((x, y), (x, y), shots=[4])


@pytest.fixture(scope='module')
def run(photos, tmp_path_factory):
    path = tmp_path_factory.mktemp('few_shot') / 'run'
    train.train_and_evaluate(tiny_config(photos, base_lr=0.1), path)
    return path


def test_a_model_as_by_hand(run, photos, capsys):
    """Through the command; the test split and what is read are the run's."""
    shots = ['--shots', '2', '5', '--resize', '0', '--format', 'json']
    assert door.main([str(run), *shots]) == 0
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


@pytest.fixture(scope='module')
def tfds(tmp_path_factory):
    return tmp_path_factory.mktemp('tfds')


@pytest.mark.parametrize('shots', [1, 25])  # fewer and more examples than features
def test_digits_as_ridge(run, tfds, capsys, shots):
    """The digits of scikit-learn, with labels that come with the images."""
    size = ['--size', '32', '--resize', '36']
    options = ['--shots', str(shots), '--l2_reg', '3', '--format', 'json']
    place = ['--dataset', 'digits', '--tfds_data_dir', str(tfds)]
    command = [str(run), *place, *size, *options]
    assert door.main(command) == 0
    told = json.loads(capsys.readouterr().out)
    assert told['dataset'] == 'digits/1.0.0'
    assert (told['image_size'], told['resize']) == ([32, 32], 36)
    predictor = Predictor.load(run, image_size=(32, 32))
    predictor.card = dataclasses.replace(predictor.card, resize=36)

    def features(split):
        source = data.open_dataset('digits', data_dir=tfds).source(split)
        rows = list(predictor.outputs(source, [PRE_LOGITS], batch=128))
        x, y = (np.concatenate([row[k] for row in rows]) for k in (PRE_LOGITS, 'label'))
        return x.astype(np.float64), y

    (x, y), (test, labels) = features('train'), features('test')
    assert (shots * 10 < x.shape[1] + 1) == (shots == 1)
    found, expected = [], []
    for seed in range(3):
        chosen = few_shot.choose(y, shots, seed)
        few, judged = few_shot.whiten(x[chosen], test)
        targets = 2 * np.eye(10)[y[chosen]] - 1
        ridge = Ridge(alpha=3, fit_intercept=False).fit(few, targets)
        said = ridge.predict(judged).argmax(1)
        weights = few_shot.regress(few, y[chosen], 10, 3)
        found.append((judged @ weights).argmax(1))
        expected.append(said)
    np.testing.assert_array_equal(found, expected)
    accuracies = [(said == labels).mean() for said in expected]
    assert told['few_shot'][0]['accuracies'] == pytest.approx(accuracies)


def test_only_what_is_chosen_is_read(run, photos, monkeypatch):
    predictor = Predictor.load(run)
    source = data.open_dataset(str(photos))
    read = []
    real = data.folder.Files.__getitem__
    monkeypatch.setattr(
        data.folder.Files, '__getitem__', lambda s, i: read.append(i) or real(s, i)
    )
    train_split, test_split = source.source('train'), source.source('test')
    few_shot.few_shot_accuracies(predictor, train_split, test_split, shots=[1], seeds=1)
    assert len(read) == 3 + len(test_split)


def test_other_formats_and_sizes(run, capsys):
    assert door.main([str(run), '--shots', '1', '--format', 'csv']) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row['num_train'] == '3'
    assert 0 <= float(row['mean']) <= 1
    assert door.main([str(run), '--shots', '1', '--size', '32']) == 0
    assert capsys.readouterr().out.split()[:4] == ['shots', 'mean', 'std', 'num_train']


def test_fewer_examples_than_shots_are_told(run, capsys):
    assert door.main([str(run), '--shots', '8', '9', '--format', 'json']) == 0
    out, error = capsys.readouterr()
    assert error.endswith(
        'few_shot: fewer than 9 training images, so all of them: cat (8), dog (8), '
        'eel (8)\n'
    )
    rows = json.loads(out)['few_shot']
    assert [row['fewer'] for row in rows] == [{}, {'cat': 8, 'dog': 8, 'eel': 8}]
    assert door.main([str(run), '--shots', '9']) == 0
    assert 'cat (8), dog (8), eel (8)' in capsys.readouterr().err


def test_what_does_not_decode(run, tmp_path, capsys):
    make_photos(tmp_path, train=4, test=2)
    source = data.open_dataset(str(tmp_path)).source('train')
    for place in few_shot.choose(source.labels, 1, 0)[:2]:  # of two classes
        pathlib.Path(source[int(place)]['name']).write_bytes(b'no image')
    (tmp_path / 'test' / 'dog' / '0.png').write_bytes(b'no image')
    command = [str(run), '--dataset', str(tmp_path), '--shots', '1', '--seeds', '1']
    assert door.main(command) == 2
    assert '--skip_corrupt leaves such images out' in capsys.readouterr().err
    command += ['--skip_corrupt', '--format', 'json']
    assert door.main(command) == 1
    out, error = capsys.readouterr()
    assert '3 images do not decode' in error
    (row,) = json.loads(out)['few_shot']
    assert (row['num_train'], row['num_test'], row['skipped']) == (3, 5, 3)
    assert row['fewer'] == {}


def test_a_class_none_of_which_decodes(run, tmp_path, capsys):
    make_photos(tmp_path, train=2, test=1)
    for path in (tmp_path / 'train' / 'eel').iterdir():
        path.write_bytes(b'no image')
    command = [str(run), '--dataset', str(tmp_path), '--shots', '1', '--skip_corrupt']
    assert door.main(command) == 2
    assert 'of the classes eel' in capsys.readouterr().err


def test_labels_are_read_once(run, photos, monkeypatch):
    """As training needs it, which asks again and again."""
    dataset = data.open_dataset(str(photos))
    read = []
    real = data.sources.Subset.labels.fget
    monkeypatch.setattr(
        data.sources.Subset, 'labels', property(lambda s: read.append(s) or real(s))
    )
    protocol = few_shot.Protocol(
        dataset.source('train'), dataset.source('test'), shots=[1], seeds=2
    )
    predictor = Predictor.load(run)
    assert protocol.accuracies(predictor) == protocol.accuracies(predictor)
    assert len(read) == 2


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['{run}', '--shots', '0'], 'shots and seeds of at least 1'),
        (['{run}', '--seeds', '0'], 'shots and seeds of at least 1'),
        (['{run}', '--l2_reg', '0'], 'l2_reg above 0'),
        (['{run}', '--train_split', 'tran'], 'Did you mean train'),
        (['{run}', '--dataset', '{one}'], 'of one class'),
        (['{run}', '--train_split', 'test[:0]'], 'found 0 training'),
        (['{run}', '--resize', '8'], '--resize is 8, smaller than the crop of 16'),
        (['{run}', '--resize', '-1'], '--resize is -1'),
        (['{run}', '--size', '17'], '17'),
        (['{run}', '--l2_reg', 'inf'], 'l2_reg above 0'),
        (['{run}', '--test_split', 'tset'], 'Did you mean test'),
        (['{run}', '--train_split', 'train[:2]'], 'is of the classes '),
        (['{run}', '--test_split', 'train[50%:]'], 'share 12 examples'),
        ([], 'no model is named'),
    ],
)
def test_bad_input(run, tmp_path, capsys, arguments, message):
    places = {'run': run, 'one': tmp_path / 'one'}
    make_photos(places['one'], classes=('cat',), train=2, test=1)
    arguments = [argument.format(**places) for argument in arguments]
    assert door.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith('few_shot: ')
    assert message in error


def test_a_class_that_nobody_has_seen():
    with pytest.raises(ValueError, match='is of the classes 2, 5, which'):
        few_shot.check(np.array([0, 1, 1]), np.array([5, 2, 2, 0]))


def test_judged_on_what_has_no_label():
    with pytest.raises(ValueError, match='2 of 3 test examples have no label'):
        few_shot.check(np.array([0, 1, 1]), np.array([-1, 1, -1]))
