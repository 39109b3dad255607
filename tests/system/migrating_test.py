"""docs/migrating.md, row by row: what it says is here is here."""

import importlib
import re

import declared
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import vit_jax
from vit_jax import config as config_lib
from vit_jax import data, models, optim, train
from vit_jax.config.gone import GONE
from vit_jax.training.plan import checked, prepare

TEXT = (declared.ROOT / 'docs/migrating.md').read_text()
TABLES = TEXT.partition('## What behaves differently')[0]
ROWS = [
    [cell.strip() for cell in line.strip('|').split('|')]
    for line in TABLES.splitlines()
    if line.startswith('| ') and not line.startswith('| there')
]
# How the page calls packages in short.
SHORT = {
    'models': models,
    'data': data,
    'optim': optim,
    'train': train,
    'checkpoint': importlib.import_module('vit_jax.checkpoint'),
    'vit_jax': vit_jax,
}


def test_there_are_rows():
    assert len(ROWS) > 40


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row[0][:40])
def test_names_on_the_right_are_there(row):
    """Whatever stands in code and looks like a dotted name can be imported."""
    for code in re.findall(r'`([^`]+)`', row[1]):
        name = re.match(r'[A-Za-z_][\w.]*', code)
        first, *rest = name[0].split('.') if name else ['']
        if first not in SHORT or code.startswith(('vit_jax.main', 'train.log')):
            continue
        value = SHORT[first]
        for part in rest:
            if not hasattr(value, part):
                importlib.import_module(f'{value.__name__}.{part}')
            value = getattr(value, part)


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row[0][:40])
def test_keys_on_the_left_are_there_or_gone(row):
    known = {*config_lib.flatten(config_lib.default()), *config_lib.KEYS, *GONE}
    known |= {name.partition('.')[0] for name in known} | {'trainer'}
    if not any(re.search(rf'^`{key}`', row[0]) for key in known):
        return
    for key in re.findall(r'`([\w.]+)`', row[0]):
        assert key in known or key.startswith('model.') or 'gone' in row[1], key


def test_models_take_inputs_by_their_former_name():
    images = jnp.zeros((2, 32, 32, 3))
    for name in ('testing', 'Mixer-S_16'):
        model = models.get_model(name, 3)
        variables = model.init(jax.random.key(0), inputs=images[:1], train=False)
        by_name = model.apply(variables, inputs=images, train=False)
        np.testing.assert_array_equal(by_name, model.apply(variables, images))
        with pytest.raises(ValueError, match='There are no images'):
            model.apply(variables)


def test_a_recipe_may_replace_a_group_of_keys(photos, tmp_path):
    config = config_lib.default()
    config.model = models.get_config('testing')
    config.dataset = str(photos)
    config.batch, config.total_steps = 8, 1
    config.pp = ConfigDict({'crop': 32})
    plan = prepare(checked(config), tmp_path)
    assert plan.config.pp.crop == 32
    assert plan.config.pp.min_area == config_lib.default().pp.min_area
    assert dict(config.pp) == {'crop': 32}
