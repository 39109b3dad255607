"""Keys that follow from the data and from the weights."""

import pytest
from configurations import make

from vit_jax import config as config_lib
from vit_jax import models


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
