"""What makes two starts the same run, and what may change between them."""

import re

import pytest
from conftest import tiny_config
from trees import assert_bit_equal

from vit_jax import evaluate, train
from vit_jax.files import run_record
from vit_jax.training import loop


class DiedError(Exception):
    """What ends a run in the middle."""


@pytest.fixture
def died(photos, tmp_path, monkeypatch):
    """Returns the directory of a run that died after step 2 of 4."""
    steps = loop.training_steps

    def dying(*args):
        for step, *rest in steps(*args):
            yield step, *rest
            if step == 2:
                raise DiedError

    with monkeypatch.context() as patch:
        patch.setattr(loop, 'training_steps', dying)
        with pytest.raises(DiedError):
            train.train_and_evaluate(tiny_config(photos), tmp_path / 'run')
    return tmp_path / 'run'


@pytest.mark.parametrize(
    'settings',
    [
        {'eval_every': 1},
        {'early_stop': 3, 'skip_corrupt': True, 'pp.test': 'test[80%:]'},
        {'eval_every': 0, 'pp.test': None, 'checkpoint_every': 0},
    ],
    ids=str,
)
def test_what_only_judges_may_change_between_starts(died, photos, tmp_path, settings):
    """The parameters are those of a run that nothing interrupted."""
    config = tiny_config(photos)
    with config.ignore_type():
        config.update_from_flattened_dict(settings)
    params, summary = train.train_and_evaluate(config, died)
    whole, _ = train.train_and_evaluate(
        tiny_config(photos, eval_every=0, **{'pp.val': None}), tmp_path / 'whole'
    )
    assert_bit_equal(params, whole)
    judged = [r for r in run_record.read(died / 'metrics.jsonl') if 'val_loss' in r]
    assert summary['step'] == 4
    assert ('test_loss' in summary) == (settings.get('pp.test', '') is not None)
    if settings.get('eval_every') == 1:
        assert [record['step'] for record in judged] == [2, 3, 4]
    if 'pp.test' in settings:
        assert 'What judges at the end is another' in (died / 'train.log').read_text()


def test_a_run_that_has_judged_on_test_does_not_take_another(photos, tmp_path):
    train.train_and_evaluate(tiny_config(photos), tmp_path)
    other = tiny_config(photos, **{'pp.test': 'test[80%:]'})
    with pytest.raises(ValueError, match='complete, and was judged on other') as error:
        train.train_and_evaluate(other, tmp_path)
    assert "config.pp.test: 'test[60%:]' there, 'test[80%:]' now" in str(error.value)
    # What it says to type works.
    (run,) = re.findall(r'python -m vit_jax\.evaluate (\S+)', str(error.value))
    assert evaluate.main([run]) == 0


def test_what_is_trained_on_and_what_chooses_may_not_change(died, photos):
    for key, split in (('train', 'train[:20]'), ('val', 'test[:40%]')):
        other = tiny_config(photos, **{f'pp.{key}': split})
        with pytest.raises(ValueError, match=f'fingerprint of {key} examples'):
            train.train_and_evaluate(other, died)
