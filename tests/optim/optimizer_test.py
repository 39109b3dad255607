"""Schedules and optimizers against the original's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax import config as config_lib
from vit_jax import optim


@pytest.mark.parametrize(
    'name',
    [
        'cosine_100_0.03_10',
        'cosine_500_0.01_0',
        'cosine_1000_0.001_500',
        'linear_100_0.03_10',
        'linear_500_0.01_0',
        'linear_1000_0.001_500',
    ],
)
def test_schedule_equals_the_originals(golden, name):
    expected = golden('schedules.npz')[name]
    decay, total, base, warmup = name.split('_')
    schedule = optim.create_learning_rate_schedule(
        int(total), float(base), decay, int(warmup)
    )
    got = np.array([schedule(step) for step in range(len(expected))])
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * expected.max())
    assert len(expected) == int(total) + 1


def test_unknown_decay_type():
    with pytest.raises(ValueError, match=r"'cubic'.*cosine or linear"):
        optim.create_learning_rate_schedule(10, 0.1, 'cubic', 0)


def make(**settings):
    config = config_lib.default()
    config.total_steps, config.warmup_steps = 10, 0
    config.update(settings)
    return optim.create_optimizer(config)


def params():
    return {'dense': {'kernel': jnp.full((3, 2), 2.0), 'bias': jnp.full((2,), 2.0)}}


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('optimizer', ['sgd', 'adamw'])
def test_momentum_is_kept_in_optim_dtype(optimizer, dtype):
    state = make(optimizer=optimizer, optim_dtype=dtype).init(params())
    field = 'trace' if optimizer == 'sgd' else 'mu'
    found = optax.tree.get(state, field)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize('optimizer', ['sgd', 'adamw'])
def test_weight_decay_shrinks_kernels_alone(optimizer):
    tx = make(optimizer=optimizer, weight_decay=0.1, grad_norm_clip=1e9)
    zeros = jax.tree.map(jnp.zeros_like, params())
    updates, _ = tx.update(zeros, tx.init(params()), params())
    assert float(updates['dense']['kernel'].max()) < 0
    np.testing.assert_array_equal(updates['dense']['bias'], 0)


def test_gradients_are_clipped_by_their_global_norm():
    tx = make(grad_norm_clip=1.0, base_lr=1.0, optim_dtype='float32')
    grads = jax.tree.map(lambda x: 100 * x, params())
    updates, _ = tx.update(grads, tx.init(params()), params())
    np.testing.assert_allclose(optax.tree.norm(updates), 1.0, rtol=1e-6)
