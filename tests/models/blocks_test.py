"""Options of a block: one record, from a configuration to where they are used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from vit_jax import models

IMAGES = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)


def tiny(**transformer):
    config = models.get_config('testing')
    config.transformer.update({'num_layers': 2, 'dropout_rate': 0.0})
    with config.transformer.unlocked():
        config.transformer.update(transformer)
    return models.from_config(config, num_classes=None)


def names(params):
    return set(traverse_util.flatten_dict(params, sep='/'))


def test_layer_scale_begins_with_its_value():
    model, plain = tiny(layer_scale=1.0), tiny()
    variables = model.init(jax.random.key(0), IMAGES)
    without = plain.init(jax.random.key(0), IMAGES)
    new = names(variables['params']) - names(without['params'])
    assert new == {
        f'Transformer/encoderblock_{i}/layer_scale_{part}'
        for i in (0, 1)
        for part in ('attention', 'mlp')
    }
    np.testing.assert_allclose(
        model.apply(variables, IMAGES), plain.apply(without, IMAGES), atol=1e-6
    )


def test_layer_scale_scales_what_is_added():
    model = tiny(layer_scale=0.0)
    variables = model.init(jax.random.key(0), IMAGES)
    _, state = model.apply(variables, IMAGES, mutable=['intermediates'])
    transformer = state['intermediates']['Transformer']
    (embedded,), (tokens,) = (
        transformer['embedded'], transformer['encoderblock_1']['tokens'],
    )  # fmt: skip
    np.testing.assert_array_equal(embedded, tokens)


def test_it_is_stacked_with_the_blocks():
    model = tiny(layer_scale=0.1)
    params = model.init(jax.random.key(0), IMAGES)['params']
    stacked = models.stack(params)['Transformer']['encoderblock']
    assert stacked['layer_scale_mlp'].shape == (2, 10)
    assert jnp.all(stacked['layer_scale_mlp'] == 0.1)


def test_an_option_that_there_is_not():
    with pytest.raises(ValueError, match=r'layer_scales.*Did you mean layer_scale\?'):
        tiny(layer_scales=0.1)
