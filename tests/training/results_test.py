"""The end of a run: killed at any moment, it goes on or has left a whole model."""

import os

import pytest
from conftest import tiny_config
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
