"""Runs on several hosts: processes of this machine that find each other on loopback."""

import contextlib
import pathlib
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence

import processes


def free_port() -> int:
    """Returns a port on which nobody listens."""
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def start(
    recipe: pathlib.Path,
    workdir: pathlib.Path,
    *arguments: str,
    devices: int = 4,
    number: int = 2,
    each: Sequence[Sequence[str]] = ((), ()),
    code: Sequence[str | None] = (None, None),
    wait: int = 60,
) -> Iterator[list[subprocess.Popen]]:
    """Starts `python -m vit_jax.main` on hosts with some CPU devices each.

    Args:
        recipe: its file.
        workdir: the run directory. What host i prints is appended to a file beside it.
        *arguments: more of the command line.
        devices: of each host.
        number: of hosts.
        each: more of the command line of each host.
        code: Python for each host to execute before the command.
        wait: seconds until all hosts must be there.
    """
    address = f'--coordinator_address=127.0.0.1:{free_port()}'
    flags = f'--xla_force_host_platform_device_count={devices}'
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                processes.start(
                    recipe,
                    workdir,
                    *arguments,
                    *(address, f'--num_processes={number}', f'--process_id={i}'),
                    f'--coordinator_timeout={wait}',
                    *each[i],
                    code=code[i],
                    output=output_of(workdir, i),
                    XLA_FLAGS=flags,
                )
            )
            for i in range(number)
        ]


def output_of(workdir: pathlib.Path, host: int) -> pathlib.Path:
    """Returns the file with what a host has printed."""
    return workdir.with_name(f'{workdir.name}.{host}.txt')


def printed(workdir: pathlib.Path) -> str:
    """Returns what all hosts have printed."""
    texts = sorted(workdir.parent.glob(f'{workdir.name}.*.txt'))
    return '\n'.join(f'--- {text.name}\n{text.read_text()}' for text in texts)


def ended(hosts: list[subprocess.Popen], seconds: float = 180) -> list[int]:
    """Waits for all hosts; returns their exit codes."""
    until = time.monotonic() + seconds
    return [host.wait(timeout=max(0.1, until - time.monotonic())) for host in hosts]


def finish(recipe: pathlib.Path, workdir: pathlib.Path, *arguments, **how) -> list[int]:
    """Runs to the end; returns the exit codes of all hosts."""
    with start(recipe, workdir, *arguments, **how) as hosts:
        return ended(hosts)
