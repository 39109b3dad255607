"""A process that works when it is called: JSON lines in, JSON lines out."""

import contextlib
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from typing import IO, Any

SCRIPTS = pathlib.Path(__file__).parents[1]


class WorkerError(Exception):
    """A call failed, in one line."""


class Worker:
    """The caller's end.

    Args:
        module: what the process runs; it calls `serve`.
        environment: added to this process's.
        log: what the process writes to its stderr.
    """

    def __init__(self, module: str, environment: Mapping[str, str], log: IO):
        # The package may be run where it is not installed.
        paths = [SCRIPTS, os.environ.get('PYTHONPATH'), SCRIPTS.parent]
        paths = os.pathsep.join(str(path) for path in paths if path)
        self._process = subprocess.Popen(
            [sys.executable, '-m', module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **environment, 'PYTHONPATH': paths},
            start_new_session=True,  # to be ended with its own processes
        )
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    def call(self, name: str, timeout: float, **arguments: Any) -> Any:
        """Returns what the method of that name returns there.

        Raises:
            WorkerError: it raised an exception, the process ended, or the time is up.
                After the last two the process is gone, and its other end with it.
        """
        begin = time.monotonic()
        try:
            print(json.dumps([name, arguments]), file=self._process.stdin, flush=True)
            answer = self._answers.get(timeout=max(timeout, 0.0))
        except queue.Empty:
            self.end()
            seconds = time.monotonic() - begin
            raise WorkerError(f'not done after {seconds:.0f} s') from None
        except BrokenPipeError:
            answer = None
        if answer is None:
            self.end()
            raise WorkerError(f'its process ended with {self._process.returncode}')
        result = json.loads(answer)
        if 'error' in result:
            raise WorkerError(result['error'])
        return result['result']

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def end(self) -> None:
        """Kills the process and those that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        self._process.stdin.close()
        self._process.stdout.close()


def serve(methods: Any) -> None:
    """Answers calls of an object's methods until stdin ends.

    What the methods print goes to stderr.
    """
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer = {'result': getattr(methods, name)(**arguments)}
        except Exception as error:
            traceback.print_exc()
            lines = str(error).strip().splitlines() or ['']
            answer = {'error': f'{type(error).__name__}: {lines[0]}'}
        print(json.dumps(answer), file=answers, flush=True)
