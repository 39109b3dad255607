"""The machine that is measured."""

import os
import pathlib
import platform


def processor() -> str:
    """Returns the name of the processor."""
    info = pathlib.Path('/proc/cpuinfo')
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith('model name'):
            return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()


def available_cores() -> int:
    """Returns the number of cores this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
