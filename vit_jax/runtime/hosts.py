"""Many hosts: how they find each other, agree, stop together and end.

Each host runs the same program; a host here is a process of JAX, of which a machine may
have several. Whatever uses all devices must be done by all hosts, in the same order:
one that takes another way lets the others wait. What can go wrong on one host alone
belongs into `together`, what might differ between them into `agree`.

With one process, all of this does nothing.
"""

import contextlib
import glob
import hashlib
import importlib.util
import json
import logging
import os
import pathlib
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from vit_jax.runtime import sharding

log = logging.getLogger(__name__)

T = TypeVar('T')

# Within how many seconds all hosts must be there, and after how many without a sign of
# life a host counts as lost.
COORDINATOR_TIMEOUT = 300
HEARTBEAT_TIMEOUT = 100

# At every so many steps the hosts tell each other about signals; see `SharedSignal`.
EVERY = 4

# Who starts the hosts of a TPU pod.
_TPU = 'the TPU runtime'

# A host that has ended lets the others wait for so many seconds, at most, at the end.
_SHUTDOWN_TIMEOUT = 60
# The coordinator's end aborts the others; it leaves them the time to say why they end.
_LAST = 3.0


class AnotherHostError(ValueError):
    """What another host could not do; this one could."""


def connect(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    coordinator_timeout: int = COORDINATOR_TIMEOUT,
    heartbeat_timeout: int = HEARTBEAT_TIMEOUT,
) -> None:
    """Makes this process one of several, if it was started as one of them.

    To be called before anything asks JAX for its devices. Without the first three
    arguments, the launcher is asked: Slurm, Open MPI, or what runs TPU pods.

    Args:
        coordinator_address: host:port of process 0, which listens there.
        num_processes: how many processes there are.
        process_id: which one this is.
        coordinator_timeout: seconds until all must be there; the process ends then.
        heartbeat_timeout: seconds without a sign of life after which a host is lost,
            and all others end.

    Raises:
        ValueError: the arguments do not fit together, or the hosts have different
            numbers of devices.
    """
    given = {
        'coordinator_address': coordinator_address,
        'num_processes': num_processes,
        'process_id': process_id,
    }
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise ValueError(
            f'--{" and --".join(missing)} missing: the three flags '
            f'--{", --".join(given)} belong together.'
        )
    launcher = None
    if missing:
        launcher = _launcher()
        if launcher is None:
            return
    else:
        _check(coordinator_address, num_processes, process_id)
    # Its handler would take SIGTERM from ours, which `SharedSignal` brings together.
    jax.config.update('jax_enable_preemption_service', False)
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    where = coordinator_address or f'the address that {launcher} gives'
    watch = threading.Timer(
        coordinator_timeout, _give_up, (where, given, coordinator_timeout)
    )
    watch.daemon = True
    watch.start()
    try:
        jax.distributed.initialize(
            **given,
            local_device_ids=_own_devices(),
            # JAX's own timeout aborts without the address: ours comes first.
            initialization_timeout=coordinator_timeout + 60,
            heartbeat_timeout_seconds=heartbeat_timeout,
            shutdown_timeout_seconds=_SHUTDOWN_TIMEOUT,
        )
    except ValueError:
        if launcher != _TPU:
            raise
        return  # one host, and nobody that could tell of others
    finally:
        watch.cancel()
    devices = jax.devices()
    counts = np.bincount([device.process_index for device in devices])
    if len(set(counts.tolist())) > 1:
        raise ValueError(
            f'The hosts have {counts.tolist()} devices; each must have as many as the '
            'others.'
        )
    log.info(
        '%d hosts with %d devices each; this is host %d, on %s.',
        jax.process_count(),
        jax.local_device_count(),
        jax.process_index(),
        socket.gethostname(),
    )


def _check(address: str, num_processes: int, process_id: int) -> None:
    host, _, port = address.rpartition(':')
    if not host or not port.isdecimal():
        raise ValueError(
            f'--coordinator_address={address}: expected host:port, as in '
            '10.0.0.1:12345, where process 0 runs.'
        )
    if num_processes < 1 or not 0 <= process_id < num_processes:
        raise ValueError(
            f'found --process_id={process_id} of --num_processes={num_processes}, '
            'expected numbers from 0, one for each process.'
        )


def _launcher() -> str | None:
    """Returns who has started this process as one of several, if somebody has.

    With a single process JAX is not asked: under Slurm it would see one device only.
    """
    env = os.environ
    if 'SLURM_PROCID' in env and 'SLURM_STEP_NODELIST' in env:
        if int(env.get('SLURM_NTASKS', 1)) > 1:
            return f'Slurm (first of {env["SLURM_STEP_NODELIST"]})'
    elif 'OMPI_MCA_orte_hnp_uri' in env:
        if int(env.get('OMPI_COMM_WORLD_SIZE', 1)) > 1:
            return 'Open MPI'
    elif importlib.util.find_spec('libtpu') and (
        glob.glob('/dev/accel*') or glob.glob('/dev/vfio/[0-9]*')
    ):
        # A pod has many hosts; with one host, JAX finds one process.
        return _TPU
    return None


def _own_devices() -> list[int] | None:
    """Returns which devices are this process's, where JAX would guess wrong.

    For Slurm and Open MPI, JAX gives device i of a machine to process i on it. Slurm
    may have hidden the others already, or may have started one process for all.
    """
    env = os.environ
    if 'JAX_LOCAL_DEVICE_IDS' in env or 'SLURM_PROCID' not in env:
        return None
    if env.get('CUDA_VISIBLE_DEVICES', ',').count(',') == 0:
        return [0]
    one_for_all = env.get('SLURM_NTASKS') == env.get('SLURM_STEP_NUM_NODES')
    if one_for_all and 'SLURM_GPUS_ON_NODE' in env:
        return list(range(int(env['SLURM_GPUS_ON_NODE'])))
    return None


