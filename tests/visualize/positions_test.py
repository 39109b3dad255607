"""Similarities of positions, laid out as the grid."""

import numpy as np
import pytest

from vit_jax.visualize import positions


@pytest.mark.parametrize('prefix', [0, 1, 2])
def test_similarity_is_the_cosine_of_the_two_tokens(prefix):
    rows, columns = 2, 5
    embedding = np.random.default_rng(0).normal(size=(prefix + 10, 7))
    found = positions.similarity(embedding.astype(np.float32), (rows, columns))
    assert found.patches.shape == (2, 5, 2, 5)
    assert found.prefix.shape == (prefix, 2, 5)

    def cosine(i: int, j: int) -> float:
        a, b = embedding[i], embedding[j]
        return a @ b / np.sqrt((a @ a) * (b @ b))

    for h, w in np.ndindex(rows, columns):
        here = prefix + columns * h + w
        for token in range(prefix):
            np.testing.assert_allclose(
                found.prefix[token, h, w], cosine(token, here), atol=1e-6
            )
        for y, x in np.ndindex(rows, columns):
            there = prefix + columns * y + x
            np.testing.assert_allclose(
                found.patches[h, w, y, x], cosine(here, there), atol=1e-6
            )


def test_an_embedding_of_zeros_is_like_none():
    found = positions.similarity(np.zeros((4, 3)), (2, 2))
    np.testing.assert_array_equal(found.patches, 0)


def test_another_grid():
    with pytest.raises(ValueError, match=r'4 position embeddings .* grid of 2x3'):
        positions.similarity(np.zeros((4, 3)), (2, 3))
