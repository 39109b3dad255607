"""The run directory: what it records, and whether it holds the run asked for."""

import contextlib
import csv
import datetime
import importlib.metadata
import json
import logging
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree
from ml_collections import ConfigDict

from vit_jax import checkpoint
from vit_jax import config as config_lib
from vit_jax.checkpoint import weights
from vit_jax.data import Source
from vit_jax.files.run_record import TRAIN_LOG, RunRecord
from vit_jax.runtime import hosts, sharding
from vit_jax.training import identity
from vit_jax.words.units import readable_bytes

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

log = logging.getLogger(__name__)

# For so many seconds a file that another host has written may be missing.
_SECONDS_TO_APPEAR = 10

_VERSIONS = ('vit_jax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain')


class RunDirectory(RunRecord):
    """A directory with one run in it: config.json, run.json and what training adds.

    All hosts see it, the first one writes to it.

    Args:
        path: relative or absolute; created when missing.

    Raises:
        ValueError: it is no directory, or cannot be written to.
    """

    def __init__(self, path: str | os.PathLike):
        if '://' in str(path):
            raise ValueError(
                f'--workdir={path}: a run directory on a remote file system is not '
                'supported yet; take a local (or mounted) directory.'
            )
        super().__init__(pathlib.Path(path).expanduser().absolute())
        if not hosts.is_first():
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f'.write-test-{os.getpid()}'
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ValueError(
                f'The run directory {self.path} cannot be written to: {error}. Choose '
                'another one with --workdir, or change its permissions.'
            ) from error

    @classmethod
    @contextlib.contextmanager
    def entered(cls, path: str | os.PathLike) -> Iterator['RunDirectory']:
        """Gives the run directory to this process alone, and logs what happens there.

        Raises:
            ValueError: it is no directory, cannot be written to, another process is
                running there, or not all hosts see it.
        """
        with contextlib.ExitStack() as stack:
            with hosts.raise_on_all():
                run = cls(path)
                stack.enter_context(run.locked())
                stack.enter_context(run.logging())
                stack.enter_context(hosts.explained())
            run.require_shared()
            yield run

    def require_shared(self) -> None:
        """Raises a ValueError, on all hosts, where one does not see this directory."""
        if jax.process_count() == 1:
            return
        (name, *_) = hosts.gather(f'.seen-by-all-{uuid.uuid4().hex}')
        token = self.path / name
        with hosts.raise_on_all():
            if hosts.is_first():
                token.touch()
        try:
            with hosts.raise_on_all():
                until = time.monotonic() + _SECONDS_TO_APPEAR
                while not token.exists():
                    if time.monotonic() > until:
                        raise ValueError(
                            f'{self.path} on {platform.node()} is not the directory '
                            'that host 0 sees. Take a --workdir on a file system that '
                            'all hosts share.'
                        )
                    time.sleep(0.1)
        finally:
            if hosts.is_first():
                token.unlink(missing_ok=True)

    def open(
        self,
        config: ConfigDict,
        class_names: Sequence[str],
        sources: Mapping[str, Source],
        *,
        resume: bool,
    ) -> None:
        """Starts or continues a run here.

        Args:
            config: the resolved configuration.
            class_names: of the dataset.
            sources: the examples by role (train, val, test).
            resume: whether a run has left a checkpoint here. One that has not, and is
                not complete either, has nothing to lose and is replaced.

        Raises:
            ValueError: the directory holds a run whose numbers another configuration
                or other data decided; each difference is listed with both values.
                Another test split is one only where the run has judged on it.
        """
        with hosts.raise_on_all():
            record, before = self.record(), self.config()
            if not resume and 'summary' not in record:
                record, before = {}, None
            known = record.get('fingerprints', {})
            fingerprints = identity.fingerprints(config, class_names, sources, known)
        hosts.agree({f'fingerprint of {key}': v for key, v in fingerprints.items()})
        if before is not None:
            identity.require_same(
                self.path,
                identity.differences(
                    config_lib.flatten(before),
                    config_lib.flatten(config),
                    known,
                    fingerprints,
                ),
                is_complete='summary' in record,
            )
        if not hosts.is_first():
            return
        starts = [*record.get('starts', []), _start()]
        self._write(
            'run.json', {**record, 'fingerprints': fingerprints, 'starts': starts}
        )
        self._write('config.json', config.to_dict())

    def require_room(self, size: int) -> None:
        """Raises a ValueError unless a run of so many bytes has room.

        Args:
            size: what the run keeps at most, with what is here already.
        """
        with hosts.raise_on_all():
            if not hosts.is_first():
                return
            free = shutil.disk_usage(self.path).free
            here = sum(p.stat().st_size for p in self.path.rglob('*') if p.is_file())
            if size > free + here:
                raise ValueError(
                    f'The run keeps up to {readable_bytes(size)} in {self.path}, where '
                    f'{readable_bytes(free)} are free. Free some, choose another '
                    '--workdir, or keep fewer: --config.keep_checkpoints=1.'
                )

    def note_skipped(self, files: Iterable[tuple[str, str]]) -> pathlib.Path:
        """Adds files that are left out, with the reason; returns the list's path."""
        path = self.path / 'skipped.csv'
        if not hosts.is_first():
            return path
        before = []
        if path.exists():
            with path.open(newline='', encoding='utf-8', errors='replace') as file:
                before = list(csv.reader(file))
        known = {name for name, _ in before}
        new = [(name, why) for name, why in files if name not in known]
        with path.open('a', newline='', encoding='utf-8', errors='replace') as file:
            header = [] if before else [('name', 'reason')]
            csv.writer(file).writerows([*header, *new])
        return path

    def save_model(self, which: str, params: PyTree) -> None:
        """Writes model.npz ('last') or model_best.npz ('best'), published names.

        Parameters that are spread over several hosts are gathered one at a time.
        """
        name = {'last': 'model.npz', 'best': 'model_best.npz'}[which]
        gathered = _Gathered(params)
        if hosts.is_first():
            checkpoint.save(self.path / name, gathered)
        else:
            for each in gathered:
                gathered.take_part(each)

    def save_picture(self, name: str, png: bytes) -> None:
        """Writes a PNG file, by its path in the run directory."""
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png)

    def save_card(self, card: checkpoint.ModelCard) -> None:
        """Writes model.json, what must be known to use the model."""
        if hosts.is_first():
            card.save(self.path / 'model.json')

    def finish(self, results: list[dict[str, Any]], summary: dict[str, float]) -> None:
        """Notes that the run is complete, and what it reached."""
        if not hosts.is_first():
            return
        reached = {'results': results, 'summary': summary}
        self._write('run.json', {**self.record(), **reached})

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes of this machine out, as long as it is entered.

        Raises:
            ValueError: a run is going on in this directory.
        """
        if fcntl is None or not hosts.is_first():
            yield
            return
        with (self.path / '.lock').open('w') as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(
                    f'Another process is running in {self.path}. Wait for its end, or '
                    'choose another --workdir.'
                ) from error
            except OSError:
                log.debug('%s: its file system knows no locks.', self.path)
            yield  # the lock ends with the file, or with the process

    @contextlib.contextmanager
    def logging(self) -> Iterator[None]:
        """Appends the package's log to train.log, with what ends the run early."""
        if not hosts.is_first():
            yield
            return
        handler = logging.FileHandler(self.path / 'train.log')
        handler.setFormatter(logging.Formatter('%(asctime)s %(message)s'))
        package = logging.getLogger('vit_jax')
        if package.level == logging.NOTSET:
            package.setLevel(logging.INFO)
        for logger in (package, TRAIN_LOG):
            logger.addHandler(handler)
        try:
            yield
        except BaseException as error:
            handler.handle(
                package.makeRecord(
                    package.name,
                    logging.ERROR,
                    __file__,
                    0,
                    '%s: %s',
                    (type(error).__name__, error),
                    None,
                )
            )
            raise
        finally:
            for logger in (package, TRAIN_LOG):
                logger.removeHandler(handler)
            handler.close()

    def _write(self, name: str, content: Any) -> None:
        new = self.path / f'{name}.new'
        new.write_text(json.dumps(content, indent=2) + '\n')
        new.replace(self.path / name)