def _give_up(where: str, given: Mapping[str, Any], seconds: float) -> None:
    """Ends the process, which waits inside JAX, with a message."""
    reason = 'Nobody answers there: is process 0 running, and is the port open?'
    if given['process_id'] == 0:
        reason = 'This is process 0; not all of the others have come.'
    elif given['coordinator_address'] is None:
        reason = 'Are all processes running, and may they reach each other?'
    elif _answers(given['coordinator_address']):
        reason = 'Process 0 answers, but not all of the others have come.'
    print(
        f'vit_jax: The hosts did not come together at {where} within {seconds:g} '
        f'seconds. {reason} (--coordinator_timeout sets the time.)',
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(':')
    try:
        with socket.create_connection((host.strip('[]'), int(port)), timeout=5):
            return True
    except OSError:
        return False


def end(code: int, error: Exception | None = None) -> None:
    """Ends this process after an error, if it is one of several.

    It does not wait for the others, as a process of JAX does at its end: they may be
    waiting for this one. They find out that it is gone.

    Args:
        code: exit code.
        error: what nobody has printed yet.
    """
    if not jax.distributed.is_initialized():
        return
    if error is not None:
        traceback.print_exception(error)
    if is_first():
        time.sleep(_LAST)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Adds what helps to an error that another host may have caused."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() > 1 and 'RESOURCE_EXHAUSTED' not in str(error):
            error.add_note(
                'Another host may have failed or been lost: see what it has printed. '
                'Start the same command again on all hosts; the run goes on from its '
                'last checkpoint.'
            )
        raise


def is_first() -> bool:
    """Returns whether this is the host that writes and tells."""
    return jax.process_index() == 0


def gather(text: str) -> list[str]:
    """Returns what each host says, in their order."""
    if jax.process_count() == 1:
        return [text]
    mine = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(mine)))
    # Few different lengths: each is compiled.
    padded = np.zeros(2 ** max(10, int(lengths.max()).bit_length()), np.uint8)
    padded[: len(mine)] = mine
    rows = multihost_utils.process_allgather(padded)
    return [
        row[:length].tobytes().decode()
        for row, length in zip(rows, lengths, strict=True)
    ]


@contextlib.contextmanager
def raise_on_all() -> Iterator[None]:
    """Lets an error of one host be the error of all, at the end of the block.

    Raises:
        AnotherHostError: this host has done it, but another one has not.
    """
    try:
        yield
    except Exception as error:
        gather(str(error) or repr(error))
        raise
    told = gather('')
    for host, text in enumerate(told):
        if text:
            raise AnotherHostError(f'Host {host} failed: {text}')


def first_host_first(do: Callable[[], T]) -> T:
    """Returns what a function does here, after it has been done on the first host.

    What the first one has downloaded and prepared, the others find.
    """
    result = None
    for turn in (True, False):
        with raise_on_all():
            if is_first() == turn:
                result = do()
    return result


def agree(values: Mapping[str, Any]) -> None:
    """Compares what each host has.

    Args:
        values: by name; what JSON knows.

    Raises:
        ValueError: they differ, on all hosts; each difference is listed.
    """
    if jax.process_count() == 1:
        return
    told = [json.loads(text) for text in gather(json.dumps(values))]
    differences = [
        f'{name}: {told[0].get(name)!r} on host 0, {other.get(name)!r} on host {host}'
        for host, other in enumerate(told)
        for name in sorted({*told[0], *other})
        if told[0].get(name) != other.get(name)
    ]
    if differences:
        raise ValueError(
            'The hosts disagree:\n'
            + '\n'.join(f'  {line}' for line in differences)
            + '\nStart the same command on all of them, with the same code and data.'
        )


def code() -> str:
    """Returns a sha256 of the sources of this package."""
    found = hashlib.sha256()
    package = pathlib.Path(__file__).parents[1]
    for path in sorted(package.rglob('*.py')):
        found.update(str(path.relative_to(package)).encode() + path.read_bytes())
    return found.hexdigest()


class SharedSignal:
    """A signal that one of the hosts got, known to all of them at the same step.

    At every fourth step (EVERY) the devices find the largest of the hosts' signals,
    behind that step in their queue. It is read four steps later, when no host is so far
    ahead of its devices any more that it had to wait. So a run on several hosts stops
    at most seven steps after a signal; a run on one host stops at once.

    Args:
        mesh: of all devices.
    """

    def __init__(self, mesh: Mesh):
        self._rows = sharding.batch_sharding(mesh)
        self._largest = jax.jit(jnp.max, out_shardings=sharding.replicated(mesh))
        self._asked: jax.Array | None = None

    def __call__(self, step: int, signum: int | None) -> int | None:
        """Returns the signal on which all hosts stop at this step, or None.

        Args:
            step: all hosts must ask at every step.
            signum: what this host got.
        """
        if jax.process_count() == 1:
            return signum
        if step % EVERY:
            return None
        found = None if self._asked is None else int(self._asked) or None
        mine = {'signum': np.full(jax.local_device_count(), signum or 0, np.int32)}
        asked = sharding.to_devices(mine, self._rows)['signum']
        self._asked = self._largest(asked)
        return found
