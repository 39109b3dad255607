"""The table of keys, and what follows from it."""

from configurations import make

from vit_jax import config as config_lib
from vit_jax import tasks
from vit_jax.models import blocks, fields
from vit_jax.models.attention import ATTENTIONS
from vit_jax.optim.optimizer import OPTIMIZERS


def test_what_follows_from_the_table():
    keys = set(config_lib.flatten(config_lib.default())) | {'model', 'evals'}
    assert keys == set(config_lib.KEYS)
    assert not set(config_lib.GONE) & keys
    assert set(config_lib.GONE_WHAT) <= set(config_lib.GONE)
    assert config_lib.is_what('pp.train')
    assert config_lib.is_what('model.patches.size')
    assert not config_lib.is_what('sharding.fsdp')
    assert not config_lib.is_what('evals.mine.every')
    assert not config_lib.is_what('cache.device_mb')
    assert config_lib.is_what('cache.on_device')
    assert 'total_steps' in config_lib.keys_with_none()
    assert 'seed' not in config_lib.keys_with_none()


def test_choices_are_those_of_the_tables():
    keys = config_lib.KEYS
    assert keys['optimizer'].one_of == tuple(OPTIMIZERS)
    assert keys['task'].one_of == tuple(tasks.TASKS)
    assert set(keys['remat'].one_of) == set(blocks.REMAT_POLICIES)
    assert keys['attention'].one_of == ATTENTIONS
    assert keys['dtype'].one_of == fields.DTYPES


def test_every_key_is_explained():
    for name, key in config_lib.KEYS.items():
        assert key.says.endswith('.'), name
        assert key.says[0].isupper() or key.says.startswith(('sgd', '(')), name
        assert (key.default is None) <= (key.kind is not None and bool(key.none)), name


def test_flatten_survives_json():
    flat = config_lib.flatten(make(**{'pp.size': (32, 48)}))
    assert flat['pp.size'] == [32, 48]
    assert flat['model.patches.size'] == [16, 16]