class _Gathered(weights.TreeWeights):
    """Parameters, each gathered when it is asked for: by all hosts in one order."""

    def __init__(self, params: PyTree):
        super().__init__(params)
        names = sorted(self._places, key=_natural)
        self._places = {name: self._places[name] for name in names}
        self._next = iter(names)

    def __getitem__(self, name: str) -> np.ndarray:
        return weights.to_host(name, self.take_part(name))

    def take_part(self, name: str) -> Any:
        """Returns a parameter whole on this host's devices."""
        assert name == next(self._next), 'the hosts would gather different parameters'
        _, leaf, i = self._places[name]
        return sharding.replicate(leaf if i is None else leaf[i])


def _natural(name: str) -> list[str | int]:
    """Returns a sort key that compares numbers as numbers, as `checkpoint.save`."""
    return [int(p) if i % 2 else p for i, p in enumerate(re.split(r'(\d+)', name))]


def versions() -> dict[str, str | None]:
    """Returns the versions of what decides the numbers; None where it is missing."""
    found: dict[str, str | None] = {'python': platform.python_version()}
    for name in _VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def _start() -> dict[str, Any]:
    """Returns what it takes to repeat this start of the run."""
    return {
        'time': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
        'command': sys.argv,
        'versions': versions(),
        'git': _git_commit(),
        'host': platform.node(),
        'devices': [device.device_kind for device in jax.devices()],
        'processes': jax.process_count(),
    }


def _git_commit() -> str | None:
    """Returns the commit of the checkout that this package is in; None without one."""
    checkout = pathlib.Path(__file__).parents[2]
    if not (checkout / '.git').exists():
        return None
    command = ['git', 'describe', '--always', '--dirty', '--abbrev=40', '--exclude=*']
    try:
        done = subprocess.run(
            command,
            cwd=checkout,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
