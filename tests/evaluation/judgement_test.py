"""What follows from what a model said, against scikit-learn and by the definitions."""

import numpy as np
import pytest
from conftest import tiny_config
from sklearn import metrics as sk

from vit_jax import data, train
from vit_jax.evaluation import judgement
from vit_jax.inference.predictor import Predictor

CLASSES = tuple('abcdefg')


class Named:
    """A source of names alone."""

    class_names = CLASSES

    def __init__(self, n: int):
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index) -> data.Example:
        return {'image': b'', 'label': 0, 'name': f'photo {index}'}

    def fingerprint(self) -> str:
        return ''


def said(logits, labels, index=None, n=None):
    """Returns the judgement of such logits (b y)."""
    logits, labels = np.asarray(logits, np.float32), np.asarray(labels)
    likeliest, probabilities, losses = judgement._top_classes(logits, labels)
    return judgement.Judgement(
        source=Named(len(labels) if n is None else n),
        class_names=CLASSES[: logits.shape[1]],
        index=np.arange(len(labels)) if index is None else np.asarray(index),
        labels=labels,
        likeliest=likeliest,
        probabilities=probabilities,
        losses=losses,
        names=[f'photo {i}' for i in (range(len(labels)) if index is None else index)],
        num_source=len(labels) if n is None else n,
    )


@pytest.fixture
def example():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 300)  # the last class never occurs
    logits = rng.normal(size=(300, 7)).astype(np.float32)
    logits[np.arange(300), labels] += 1.5
    logits[:, 5] -= 20  # and one is never predicted
    return logits, labels, said(logits, labels)


def test_as_scikit_learn_has_it(example):
    logits, labels, found = example
    predicted = logits.argmax(axis=1)
    numbers = found.metrics()
    assert numbers['accuracy'] == sk.accuracy_score(labels, predicted)
    probabilities = np.exp(np.float64(logits))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    every = range(7)
    assert numbers['top_5_accuracy'] == sk.top_k_accuracy_score(
        labels, probabilities, k=5, labels=every
    )
    assert numbers['loss'] == pytest.approx(
        sk.log_loss(labels, probabilities, labels=every), rel=1e-6
    )
    np.testing.assert_array_equal(
        found.confusion(), sk.confusion_matrix(labels, predicted, labels=every)
    )
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        labels, predicted, labels=every, zero_division=np.nan
    )
    rows = {row['class']: row for row in found.per_class()}
    for i, name in enumerate(CLASSES):
        expected = (support[i], precision[i], recall[i], f1[i])
        row = tuple(rows[name].values())[1:]
        assert row == tuple(None if np.isnan(x) else pytest.approx(x) for x in expected)
    assert rows['f']['precision'] is None  # never predicted
    assert rows['g']['recall'] is None  # does not occur


def test_calibration_by_the_definition(example):
    logits, labels, found = example
    probabilities = np.exp(np.float64(logits))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    confidence, right = probabilities.max(axis=1), logits.argmax(axis=1) == labels
    error = 0
    for i in range(15):
        inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean())
            error += inside.mean() * gap
    assert found.metrics()['calibration_error'] == pytest.approx(error, rel=1e-6)
    assert found.calibration()[3].sum() == pytest.approx(1)


def test_always_sure_and_always_right_or_wrong():
    sure = 100 * np.eye(3)
    assert said(sure, [0, 1, 2]).metrics()['calibration_error'] == 0
    assert said(sure, [1, 2, 0]).metrics()['calibration_error'] == 1
    assert not len(said(sure, [0, 1, 2]).mistakes())


def test_mistakes_come_with_the_most_confident_first(example):
    logits, labels, found = example
    places = found.mistakes()
    assert (logits.argmax(axis=1)[places] != labels[places]).all()
    assert len(places) == (logits.argmax(axis=1) != labels).sum()
    assert (np.diff(found.confidence[places]) <= 0).all()
    worst = found.prediction(int(places[0]))
    assert worst['name'] == f'photo {places[0]}'
    assert worst['prediction'] == CLASSES[logits[places[0]].argmax()]
    assert worst['label'] == CLASSES[labels[places[0]]]
    assert not worst['correct']


def test_a_head_of_zeros_predicts_the_first_class():
    """As argmax in training does."""
    found = said(np.zeros((4, 7)), [0, 1, 2, 3])
    assert found.predicted.tolist() == [0, 0, 0, 0]
    for row in found.likeliest:
        assert len(set(row.tolist())) == judgement.TOP
    assert found.probabilities == pytest.approx(1 / 7)
    assert found.metrics()['accuracy'] == 0.25


def test_ties_elsewhere_do_not_lose_the_first():
    rng = np.random.default_rng(1)
    logits = rng.integers(0, 3, (500, 7)).astype(np.float32)
    found = said(logits, rng.integers(0, 7, 500))
    np.testing.assert_array_equal(found.predicted, logits.argmax(axis=1))
    values = np.take_along_axis(logits, found.likeliest, axis=1)
    np.testing.assert_array_equal(values, -np.sort(-logits, axis=1)[:, :5])


def test_large_logits_stay_finite():
    found = said([[3e4, 0, -3e4]], [2])
    assert found.losses[0] == pytest.approx(6e4)
    assert found.confidence[0] == 1


def test_confused_pairs_are_the_confusion_matrix_without_zeros(example):
    _, _, found = example
    assert found.confused[:, 2].sum() == 300
    assert (np.diff(found.confused[:, 2]) <= 0).all()
    assert len(found.confused) == np.count_nonzero(found.confusion())


def test_what_was_left_out_is_counted_and_places_hold():
    found = said(np.eye(2), [0, 0], index=[1, 4], n=6)
    assert found.num_skipped == 4
    assert found.metrics()['num_skipped'] == 4
    assert [row['name'] for row in found.predictions()] == ['photo 1', 'photo 4']
    assert 'top_5_accuracy' not in found.metrics()  # of two classes


@pytest.fixture(scope='module')
def predictor(photos, tmp_path_factory):
    path = tmp_path_factory.mktemp('judgement') / 'run'
    train.train_and_evaluate(tiny_config(photos, base_lr=0.3), path)
    return Predictor.load(path)


def test_examples_without_labels_are_refused(predictor, photos):
    from vit_jax.data.datasets.photos import Photos

    with pytest.raises(ValueError, match='examples without labels'):
        judgement.predict_split(
            predictor, Photos(photos / 'test'), np.arange(3, dtype='int32')
        )


def test_labels_are_the_models(predictor, photos):
    source = data.open_dataset(str(photos)).source('test')
    order = np.array([2, 0, 1], np.int32)
    straight = judgement.predict_split(
        predictor, source, np.arange(3, dtype=np.int32), batch=4
    )
    turned = judgement.predict_split(predictor, source, order)
    np.testing.assert_array_equal(turned.labels, order[straight.labels])
    np.testing.assert_array_equal(turned.predicted, straight.predicted)
