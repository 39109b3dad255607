"""What programs take of a device's memory, and what it has."""

import dataclasses
from typing import Any

import jax

from vit_jax.runtime import machine


@dataclasses.dataclass(frozen=True)
class MemoryUse:
    """Bytes that a compiled program takes on each device, as the compiler counts them.

    Attributes:
        arguments: parameters, optimizer state, a batch.
        temporaries: what the backward pass needs, mostly.
        outputs: what it returns.
        aliased: the part of the outputs that is written over the arguments.
    """

    arguments: int
    temporaries: int
    outputs: int
    aliased: int

    @classmethod
    def of(cls, compiled: Any) -> 'MemoryUse':
        """Returns what a compiled program takes."""
        stats = compiled.memory_analysis()
        return cls(
            arguments=stats.argument_size_in_bytes,
            temporaries=stats.temp_size_in_bytes,
            outputs=stats.output_size_in_bytes,
            aliased=stats.alias_size_in_bytes,
        )

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.arguments + self.temporaries + self.outputs - self.aliased


def size(tree: Any) -> int:
    """Returns the bytes that arrays, or their shapes, take on each device."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        shape = leaf.sharding.shard_shape(leaf.shape)
        count = leaf.dtype.itemsize
        for length in shape:
            count *= length
        total += count
    return total


def available(device: jax.Device) -> int | None:
    """Returns the bytes that this process can have on a device; None: it is not told.

    For the CPU that is what the machine, or its container, has left, with what the
    process holds already; all CPU devices share it.
    """
    if device.platform != 'cpu':
        stats = device.memory_stats() or {}
        return stats.get('bytes_limit')
    return machine.free_memory(machine.resident()) or machine.physical_memory()
