import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from vit_jax.models import fields


@pytest.mark.parametrize(
    'dtype', ['bfloat16', jnp.bfloat16, ml_dtypes.bfloat16, jnp.dtype('bfloat16')]
)
def test_compute_dtype(dtype):
    assert fields.compute_dtype(dtype) == jnp.dtype('bfloat16')
    assert fields.compute_dtype(np.float32) == np.dtype('float32')


@pytest.mark.parametrize('dtype', ['float64', 'bf16', np.int8, object(), None])
def test_other_dtypes_are_errors(dtype):
    with pytest.raises(ValueError, match=r'Unknown dtype .*float32, bfloat16, float16'):
        fields.compute_dtype(dtype)


def test_frozen_is_hashable_and_knows_no_lists():
    fields_of_json = fields.frozen('resnet', {'num_layers': [2, 1]}, ['num_layers'])
    fields_of_python = fields.frozen('resnet', {'num_layers': (2, 1)}, ['num_layers'])
    assert fields_of_json == fields_of_python
    assert hash(fields_of_json) == hash(fields_of_python)
