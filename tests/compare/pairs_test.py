"""Whether two models differ: numbers of the literature, and simulations."""

import json
import time

import numpy as np
import pytest
from conftest import make_photos, tiny_config
from scipy import stats

from vit_jax import evaluate, train
from vit_jax.compare import __main__ as compare
from vit_jax.compare import pairs
from vit_jax.evaluation.judgement import Judgement


def judged(correct, labels=None, num_classes=4, **changes) -> Judgement:
    """Returns a judgement that is right where it is said."""
    correct = np.asarray(correct, bool)
    count = len(correct)
    labels = np.zeros(count, np.int32) if labels is None else np.asarray(labels)
    said = np.where(correct, labels, (labels + 1) % num_classes)
    return Judgement(
        source=None,
        class_names=tuple(f'class {i}' for i in range(num_classes)),
        index=np.arange(count),
        labels=labels,
        likeliest=said[:, None],
        probabilities=np.full((count, 1), 0.9, np.float32),
        losses=np.where(correct, 0.1, 2.3).astype(np.float32),
        names=[str(i) for i in range(count)],
        num_source=count,
        about={},
    )


def test_mcnemar():
    """Of Fagerland et al. (2013), table 1: 59 and 17 give p below a millionth."""
    assert pairs.mcnemar(17, 59) == pytest.approx(
        2 * stats.binom.cdf(17, 76, 0.5), rel=1e-12
    )
    assert pairs.mcnemar(0, 0) == 1
    assert pairs.mcnemar(5, 5) == 1
    assert pairs.mcnemar(1, 7) == pytest.approx(0.0703125)
    assert pairs.mcnemar(7, 1) == pairs.mcnemar(1, 7)


def test_the_interval_of_bonett_and_price():
    """By hand, from their formula."""
    found = pairs.accuracy_difference(20, 35, 200)
    less, more = 21 / 202, 36 / 202
    half = 1.959964 * np.sqrt((less + more - (more - less) ** 2) / 202)
    assert found.value == 15 / 200
    assert found.low == pytest.approx(more - less - half)
    assert found.high == pytest.approx(more - less + half)


def test_holm():
    assert pairs.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert pairs.holm([0.9]) == [0.9]


def draw(rng, count, p_first, p_second, together):
    """Returns who is right for each of two models that are right together."""
    common = rng.random(count) < together
    shared = rng.random(count)
    first = np.where(common, shared, rng.random(count)) < p_first
    second = np.where(common, shared, rng.random(count)) < p_second
    return first, second


@pytest.mark.parametrize(
    ('count', 'p_first', 'p_second', 'together'),
    [(2000, 0.8, 0.83, 0.5), (1000, 0.95, 0.95, 0.7), (500, 0.6, 0.7, 0.2)],
)
def test_the_interval_holds_what_it_says(count, p_first, p_second, together):
    """95 ± 1 % of 10,000 simulated pairs."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(10_000):
        first, second = draw(rng, count, p_first, p_second, together)
        found = pairs.accuracy_difference(
            int((first & ~second).sum()), int((second & ~first).sum()), count
        )
        held += found.low <= p_second - p_first <= found.high
    assert 0.94 <= held / 10_000 <= 0.96


def test_false_alarms():
    """5 ± 1 % of 5,000 pairs of equal models; an exact test has rather fewer."""
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(5000):
        first, second = draw(rng, 4000, 0.7, 0.7, 0.2)
        less, more = int((first & ~second).sum()), int((second & ~first).sum())
        alarms += pairs.mcnemar(less, more) < pairs.SURE
    assert 0.04 <= alarms / 5000 <= 0.06


def test_bootstrap_intervals_are_those_of_the_normal_distribution():
    """Of many images, where both hold."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 4, 4000)
    first, second = draw(rng, 4000, 0.8, 0.82, 0.4)
    one, two = judged(first, labels), judged(second, labels)
    loss, recall = pairs.compare(one, two).others
    difference = two.losses.astype(float) - one.losses
    half = 1.96 * difference.std() / np.sqrt(4000)
    assert loss.value == pytest.approx(difference.mean())
    assert loss.high - loss.low == pytest.approx(2 * half, rel=0.1)
    by_class = [
        second[labels == k].mean() - first[labels == k].mean() for k in range(4)
    ]
    assert recall.value == pytest.approx(np.mean(by_class))
    assert recall.low < recall.value < recall.high
    # Of balanced classes it is nearly the accuracy.
    accuracy = pairs.compare(one, two).accuracy
    assert recall.low == pytest.approx(accuracy.low, abs=0.003)


