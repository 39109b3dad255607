"""Principal components against scikit-learn's, token mixing by hand."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from vit_jax.visualize import filters


def test_components_are_those_of_scikit_learn():
    kernel = np.random.default_rng(0).normal(size=(4, 3, 3, 50)).astype(np.float32)
    found = filters.principal_components(kernel, 28)
    pca = PCA(28).fit(kernel.reshape(36, 50).T.astype(np.float64))
    assert found.components.shape == (28, 4, 3, 3)
    cosine = np.sum(found.components.reshape(28, 36) * pca.components_, axis=1)
    np.testing.assert_allclose(np.abs(cosine), 1, atol=1e-6)
    np.testing.assert_allclose(found.variance, pca.explained_variance_ratio_, rtol=1e-5)
    flat = found.components.reshape(28, -1)
    assert np.all(flat.max(axis=1) == np.abs(flat).max(axis=1))


def test_a_component_is_found_where_it_was_put():
    pattern = np.zeros((2, 2, 3))
    pattern[1, 0] = [0.6, 0, 0.8]
    strength = np.random.default_rng(0).normal(size=20)
    found = filters.principal_components(pattern[..., None] * strength + 3.0, 1)
    np.testing.assert_allclose(found.components[0], pattern, atol=1e-9)
    np.testing.assert_allclose(found.variance, 1)


@pytest.mark.parametrize(('shape', 'count'), [((2, 2, 1, 50), 4), ((4, 4, 3, 10), 10)])
def test_there_are_no_more_than_pixels_or_filters(shape, count):
    kernel = np.random.default_rng(0).normal(size=shape)
    assert len(filters.principal_components(kernel).components) == count


def test_equal_filters_have_no_variance():
    found = filters.principal_components(np.ones((2, 2, 3, 5)))
    np.testing.assert_array_equal(found.variance, 0)
    assert np.isfinite(found.components).all()


def test_token_mixing_shows_the_largest_units_as_the_grid():
    kernel = np.arange(6)[:, None] * np.array([1.0, -3.0, 2.0])  # (n m)
    found = filters.token_mixing(kernel, (2, 3), 2)
    np.testing.assert_array_equal(found[0], -3.0 * np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(found[1], 2.0 * np.arange(6).reshape(2, 3))
