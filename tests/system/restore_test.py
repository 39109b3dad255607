"""A checkpoint is restored, bit by bit, onto other devices and stacked otherwise."""

import itertools

import jax
import numpy as np
import pytest
from conftest import tiny_config

from vit_jax import models, optim
from vit_jax.runtime import sharding
from vit_jax.training.checkpoints import TrainCheckpoints
from vit_jax.training.state import Initializer, TrainState

# (devices, fsdp, scan_layers)
LAYOUTS = [(1, 1, False), (8, 1, True), (8, 2, False), (8, 8, True), (4, 4, False)]


def initializer(layout, optimizer='adamw'):
    devices, fsdp, scan_layers = layout
    config = tiny_config('none', optimizer=optimizer, scan_layers=scan_layers)
    # Several blocks of sizes that eight devices share.
    config.model.hidden_size = 16
    config.model.transformer.num_heads = 2
    config.model.transformer.mlp_dim = 32
    config.model.transformer.num_layers = 3
    mesh = sharding.make_mesh(fsdp, jax.devices()[:devices])
    return Initializer(config, 8, optim.create_optimizer(config), mesh)


def in_use(shapes):
    """Returns a state of these shapes, full of different numbers."""
    rng = np.random.default_rng(0)

    def fill(leaf):
        if leaf.dtype == np.int32:
            return np.full(leaf.shape, 7, np.int32)
        return rng.permutation(leaf.size).reshape(leaf.shape).astype(leaf.dtype)

    return jax.tree.map(fill, shapes)


@pytest.fixture(scope='module', params=['sgd', 'adamw'])
def saved(request, tmp_path_factory):
    """Returns the optimizer, a state, and checkpoints of it made in every layout."""
    folder = tmp_path_factory.mktemp(request.param)
    state = in_use(initializer((1, 1, False), request.param).shapes())
    for i, layout in enumerate(LAYOUTS):
        shapes = initializer(layout, request.param).shapes()
        placed = jax.tree.map(
            lambda x, like: jax.device_put(x, like.sharding),
            models.stack(state) if layout[2] else state,
            shapes,
        )
        with TrainCheckpoints(folder / str(i)) as checkpoints:
            checkpoints.save(7, placed.to_saved())
            checkpoints.wait()
    return request.param, state, folder


@pytest.mark.parametrize(
    ('before', 'after'), list(itertools.product(range(len(LAYOUTS)), repeat=2))
)
def test_restored_bit_by_bit(saved, before, after):
    optimizer, state, folder = saved
    shapes = initializer(LAYOUTS[after], optimizer).shapes()
    with TrainCheckpoints(folder / str(before)) as checkpoints:
        assert checkpoints.latest_step() == 7
        found = TrainState.from_saved(checkpoints.restore(7, shapes.to_saved()))
    expected = models.stack(state) if LAYOUTS[after][2] else state
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    split = 0
    for like, array, numbers in zip(
        *map(jax.tree.leaves, (shapes, found, expected)), strict=True
    ):
        assert (array.dtype, array.sharding) == (numbers.dtype, like.sharding)
        np.testing.assert_array_equal(array, numbers)
        split += not array.is_fully_replicated
    devices, fsdp, _ = LAYOUTS[after]
    assert len(found.step.sharding.device_set) == devices
    assert (split > 0) == (fsdp > 1)
