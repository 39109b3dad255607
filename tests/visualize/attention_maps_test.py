"""Distances and rollout, against loops over patches and products of matrices."""

import math

import numpy as np
import pytest

from vit_jax.visualize import attention_maps

GRID = (2, 3)
PATCH = (16, 8)


def random_attention(*shape: int, tokens: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    weights = rng.random((*shape, tokens, tokens)) ** 3
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)


def test_distances_are_in_pixels_between_centres():
    distances = attention_maps.patch_distances(GRID, PATCH)
    assert distances.shape == (6, 6)
    assert distances[0, 1] == distances[3, 4] == 8  # one to the right
    assert distances[0, 3] == 16  # one below
    assert distances[5, 0] == math.hypot(16, 2 * 8)
    np.testing.assert_array_equal(np.diag(distances), 0)


@pytest.mark.parametrize('prefix', [0, 1])
def test_mean_distance_by_loops(prefix):
    weights = random_attention(2, 3, tokens=prefix + 6)
    found = attention_maps.mean_distance(weights, GRID, PATCH)
    assert found.shape == (2, 3)
    places = [(16 * row, 8 * column) for row in range(2) for column in range(3)]
    for image, head in np.ndindex(2, 3):
        means = []
        for i, here in enumerate(places):
            row = weights[image, head, prefix + i, prefix:]
            reach = sum(
                w * math.dist(here, there) for w, there in zip(row, places, strict=True)
            )
            means.append(reach / sum(row))
        np.testing.assert_allclose(found[image, head], np.mean(means), rtol=1e-5)


def test_attention_to_itself_has_no_distance_and_even_attention_the_mean():
    itself = np.eye(7, dtype=np.float32)[None, None]
    assert attention_maps.mean_distance(itself, GRID, PATCH) == 0
    even = np.full((1, 1, 7, 7), 1 / 7, np.float32)
    distances = attention_maps.patch_distances(GRID, PATCH)
    np.testing.assert_allclose(
        attention_maps.mean_distance(even, GRID, PATCH), distances.mean(), rtol=1e-6
    )


def test_a_patch_that_looks_at_the_class_token_alone_does_not_count():
    weights = random_attention(1, 1, tokens=7)
    weights[0, 0, 1] = [1, 0, 0, 0, 0, 0, 0]
    found = attention_maps.mean_distance(weights, GRID, PATCH)
    rest = attention_maps.patch_distances(GRID, PATCH)
    rows = weights[0, 0, 2:, 1:]
    expected = np.mean(np.sum(rows * rest[1:], axis=1) / rows.sum(axis=1))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    everything = np.zeros((1, 1, 7, 7), np.float32)
    everything[..., 0] = 1
    assert attention_maps.mean_distance(everything, GRID, PATCH) == 0


@pytest.mark.parametrize('prefix', [0, 1])
def test_rollout_is_the_product_of_matrices(prefix):
    tokens = prefix + 6
    weights = random_attention(4, 2, 3, tokens=tokens)  # l b k n n
    found = attention_maps.rollout(weights, GRID)
    assert found.shape == (2, 2, 3)
    for image in range(2):
        product = np.eye(tokens)
        for layer in weights[:, image]:
            mixed = layer.mean(axis=0) + np.eye(tokens)
            product = (mixed / mixed.sum(axis=1, keepdims=True)) @ product
        # The head sees the class token, or else the mean of all tokens.
        row = product[0, 1:] if prefix else product.mean(axis=0)
        np.testing.assert_allclose(found[image].ravel(), row / row.sum(), rtol=1e-5)


def test_parts_sum_to_one():
    weights = random_attention(5, 4, tokens=7)
    parts = attention_maps.rollout_start(5, 7, 1)
    for _ in range(3):
        parts = attention_maps.rollout_step(parts, weights)
        np.testing.assert_allclose(parts.sum(axis=1), 1, rtol=1e-5)
    maps = attention_maps.rollout_map(parts, GRID)
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), 1, rtol=1e-5)


def test_rollout_finds_the_patch_that_is_looked_at():
    weights = np.zeros((2, 1, 1, 7, 7), np.float32)
    weights[..., 4] = 1  # everything looks at the fourth patch
    found = attention_maps.rollout(weights, GRID)[0]
    assert np.unravel_index(found.argmax(), GRID) == (1, 0)
    np.testing.assert_allclose(found[1, 0], 1)


def test_a_class_token_that_looks_at_itself_has_an_even_map():
    weights = np.eye(7, dtype=np.float32)[None, None, None]
    np.testing.assert_allclose(attention_maps.rollout(weights, GRID), 1 / 6)
