"""Devices: the mesh, which parameter lives where, host batches to global arrays."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# The mesh is two-dimensional: batches are split over both axes, parameters over the
# second one. With fsdp = 1 that is plain data parallelism.
DATA = 'data'
FSDP = 'fsdp'


def make_mesh(fsdp: int = 1, devices: list[jax.Device] | None = None) -> Mesh:
    """Returns a mesh of all devices (or the given ones), (data, fsdp)."""
    devices = jax.devices() if devices is None else devices
    # Linen modules need automatic axes: sharding is propagated by the compiler.
    return jax.make_mesh(
        (len(devices) // fsdp, fsdp),
        (DATA, FSDP),
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=devices,
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of batches: the first axis over all devices."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP)))


def state_sharding(mesh: Mesh, state: Any) -> Any:
    """Returns a sharding for each array of a train state.

    Every array is split along its largest axis that `fsdp` divides, whether it is a
    parameter or the optimizer's copy of one; what cannot be split, every device
    holds whole.

    Args:
        mesh: from `make_mesh`.
        state: a tree of arrays or shapes.

    Returns:
        The same tree of `NamedSharding`.
    """
    fsdp = mesh.shape[FSDP]

    def rule(leaf: Any) -> NamedSharding:
        axes = [axis for axis, size in enumerate(leaf.shape) if size % fsdp == 0]
        if fsdp == 1 or not axes:
            return replicated(mesh)
        largest = max(axes, key=lambda axis: leaf.shape[axis])
        spec = [None] * len(leaf.shape)
        spec[largest] = FSDP
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(rule, state)


def whole(array: Any) -> Any:
    """Returns an array that each device of its mesh holds whole.

    All hosts must ask. What is no `jax.Array`, or is whole already, stays as it is.
    """
    if not isinstance(array, jax.Array) or array.is_fully_replicated:
        return array
    where = replicated(array.sharding.mesh)
    return jax.jit(_same, out_shardings=where)(array)


def on_one_host(mesh: Mesh) -> Mesh:
    """Returns the mesh on which this host computes what it does without the others."""
    if jax.process_count() == 1:
        return mesh
    return make_mesh(devices=jax.local_devices())


def on_this_host(tree: Any, mesh: Mesh) -> Any:
    """Returns arrays that this host can compute with, without the others.

    All hosts must ask. With one host, nothing is moved.

    Args:
        tree: of global arrays.
        mesh: from `on_one_host`; its devices will hold all arrays whole.
    """
    if jax.process_count() == 1:
        return tree

    def here(array: jax.Array) -> jax.Array:
        parts = [part.data for part in whole(array).addressable_shards]
        return jax.make_array_from_single_device_arrays(
            array.shape, replicated(mesh), parts
        )

    return jax.tree.map(here, tree)


def _same(array: jax.Array) -> jax.Array:
    return array


def to_devices(
    batch: Mapping[str, np.ndarray], sharding: NamedSharding
) -> dict[str, jax.Array]:
    """Returns the global arrays of which each host holds its rows."""
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }
