"""What programs take of a device's memory, what it has, and which knobs turn that."""

import contextlib
import dataclasses
import os
import pathlib
import re
from typing import Any

import jax

_PROCESS = pathlib.Path('/proc/self/status')
_RESTART = pathlib.Path('/proc/self/clear_refs')
_MACHINE = pathlib.Path('/proc/meminfo')
# What a container may take: of cgroups, version 2 and 1.
_GROUPS = (
    pathlib.Path('/sys/fs/cgroup/memory.max'),
    pathlib.Path('/sys/fs/cgroup/memory/memory.limit_in_bytes'),
)


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
    if not _MACHINE.exists():
        if 'SC_PHYS_PAGES' not in os.sysconf_names:
            return None
        return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    found = [_kibibytes(_MACHINE, 'MemAvailable') + resident()]
    for limit in _GROUPS:
        with contextlib.suppress(OSError, ValueError):  # 'max' is no number
            found.append(int(limit.read_text()))
    return min(found)


def resident(name: str = 'VmRSS') -> int:
    """Returns the bytes that this process holds; 0 where the system does not say.

    Args:
        name: 'VmRSS', now, or 'VmHWM', the most so far.
    """
    return _kibibytes(_PROCESS, name) if _PROCESS.exists() else 0


def restart_peak() -> bool:
    """Lets 'VmHWM' of `resident` count from now on; returns whether it does."""
    try:
        _RESTART.write_text('5')
    except OSError:
        return False
    return True


def _kibibytes(path: pathlib.Path, name: str) -> int:
    return 1024 * int(re.search(rf'{name}:\s*(\d+)', path.read_text())[1])


def readable(count: float) -> str:
    """Returns bytes as people say them: '2.3 GiB'."""
    power = next((i for i in range(3) if count < 1024 ** (i + 1)), 3)
    count, unit = count / 1024**power, ('B', 'KiB', 'MiB', 'GiB')[power]
    return f'{count:,.{int(power > 0 and count < 100)}f} {unit}'
