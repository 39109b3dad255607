"""The mesh, which array is split along which axis, and batches on the devices."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from vit_jax import sharding


@pytest.mark.parametrize(
    ('fsdp', 'num_devices', 'shape'), [(1, 8, (8, 1)), (4, 8, (2, 4)), (2, 2, (1, 2))]
)
def test_mesh(fsdp, num_devices, shape):
    devices = jax.devices()[:num_devices]
    mesh = sharding.make_mesh(fsdp, devices)
    assert mesh.axis_names == ('data', 'fsdp')
    assert mesh.devices.shape == shape
    assert set(mesh.devices.flat) == set(devices)
    # Linen modules do not work with explicit axes, which are JAX's default.
    assert mesh.axis_types == (AxisType.Auto, AxisType.Auto)


def test_the_default_is_all_devices_for_the_data():
    assert dict(sharding.make_mesh().shape) == {'data': 8, 'fsdp': 1}


@pytest.mark.parametrize(
    ('shape', 'spec'),
    [
        ((12, 8), ('fsdp', None)),
        ((8, 12), (None, 'fsdp')),
        ((8, 30, 4), ('fsdp', None, None)),  # 4 does not divide 30
        ((3, 5), ()),
        ((4,), ('fsdp',)),
        ((), ()),
        ((8, 8), ('fsdp', None)),
    ],
)
def test_arrays_are_split_along_the_largest_axis_that_fsdp_divides(shape, spec):
    mesh = sharding.make_mesh(4)
    state = {'a': jax.ShapeDtypeStruct(shape, 'float32'), 'b': (np.zeros(shape),)}
    found = sharding.state_sharding(mesh, state)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    for each in jax.tree.leaves(found):
        assert each.spec == PartitionSpec(*spec)
        assert each.mesh == mesh
    parts = jax.device_put(np.zeros(shape), found['a']).addressable_shards
    held = {part.data.size for part in parts}
    assert held == {np.zeros(shape).size // (4 if spec else 1)}


def test_without_fsdp_every_device_holds_all():
    mesh = sharding.make_mesh()
    (found,) = jax.tree.leaves(sharding.state_sharding(mesh, [np.zeros((8, 8))]))
    assert found == sharding.replicated(mesh)


@pytest.mark.parametrize('fsdp', [1, 4])
def test_batches_are_split_over_all_devices_in_order(fsdp):
    mesh = sharding.make_mesh(fsdp)
    batch = {
        'image': np.arange(16 * 3, dtype=np.uint8).reshape(16, 3),
        'label': np.arange(16, dtype=np.int32),
    }
    placed = sharding.to_devices(batch, sharding.batch_sharding(mesh))
    assert placed.keys() == batch.keys()
    for name, array in placed.items():
        assert array.dtype == batch[name].dtype
        np.testing.assert_array_equal(array, batch[name])
        for part in array.addressable_shards:
            row = 2 * list(mesh.devices.flat).index(part.device)
            np.testing.assert_array_equal(part.data, batch[name][row : row + 2])
