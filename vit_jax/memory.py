"""What programs take of a device's memory, what it has, and which knobs turn that."""

import contextlib
import dataclasses
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import jax
from ml_collections import ConfigDict

_PROCESS = pathlib.Path('/proc/self/status')
_RESTART = pathlib.Path('/proc/self/clear_refs')
_MACHINE = pathlib.Path('/proc/meminfo')
# What a container may take: of cgroups, version 2 and 1.
_GROUPS = (
    pathlib.Path('/sys/fs/cgroup/memory.max'),
    pathlib.Path('/sys/fs/cgroup/memory/memory.limit_in_bytes'),
)


class OutOfMemory(ValueError):  # noqa: N818 (as in Python's MemoryError, a state)
    """A device, or the machine, has less memory than a run needs."""


@dataclasses.dataclass(frozen=True)
class Taken:
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
    def by(cls, compiled: Any) -> 'Taken':
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


def more_parts(config: ConfigDict, num_devices: int) -> list[int]:
    """Returns the values of accum_steps that make smaller parts, fewest parts first."""
    largest = config.batch // num_devices
    return [
        parts
        for parts in range((config.accum_steps or 1) + 1, largest + 1)
        if config.batch % (parts * num_devices) == 0
    ]


def now(config: ConfigDict, num_devices: int) -> str:
    """Returns how the knobs stand that decide how much memory a run takes."""
    parts = config.accum_steps or 1
    return (
        f'batch={config.batch} in accum_steps={parts} parts of '
        f'{config.batch // parts} images, remat={config.remat}, '
        f'scan_layers={config.scan_layers}, sharding.fsdp={config.sharding.fsdp} of '
        f'{num_devices} devices, dtype={config.dtype}, optim_dtype={config.optim_dtype}'
    )


def knobs(config: ConfigDict, num_devices: int, parts: int | None = None) -> list[str]:
    """Returns settings that save memory, with values, the harmless ones first.

    Args:
        config: a resolved configuration.
        num_devices: of the run.
        parts: the accum_steps to propose; None: the next that divides the batch.
    """
    found = []
    if parts is None:
        parts = next(iter(more_parts(config, num_devices)), None)
    if parts is not None:
        found.append(
            f'--config.accum_steps={parts} (parts of {config.batch // parts} images; '
            'without dropout the same numbers)'
        )
    if config.remat != 'full':
        # In a program of unrolled layers XLA undoes it on the CPU.
        scan = '' if config.scan_layers else ' --config.scan_layers=True'
        found.append(f'--config.remat=full{scan} (takes up to a third longer)')
    if config.sharding.fsdp < num_devices:
        found.append(
            f'--config.sharding.fsdp={num_devices} (parameters and optimizer state '
            'split over the devices)'
        )
    smaller = config.batch // 2 // num_devices * num_devices
    if parts is None and smaller:
        found.append(f'--config.batch={smaller} --config.accum_steps=1 (another run)')
    if config.dtype == 'float32' and jax.default_backend() != 'cpu':
        half = 'bfloat16' if _has_bfloat16(jax.devices()[0]) else 'float16'
        found.append(f'--config.dtype={half} (numbers rounded more coarsely)')
    return found


def _has_bfloat16(device: Any) -> bool:
    """Returns whether a device multiplies bfloat16 faster than float32.

    Of NVIDIA's, those do that have compute capability 8.0 or more (A100 and later).
    """
    # '7.5'; other makers have names here.
    capability = str(getattr(device, 'compute_capability', ''))
    return not capability[:1].isdigit() or float(capability) >= 8


@contextlib.contextmanager
def explained(config: ConfigDict) -> Iterator[None]:
    """Turns the error of a device that is out of memory into advice.

    Raises:
        OutOfMemory: it is; what can be done stands in it.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        raise OutOfMemory(_message(config, error)) from error


def _message(config: ConfigDict, error: Exception) -> str:
    number, device = jax.device_count(), jax.devices()[0]
    limit = available(device)
    if config.batch is None:
        return f'{device.device_kind} is out of memory: {error}'
    lines = [
        f'{device.device_kind}'
        f'{"" if limit is None else f" (of {readable(limit)})"} is out of memory with '
        f'{now(config, number)}. Try, the first ones first:',
        *(f'  {knob}' for knob in knobs(config, number)),
        'The same command with --dry_run says what fits. The device said: '
        + str(error).splitlines()[0],
    ]
    return '\n'.join(lines)
