from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vit_jax import models

# 11 blocks: 10 sorts after 9, not after 1.
NUM_LAYERS = 11


def tree(make):
    return {
        'cls': make(0, (1, 1, 4)),
        'Transformer': {
            'encoder_norm': {'scale': make(1, (4,))},
            **{
                f'encoderblock_{i}': {
                    'LayerNorm_0': {'scale': make(i, (4,)), 'bias': make(-i, (4,))},
                    'MlpBlock_0': {'Dense_0': {'kernel': make(i, (4, 6))}},
                }
                for i in reversed(range(NUM_LAYERS))
            },
        },
    }


def array(value, shape):
    return np.full(shape, value, np.float32)


class State(NamedTuple):
    """An optimizer state, which mirrors the parameters."""

    count: Any
    trace: Any


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize('convert', [np.asarray, jnp.asarray])
def test_stack(convert):
    params = jax.tree.map(convert, tree(array))
    stacked = models.stack(params)
    block = stacked['Transformer']['encoderblock']
    assert set(stacked['Transformer']) == {'encoder_norm', 'encoderblock'}
    assert stacked['cls'] is params['cls']
    assert block['MlpBlock_0']['Dense_0']['kernel'].shape == (NUM_LAYERS, 4, 6)
    # In the order of the numbers.
    layers = np.arange(NUM_LAYERS)[:, None] * np.ones(4)
    np.testing.assert_array_equal(block['LayerNorm_0']['scale'], layers)
    kind = np.ndarray if convert is np.asarray else jax.Array
    assert all(isinstance(leaf, kind) for leaf in jax.tree.leaves(stacked))
    assert_equal(models.unstack(stacked), params)


def test_neither_changes_what_it_is_given_or_has_the_wanted_layout():
    params = tree(array)
    stacked = models.stack(params)
    assert_equal(params, tree(array))
    assert_equal(models.stack(stacked), stacked)
    models.unstack(stacked)
    assert_equal(stacked, models.stack(tree(array)))
    assert_equal(models.unstack(params), params)


def test_inside_other_containers():
    params = tree(array)
    state = (State(np.int32(3), params), [{'img': params}, None], 1.5)
    stacked = models.stack(state)
    assert isinstance(stacked[0], State)
    assert stacked[0].count == 3
    assert_equal(stacked[0].trace, models.stack(params))
    assert_equal(stacked[1][0]['img'], models.stack(params))
    assert_equal(models.unstack(stacked), state)
    frozen = models.stack(flax.core.freeze(params))
    assert isinstance(frozen, flax.core.FrozenDict)
    assert_equal(frozen.unfreeze(), models.stack(params))


def test_numbers_become_one_array_per_parameter():
    rates = tree(lambda i, shape: 0.5**i)
    stacked = models.stack(rates)['Transformer']['encoderblock']
    scale = stacked['LayerNorm_0']['scale']
    np.testing.assert_array_equal(scale, 0.5 ** np.arange(NUM_LAYERS))


def test_traced():
    params = tree(array)
    assert_equal(jax.jit(models.stack)(params), models.stack(params))
    both = jax.jit(lambda params: models.unstack(models.stack(params)))
    assert_equal(both(params), params)


def test_abstract_arrays_and_their_shardings():
    mesh = jax.make_mesh((2,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec('data'))

    def struct(value, shape):
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding)

    params = tree(struct)
    stacked = models.stack(params)
    kernel = stacked['Transformer']['encoderblock']['MlpBlock_0']['Dense_0']['kernel']
    assert kernel.shape == (NUM_LAYERS, 4, 6)
    assert kernel.dtype == jnp.bfloat16
    assert kernel.sharding.spec == PartitionSpec(None, 'data')
    assert models.unstack(stacked) == params
    plain = tree(lambda value, shape: jax.ShapeDtypeStruct(shape, np.float32))
    assert models.unstack(models.stack(plain)) == plain


def test_errors():
    params = tree(array)
    del params['Transformer']['encoderblock_4']
    with pytest.raises(ValueError, match=r'expected encoderblock_0 to .*_9 without'):
        models.stack(params)
    params = tree(array)
    del params['Transformer']['encoderblock_4']['LayerNorm_0']
    with pytest.raises(ValueError, match='encoderblock_4 has other parameters than'):
        models.stack(params)
    params = tree(array)
    params['Transformer']['encoderblock_4']['LayerNorm_0']['bias'] = np.zeros(5)
    with pytest.raises(ValueError, match=r'has shapes \[\(4,\), \(5,\)\]'):
        models.stack(params)
    stacked = models.stack(tree(array))
    stacked['Transformer']['encoderblock']['LayerNorm_0']['bias'] = np.zeros((3, 4))
    with pytest.raises(ValueError, match=r'have \[\(3,\), \(11,\)\] layers'):
        models.unstack(stacked)


def test_a_stack_without_leaves_has_as_many_layers_as_the_others():
    """As in the state of an optimizer that leaves the blocks alone."""
    nothing = {'kernel': optax.MaskedNode()}
    published = {
        'params': {f'encoderblock_{i}': {'kernel': np.ones(2)} for i in range(3)},
        'state': {f'encoderblock_{i}': nothing for i in range(3)},
    }
    stacked = models.stack(published)
    assert stacked['state'] == {'encoderblock': nothing}
    assert jax.tree.structure(models.unstack(stacked)) == jax.tree.structure(published)
    assert models.unstack({'state': stacked['state']}) == {'state': stacked['state']}
