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


def to_devices(
    batch: Mapping[str, np.ndarray], sharding: NamedSharding
) -> dict[str, jax.Array]:
    """Returns the global arrays of which each host holds its rows."""
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }
