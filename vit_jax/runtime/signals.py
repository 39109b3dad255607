"""How a run ends early: the first signal asks, the second one insists."""

import os
import signal
import sys
import threading
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(SystemExit):
    """A run that saved its state and stopped on a signal; the code is 128 + signal.

    Args:
        signum: the signal.
        step: where the run can be resumed.
    """

    def __init__(self, signum: int, step: int):
        super().__init__(128 + signum)
        self.signum = signum
        self.step = step


def send_again(lost: 'sys.UnraisableHookArgs') -> None:
    """A `sys.unraisablehook` for which no Ctrl-C is lost.

    Python prints and forgets what is raised inside callbacks: finalizers, weak
    references, the garbage collector's, of which JAX has one.

    Args:
        lost: what could not be raised.
    """
    if lost.exc_type is KeyboardInterrupt:
        threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(lost)


class Interruption:
    """Notes the first SIGTERM or SIGINT; a second one has its usual effect at once.

    Outside the main thread, where Python cannot handle signals, it notes nothing.
    """

    def __init__(self):
        self.signum: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> 'Interruption':
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._note) for s in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            # None: one that was not installed from Python, as JAX's.
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        del frame
        self.signum = signum
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
