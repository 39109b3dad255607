"""Keys, defaults that depend on the data, and what is refused."""

import pytest

from vit_jax import config as config_lib
from vit_jax import models, tasks
from vit_jax.models import blocks, fields
from vit_jax.models.attention import ATTENTIONS
from vit_jax.optim.optimizer import OPTIMIZERS


def make(**settings):
    config = config_lib.default()
    config.dataset = 'digits'
    config.model = models.get_config('testing')
    config.pp.crop = 32
    config.update_from_flattened_dict(settings)
    return config


def complement(split):
    left = {'train': None, 'train[:98%]': 'train[98%:]'}
    left |= {'train[:60%]+train[80%:]': 'train[60%:80%]'}
    return left[split]


@pytest.mark.parametrize(
    ('sizes', 'given', 'expected'),
    [
        ('train test', {}, ('train[:90%]', 'train[90%:]', 'test')),
        ('train validation test', {}, ('train', 'validation', 'test')),
        ('train validation', {}, ('train[:90%]', 'train[90%:]', 'validation')),
        ('train', {}, ('train[:80%]', 'train[80%:90%]', 'train[90%:]')),
        ('train', {'holdout': 0.2}, ('train[:60%]', 'train[60%:80%]', 'train[80%:]')),
        ('train test', {'val': None}, ('train', None, 'test')),
        ('train test', {'test': None}, ('train[:90%]', 'train[90%:]', None)),
        (
            'train test',
            {'train': 'train[:98%]'},
            ('train[:98%]', 'train[98%:]', 'test'),
        ),
        ('train test', {'train': 'train'}, ('train', None, 'test')),
        (
            'train',
            {'train': 'train[:60%]', 'test': 'train[80%:]'},
            ('train[:60%]', 'train[60%:80%]', 'train[80%:]'),
        ),
    ],
)
def test_splits_that_are_chosen(sizes, given, expected):
    pp = make(**{f'pp.{key}': value for key, value in given.items() if value}).pp
    with pp.ignore_type():
        pp.update(given)
    found = config_lib.choose_splits(pp, dict.fromkeys(sizes.split(), 100), complement)
    assert tuple(found[role] for role in ('train', 'val', 'test')) == expected


def test_no_train_split():
    with pytest.raises(ValueError, match=r'no split named train, but a, b.*pp\.train'):
        config_lib.choose_splits(make().pp, {'a': 1, 'b': 2}, complement)


def test_a_folder_of_300_photos_works_as_typed():
    config = config_lib.default()
    config.model = models.get_config('b16')
    found = config_lib.resolve(config, num_examples=240)
    assert found == {
        'batch': 32,
        'accum_steps': 1,
        'total_steps': 500,
        'warmup_steps': 50,
        'pp.crop': 224,
    }


def test_defaults_of_a_large_dataset_are_the_originals():
    config = config_lib.default()
    config.model = models.get_config('b16')
    found = config_lib.resolve(config, num_examples=1_281_167)
    assert found == {
        'batch': 512,
        'accum_steps': 8,
        'total_steps': 20_000,
        'warmup_steps': 500,
        'pp.crop': 384,
    }


def test_the_crop_is_one_that_the_model_takes():
    assert config_lib.largest_crop(models.get_config('h14'), 384) == 378
    assert config_lib.largest_crop(models.get_config('l16'), 384) == 384


@pytest.mark.parametrize('num_devices', [1, 2, 3, 6, 8])
@pytest.mark.parametrize('num_examples', [1, 7, 240, 5000, 2_000_000])
def test_what_is_resolved_is_valid(num_examples, num_devices):
    config = make()
    config.pp.crop = None
    config.update_from_flattened_dict(
        config_lib.resolve(config, num_examples=num_examples, num_devices=num_devices)
    )
    config_lib.check(config, num_devices=num_devices)
    assert None not in (config.batch, config.total_steps, config.pp.crop)


def test_what_is_given_stays():
    found = config_lib.resolve(make(batch=100, total_steps=7), num_examples=5000)
    assert found == {'accum_steps': 1, 'warmup_steps': 0}


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'decay_type': 'cosin'}, r"decay_type is 'cosin'.*Did you mean cosine\?"),
        ({'optimizer': 'adam'}, r'sgd, adamw.*Did you mean adamw\?'),
        ({'dtype': 'float64'}, r'float32, bfloat16, float16\. Did you mean float16'),
        ({'optim_dtype': 'int8'}, 'optim_dtype'),
        ({'remat': 'some'}, 'none, dots, full'),
        ({'trainer': 'nope'}, 'trainer'),
        ({'batch': 0}, 'batch is 0; it must be at least 1'),
        ({'batch': 10, 'accum_steps': 3}, 'accum_steps = 3 does not divide'),
        ({'batch': 12}, r'12 images.*8 devices.*multiple of 8'),
        ({'batch': 24, 'accum_steps': 2}, r'multiple of 16'),
        ({'pp.crop': 33}, '33'),
        ({'pp.size': (32, 30)}, '30'),
        ({'pp.size': (32,)}, r'\(height, width\)'),
        ({'pp.resize': 16}, 'smaller than the crop of 32'),
        ({'pp.min_area': 1.5}, 'at most 1'),
        ({'pp.holdout': 0.7}, 'holdout'),
        ({'grad_norm_clip': 0.0}, 'must be positive'),
        ({'sharding.fsdp': 3}, r'does not divide the 8 devices'),
        ({'eval_every': -1}, 'at least 0'),
        ({'seed': -1}, 'seed is -1'),
        ({'pp.min_area': 0.0}, 'above 0'),
        ({'early_stop': 2, 'eval_every': 0}, 'early_stop watches val'),
        ({'keep_head': True}, 'pretrained is None'),
        ({'model.classifier': 'unpooled'}, 'needs token or gap'),
        ({'model.classifier': 'tokn'}, 'token'),
        ({'model.patches.size': (4,)}, 'size'),
    ],
)
def test_what_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        config_lib.check(make(**settings), num_devices=8)


def test_no_dataset_and_no_model():
    with pytest.raises(ValueError, match='dataset is not set'):
        config_lib.check(config_lib.default())
    config = config_lib.default()
    config.dataset = 'digits'
    with pytest.raises(ValueError, match=r'config\.model is empty'):
        config_lib.check(config)


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
