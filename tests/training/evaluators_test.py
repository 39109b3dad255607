"""What is asked of the weights on the way, and how a configuration says it."""

import json

import pytest
from conftest import tiny_config

from vit_jax import train
from vit_jax.training import evaluators
from vit_jax.training.plan import checked, prepare


def plan_of(photos, **evals):
    config = tiny_config(photos)
    config.evals = evals
    return prepare(checked(config), '/nowhere')


def test_each_has_its_own_rhythm(photos, tmp_path):
    config = tiny_config(photos, total_steps=4, eval_every=4, progress_every=4)
    config.evals = {'on_train': {'type': 'split', 'role': 'train', 'every': 2}}
    train.train_and_evaluate(config, tmp_path)
    lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
    records = {record['step']: record for record in map(json.loads, lines)}
    assert [step for step in records if 'on_train_accuracy' in records[step]] == [2, 4]
    assert [step for step in records if 'val_accuracy' in records[step]] == [4]
    assert not any('num_examples' in name for name in records[4])


@pytest.mark.parametrize(
    ('entry', 'message'),
    [
        ({'type': 'few_shots', 'every': 1}, r'evals.mine.type .*mean few_shot\?'),
        ({'type': 'nowhere:Mine', 'every': 1}, 'there is no module nowhere'),
        ({'every': 1}, 'config.evals.mine has no type'),
        ({'type': 'split'}, 'config.evals.mine has no every'),
        ({'type': 'split', 'every': 1, 'rolle': 'val'}, "argument 'rolle'"),
        ({'type': 'split', 'every': 1, 'role': 'tset'}, 'asks for tset'),
    ],
)
def test_what_is_no_evaluator(photos, entry, message):
    with pytest.raises(ValueError, match=message):
        evaluators.create_evaluators(plan_of(photos, mine=entry))
