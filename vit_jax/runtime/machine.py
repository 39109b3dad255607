"""The memory of the machine and of this process, in bytes; and its age."""

import contextlib
import os
import pathlib
import re
import time

_PROCESS = pathlib.Path('/proc/self/status')
_STAT = pathlib.Path('/proc/self/stat')
_RESTART = pathlib.Path('/proc/self/clear_refs')
_MACHINE = pathlib.Path('/proc/meminfo')
# What a container may take: of cgroups, version 2 and 1.
_GROUPS = (
    pathlib.Path('/sys/fs/cgroup/memory.max'),
    pathlib.Path('/sys/fs/cgroup/memory/memory.limit_in_bytes'),
)


def seconds_running() -> float:
    """Returns how long this process has run; 0: the system does not say."""
    if not _STAT.exists():
        return 0.0
    # The second field, the name in brackets, may hold spaces.
    fields = _STAT.read_text().rpartition(')')[2].split()
    begun = int(fields[19]) / os.sysconf('SC_CLK_TCK')
    return time.clock_gettime(time.CLOCK_BOOTTIME) - begun


def free_memory(held: int = 0) -> int | None:
    """Returns the memory that the machine, or its container, can still give.

    None: the system does not say.

    Args:
        held: what the process has already and would use as well.
    """
    if not _MACHINE.exists():
        return None
    limits = [_kibibytes(_MACHINE, 'MemAvailable') + held]
    for limit in _GROUPS:
        with contextlib.suppress(OSError, ValueError):  # 'max' is no number
            limits.append(int(limit.read_text()))
    return min(limits)


def physical_memory() -> int | None:
    """Returns the memory that the machine has; None: the system does not say."""
    if 'SC_PHYS_PAGES' not in os.sysconf_names:
        return None
    return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def resident(name: str = 'VmRSS') -> int:
    """Returns the memory that this process holds; 0: the system does not say.

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
