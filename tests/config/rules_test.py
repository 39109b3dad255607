"""What is refused before any work starts."""

import pytest
from configurations import make

from vit_jax import config as config_lib


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


@pytest.mark.parametrize(
    ('mean', 'std', 'told'),
    [
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), '(123.675,116.28,103.53)'),
        ((0.5,), (0.5,), '(127.5,)'),
        ((0.0,), (0.25,), '(63.75,)'),
        ((0.4, 0.4, 0.4), (127.5,), '(102,102,102)'),
    ],
)
def test_units_of_pixels(mean, std, told):
    config = make(**{'pp.mean': mean, 'pp.std': std})
    with pytest.raises(ValueError, match='from 0 to 1') as raised:
        config_lib.check(config)
    assert told in str(raised.value)
    # What it says to write works.
    for key in ('mean', 'std'):
        written = str(raised.value).partition(f'--config.pp.{key}=')[2].split("'")[1]
        value = tuple(map(float, written.strip('(,)').split(',')))
        config_lib.set_key(config, f'pp.{key}', value)
    config_lib.check(config)


def test_pixels_as_they_are():
    config_lib.check(make(**{'pp.mean': (0.0,), 'pp.std': (1.0,)}))
