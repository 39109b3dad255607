"""Trees of arrays, compared."""

import jax
import numpy as np
from flax import traverse_util


def flat(params):
    return traverse_util.flatten_dict(jax.device_get(params), sep='/')


def assert_bit_equal(one, other):
    one, other = flat(one), flat(other)
    assert set(one) == set(other)
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)