def test_fifty_thousand_predictions_take_seconds():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 1000, 50_000)
    first, second = draw(rng, 50_000, 0.8, 0.81, 0.5)
    one = judged(first, labels, num_classes=1000)
    two = judged(second, labels, num_classes=1000)
    begin = time.monotonic()
    found = pairs.compare(one, two)
    assert time.monotonic() - begin < 30  # on a busy machine; 3 s on two idle cores
    assert found.p < 0.05
    assert 'evidence that B is better than A' in pairs.verdict(
        found, found.p, ('A', 'B')
    )


def test_what_cannot_be_compared():
    one = judged([1, 0, 1, 1])
    with pytest.raises(ValueError, match='not the same ones'):
        pairs.compare(one, judged([1, 0, 1, 1], num_classes=5))
    with pytest.raises(ValueError, match=r'other images: 4 and 3'):
        pairs.compare(one, judged([1, 0, 1]))
    with pytest.raises(ValueError, match='other labels'):
        pairs.compare(one, judged([1, 0, 1, 1], [0, 1, 2, 3]))


def test_images_in_another_order_or_left_out(caplog):
    rng = np.random.default_rng(4)
    first, second = draw(rng, 50, 0.6, 0.7, 0.5)
    one, two = judged(first), judged(second)
    order = rng.permutation(50)[:48]  # two could not be read
    columns = ('index', 'labels', 'likeliest', 'probabilities', 'losses')
    fields = {name: getattr(two, name)[order] for name in columns}
    other = Judgement(
        source=None, class_names=two.class_names, num_source=50, about={},
        names=[two.names[i] for i in order], **fields,
    )  # fmt: skip
    found = pairs.compare(one, other)
    assert found.num_examples == 48
    assert '2 images are left out' in caplog.text
    kept = np.sort(order)
    assert found.only_first == (first[kept] & ~second[kept]).sum()


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Two runs on the same photos, one of which has learned nothing."""
    folder = tmp_path_factory.mktemp('compare')
    photos = make_photos(folder / 'photos', train=8, test=20)
    for name, rate in (('lazy', 0.0), ('eager', 0.05)):
        config = tiny_config(photos, base_lr=rate, total_steps=24, eval_every=0)
        train.train_and_evaluate(config, folder / name)
    return folder


def test_through_the_command(runs, capsys, monkeypatch):
    monkeypatch.chdir(runs)
    lazy, eager = 'lazy', 'eager'
    assert compare.main([lazy, eager]) == 0
    said = capsys.readouterr().out
    assert f'There is evidence that {eager} is better than {lazy}' in said
    assert max(map(len, said.splitlines())) <= 80
    # What evaluate leaves gives the same, without the models.
    saved = []
    for name in ('lazy', 'eager'):
        out = runs / f'judged-{name}'
        assert evaluate.main([str(runs / name), '--out', str(out)]) == 0
        saved.append(str(out))
    capsys.readouterr()
    assert compare.main([*saved, '--json']) == 0
    from_files = json.loads(capsys.readouterr().out)
    assert compare.main([lazy, eager, '--json']) == 0
    from_models = json.loads(capsys.readouterr().out)
    (one,), (other,) = (x['against_the_first'] for x in (from_files, from_models))
    assert {**one, 'model': ''} == {**other, 'model': ''}


@pytest.mark.parametrize(
    ('references', 'said'),
    [
        (['{runs}/lazy'], 'expected two models or more'),
        (['{runs}/lazy', '{runs}/lazy'], 'expected two models or more'),
        (['{runs}/lazy', '{runs}/lazzy'], 'Did you mean lazy'),
    ],
)
def test_bad_input(runs, capsys, references, said):
    assert compare.main([reference.format(runs=runs) for reference in references]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert 'Traceback' not in error
