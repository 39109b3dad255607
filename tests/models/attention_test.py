"""Attention by XLA and, as far as a machine without a GPU can tell, by cuDNN."""

import types

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import models
from vit_jax.models import cudnn
from vit_jax.models.attention import MultiHeadDotProductAttention

HALF = jnp.dtype('bfloat16')


def plain(params, x):
    """The equations of Vaswani et al. 2017, section 3.2.2, one head after another."""

    def project(name, k):
        return x @ params[name]['kernel'][:, k] + params[name]['bias'][k]

    total = params['out']['bias']
    for k in range(params['query']['kernel'].shape[1]):
        query, key, value = (project(name, k) for name in ('query', 'key', 'value'))
        scores = jnp.stack([q @ k.T for q, k in zip(query, key, strict=True)])
        weights = jax.nn.softmax(scores / np.sqrt(query.shape[-1]))
        gathered = jnp.stack([w @ v for w, v in zip(weights, value, strict=True)])
        total = total + gathered @ params['out']['kernel'][k]
    return total


@pytest.fixture
def by_cudnn(monkeypatch):
    """The kernel needs a GPU; what is fed to it, and taken from it, does not."""
    original, seen = jax.nn.dot_product_attention, []

    def by_xla(query, key, value, *, implementation):
        seen.append((query.shape, implementation))
        return original(query, key, value, implementation='xla')

    monkeypatch.setattr(jax.nn, 'dot_product_attention', by_xla)
    monkeypatch.setattr(cudnn, 'obstacle', lambda *_: '')
    return seen


@pytest.mark.parametrize('by', ['xla', 'cudnn'])
def test_outputs_gradients_and_weights(by, by_cudnn):
    x = jax.random.normal(jax.random.key(0), (2, 9, 12))
    module = MultiHeadDotProductAttention(3, attention=by)
    params = module.init(jax.random.key(1), x, False)['params']
    params = jax.tree.map(
        lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape), params
    )

    def apply(params, x):
        return module.apply({'params': params}, x, False)

    def check(found, wanted):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)

    def gradient_of(function):
        return jax.grad(lambda *args: (function(*args) ** 2).sum(), (0, 1))(params, x)

    check(apply(params, x), plain(params, x))
    jax.tree.map(check, gradient_of(apply), gradient_of(plain))
    assert {how for _, how in by_cudnn} == ({'cudnn'} if by == 'cudnn' else set())

    y, state = module.apply({'params': params}, x, False, mutable=['intermediates'])
    check(y, plain(params, x))
    (weights,) = state['intermediates']['attention_weights']
    check(weights.sum(-1), jnp.ones((2, 3, 9)))
    values = jnp.einsum('bnd,dke->bkne', x, params['value']['kernel'])
    values += params['value']['bias'][:, None]
    out = jnp.einsum('bknN,bkNe,ked->bnd', weights, values, params['out']['kernel'])
    check(out + params['out']['bias'], y)


def test_the_whole_model_by_either(by_cudnn):
    images = jax.random.uniform(jax.random.key(0), (2, 32, 32, 3))
    model = models.get_model('testing', num_classes=2, head_init='lecun_normal')
    variables = model.init(jax.random.key(1), images)
    wanted = model.clone(attention='xla').apply(variables, images)
    by_cudnn.clear()
    found = model.clone(attention='cudnn').apply(variables, images)
    assert len(by_cudnn) == model.transformer.num_layers
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_cudnn_where_it_cannot_run():
    model = models.get_model(
        'testing', num_classes=2, attention='cudnn', dtype='bfloat16'
    )
    shape = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    with pytest.raises(ValueError, match=r"'cudnn'.*a cpu.*NVIDIA GPU.*'auto'"):
        jax.eval_shape(model.init, jax.random.key(0), shape)


@pytest.fixture
def gpu(monkeypatch):
    """As if there were one, until something is compiled."""
    device = types.SimpleNamespace(device_kind='H100', compute_capability='9.0')
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    monkeypatch.setattr(jax, 'local_devices', lambda: [device])
    return device


def test_what_is_in_the_way(gpu, monkeypatch):
    monkeypatch.setattr(cudnn, '_refusal', lambda *_: '')
    shape = (2, 5, 2, 64)
    obstacle = cudnn.obstacle
    assert obstacle(shape, HALF, 0.0) == ''
    assert 'float32' in obstacle(shape, jnp.dtype('float32'), 0.0)
    assert 'is 0.1' in obstacle(shape, HALF, 0.1)
    symbolic = jax.export.symbolic_shape('b, 5, 2, 64')
    assert 'export' in obstacle(symbolic, HALF, 0.0)
    for capability in ('7.5', 'gfx90a'):
        gpu.compute_capability = capability
        assert '8.0 or more' in obstacle(shape, HALF, 0.0)


def test_cudnn_is_asked_whether_it_has_a_kernel(gpu):
    # Here there is none, whatever the device says it can do.
    found = cudnn.obstacle((8, 197, 12, 64), HALF, 0.0)
    assert 'no kernel for 12 heads of 64 dimensions and 197 tokens in bfloat16' in found


def test_an_unknown_attention():
    with pytest.raises(ValueError, match=r"'flash'.*auto, xla, cudnn"):
        models.get_model('testing', num_classes=2, attention='flash')
