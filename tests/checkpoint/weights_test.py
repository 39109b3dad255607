import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.checkpoint import weights


@pytest.mark.parametrize('shape', [(70, 130), (130, 65, 3), (3, 65, 130), (300,), ()])
def test_contiguous(shape):
    array = np.random.default_rng(0).random(shape, np.float32)
    matrix = array.reshape(-1, shape[-1]) if len(shape) > 1 else array
    views = [array, array.T, matrix.T, matrix.T.copy().T.reshape(shape)]
    if len(shape) == 3:  # the kernels of attention in files of PyTorch
        views += [np.asfortranarray(matrix).reshape(shape, order='C'),
                  array.transpose(1, 2, 0), array[::2, :, ::-1]]  # fmt: skip
    for view in views:
        found = weights.contiguous(view)
        assert found.flags.c_contiguous
        assert np.array_equal(found, view)
        assert found.dtype == view.dtype


def test_parameters_in_memory():
    tree = weights.TreeWeights(
        {
            'Transformer': {'encoderblock': {'x': jnp.arange(6.0).reshape(3, 2)}},
            'head': {'bias': np.ones(4, np.float16)},
        }
    )
    assert list(tree) == [
        *(f'Transformer/encoderblock_{i}/x' for i in range(3)),
        'head/bias',
    ]
    assert tree['Transformer/encoderblock_2/x'].tolist() == [4, 5]
    assert tree.shape('Transformer/encoderblock_2/x') == (2,)
    assert tree.dtype('head/bias') == np.float16
    with pytest.raises(ValueError, match='a has dtype object'):
        weights.TreeWeights({'a': np.array([{}])})['a']
