import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.models import resnet


def test_standardize():
    kernel = np.random.default_rng(0).normal(3, 5, (3, 3, 4, 6)).astype(np.float32)
    kernel[..., 0] = 7  # constant: only eps keeps the division finite
    found = resnet.standardize(kernel)
    np.testing.assert_allclose(found.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(found[..., 1:].std(axis=(0, 1, 2)), 1, atol=1e-4)
    np.testing.assert_array_equal(found[..., 0], 0)
    # eps is added to the deviation, not to the variance.
    tiny = np.array([-1e-5, 1e-5], np.float32).reshape(1, 1, 2, 1)
    np.testing.assert_allclose(resnet.standardize(tiny).ravel(), [-0.5, 0.5], rtol=1e-5)


def test_the_root_rounds_up():
    for num_layers, scale in [((), 4), ((1,), 4), ((1, 1), 8), ((1, 1, 1, 1), 32)]:
        assert resnet.downscaling(num_layers) == scale
        root = resnet.ResNetRoot(num_layers, width_factor=0.5)
        for height, width in [(64, 32), (65, 31), (1, 2)]:
            images = jax.ShapeDtypeStruct((2, height, width, 3), np.float32)
            features, _ = jax.eval_shape(
                root.init_with_output, jax.random.key(0), images
            )
            channels = 4 * 32 * 2 ** (len(num_layers) - 1) if num_layers else 32
            grid = (-(-height // scale), -(-width // scale))
            assert features.shape == (2, *grid, int(channels))


def test_a_new_unit_is_its_shortcut():
    numerics = resnet.Numerics(1e-6, 'deviation', jnp.dtype('float32'))
    unit = resnet.ResidualUnit(32, 1, numerics)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 128)), jnp.float32)
    variables = jax.jit(unit.init)(jax.random.key(0), x)
    assert 'conv_proj' not in variables['params']
    np.testing.assert_array_equal(unit.apply(variables, x), jax.nn.relu(x))
