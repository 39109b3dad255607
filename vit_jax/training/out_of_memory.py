"""Too little memory, said with the settings that take less."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
from ml_collections import ConfigDict

from vit_jax.runtime.memory import available
from vit_jax.words.units import readable_bytes


class OutOfMemory(ValueError):  # noqa: N818 (as in Python's MemoryError, a state)
    """A device, or the machine, has less memory than a run needs."""


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
    size = '' if limit is None else f' (of {readable_bytes(limit)})'
    lines = [
        f'{device.device_kind}{size} is out of memory with '
        f'{now(config, number)}. Try, the first ones first:',
        *(f'  {knob}' for knob in knobs(config, number)),
        'The same command with --dry_run says what fits. The device said: '
        + str(error).splitlines()[0],
    ]
    return '\n'.join(lines)
