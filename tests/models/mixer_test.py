import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import GOLDEN
from flax import traverse_util
from vit_test import assert_close

from vit_jax import checkpoint, models

SMALL = {
    'patches': {'size': (4, 4)},
    'num_blocks': 2,
    'hidden_dim': 10,
    'tokens_mlp_dim': 6,
    'channels_mlp_dim': 14,
}
IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 12, 20, 3)).astype(np.float32)


def small(**fields):
    fields = {'num_classes': 7, 'head_init': 'lecun_normal', **fields}
    return models.from_config(SMALL, **fields)


def flat(tree):
    return traverse_util.flatten_dict(tree, sep='/')


@pytest.fixture(scope='module')
def params():
    return jax.jit(small().init)(jax.random.key(0), IMAGES)['params']


@pytest.mark.parametrize('scan_layers', [False, True])
@pytest.mark.parametrize('name', ['mixer', 'mixer_tiny'])
def test_equals_the_original(golden, name, scan_layers):
    config = json.loads((GOLDEN / f'{name}.json').read_text())
    del config['kind'], config['image_size']
    model = models.MlpMixer(**config, scan_layers=scan_layers)
    arrays = golden(f'{name}.npz')
    # mixer_tiny has eleven blocks in the order of names, 10 before 2.
    params = traverse_util.unflatten_dict(
        {k[7:]: x for k, x in arrays.items() if k.startswith('params/')}, sep='/'
    )
    params = models.stack(params) if scan_layers else params
    logits = model.apply({'params': params}, arrays['inputs/images'])
    assert_close(logits, arrays['outputs/logits'])


def test_parameter_names_are_the_published_ones(params):
    mlp = [f'Dense_{i}/{leaf}' for i in (0, 1) for leaf in ('bias', 'kernel')]
    norms = [f'LayerNorm_{i}/{leaf}' for i in (0, 1) for leaf in ('bias', 'scale')]
    block = [f'{side}_mixing/{leaf}' for side in ('token', 'channel') for leaf in mlp]
    assert set(flat(params)) == {
        *(f'MixerBlock_{i}/{leaf}' for i in range(2) for leaf in norms + block),
        *(f'{x}/{leaf}' for x in ('stem', 'head') for leaf in ('bias', 'kernel')),
        *(f'pre_head_layer_norm/{leaf}' for leaf in ('bias', 'scale')),
    }
    assert flat(params)['MixerBlock_0/token_mixing/Dense_0/kernel'].shape == (15, 6)


def test_stacked_and_back(params):
    stacked = models.stack(params)
    assert flat(stacked)['MixerBlock/LayerNorm_0/scale'].shape == (2, 10)
    assert 'MixerBlock_0' not in stacked
    back = models.unstack(stacked)
    assert jax.tree.all(jax.tree.map(np.array_equal, back, params))


@pytest.mark.parametrize('fields', [{'remat': 'full'}, {'scan_layers': True}])
def test_options_keep_the_gradient(params, fields):
    def gradient(model, params):
        def loss(params):
            logits = model.apply({'params': params}, IMAGES, train=True)
            return (logits * jnp.arange(7)).mean()

        return jax.jit(jax.grad(loss))(params)

    expected = gradient(small(), params)
    stacked = models.stack(params) if fields.get('scan_layers') else params
    found = models.unstack(gradient(small(**fields), stacked))
    for name, x in flat(expected).items():
        np.testing.assert_allclose(flat(found)[name], x, rtol=2e-5, atol=1e-6)


def test_other_numerics_change_the_numbers(params):
    def logits(**fields):
        return small(**fields).apply({'params': params}, IMAGES)

    published = logits()
    assert np.array_equal(published, logits(gelu='tanh', norm_epsilon=1e-6))
    assert not np.array_equal(published, logits(gelu='exact'))
    assert not np.array_equal(published, logits(norm_epsilon=1e-3))


def test_bound_to_its_tokens(params):
    with pytest.raises(ValueError, match='mixes 15 tokens, but these images make 9'):
        small().apply({'params': params}, np.zeros((1, 12, 12, 3), np.float32))


def test_features(params):
    model = small(num_classes=0)
    found, state = model.apply({'params': params}, IMAGES, mutable=['intermediates'])
    sown = flat(state['intermediates'])
    assert set(sown) == {
        'embedded',
        'MixerBlock_0/tokens',
        'MixerBlock_1/tokens',
        'encoded',
        'pre_logits/features',
    }
    assert np.array_equal(found, sown['pre_logits/features'][0])
    assert np.array_equal(found, sown['encoded'][0].mean(axis=1))


def test_saved_and_loaded(tmp_path, params):
    path = tmp_path / 'mixer.npz'
    checkpoint.save(path, models.stack(params))
    assert jax.tree.all(jax.tree.map(np.array_equal, checkpoint.load(path), params))


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'gelu': 'erf'}, "Unknown gelu 'erf'"),
        ({'norm_epsilon': -1.0}, 'norm_epsilon is -1.0'),
        ({'patches': {'size': 4}}, 'patches.size'),
        ({'transformer': {}}, "Unknown model field 'transformer'"),
    ],
)
def test_wrong_values(fields, message):
    with pytest.raises(ValueError, match=message):
        small(**fields)
