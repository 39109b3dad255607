"""Devices: the mesh, which parameter lives where, host batches to global arrays."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# The mesh is two-dimensional: batches are split over both axes, parameters over the
# second one. With fsdp = 1 that is plain data parallelism.
DATA = 'data'
FSDP = 'fsdp'

# Which axis of a parameter is split: the first rule found in its name holds, also for
# the optimizer's copies. Axes count from the end, so that a stack of blocks is split as
# each of them would be. None: every device holds it whole.
#
# They keep activations where they are: the compiler would follow vectors that are
# split, or a head that is split along its input, and move all activations of a block
# from device to device. Vectors are a hundredth of the parameters at most.
LARGEST = 'largest'
RULES: tuple[tuple[str, int | str | None], ...] = (
    (r'(^|/)(bias|scale|cls|pos_embedding)$', None),
    (r'(^|/)head/kernel$', -1),  # (d, y): each device has some of the classes
    ('', LARGEST),
)


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
    """Returns a sharding for each array of a train state, as RULES say.

    Where `fsdp` does not divide the axis of the rule, the largest that it divides is
    split; what has no such axis, every device holds whole.

    Args:
        mesh: from `make_mesh`.
        state: a tree of arrays or shapes.

    Returns:
        The same tree of `NamedSharding`.
    """
    fsdp = mesh.shape[FSDP]

    def place(path: tuple, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator='/')
        axis = next(axis for pattern, axis in RULES if re.search(pattern, name))
        axes = [i for i, size in enumerate(leaf.shape) if size % fsdp == 0]
        if fsdp == 1 or not axes or axis is None:
            return replicated(mesh)
        if axis == LARGEST or len(leaf.shape) + axis not in axes:
            axis = max(axes, key=lambda i: leaf.shape[i])
        spec = [None] * len(leaf.shape)
        spec[axis] = FSDP
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree_util.tree_map_with_path(place, state)


def replicate(array: Any) -> Any:
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
        parts = [part.data for part in replicate(array).addressable_shards]
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
