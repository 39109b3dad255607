"""How a command meets the terminal: closed files, a closed pipe, and Ctrl-C."""

import os
import signal
import sys
from collections.abc import Callable

from vit_jax.runtime import signals

# What a shell reports of a program that SIGINT, or SIGPIPE, has ended.
INTERRUPTED, CLOSED_PIPE = 128 + 2, 128 + 13


def started() -> None:
    """Lets Ctrl-C end a command at once while it is still importing.

    As an exception it would end in a traceback, or nowhere: some libraries swallow it.
    Where this package is imported by another program, nothing changes.
    """
    *_, command = ' '.join(sys.orig_argv).partition(' -m ')
    ours = command.partition(' ')[0].partition('.')[0] == 'vit_jax'
    if ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(main: Callable[[], int]) -> int:
    """The exit code of a command, without a traceback for what a terminal does.

    Args:
        main: the command.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.unraisablehook = signals.send_again
    _open_closed_files()
    try:
        code = _exit_code(main)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        # Whoever reads has seen enough (`| head`). Without this, Python would complain
        # when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    if code == INTERRUPTED:
        # What libraries could not finish they complain of while Python ends.
        sys.unraisablehook = lambda unraisable: None
    return code


def _exit_code(main: Callable[[], int]) -> int:
    try:
        return main()
    except SystemExit as end:  # argparse: help, or a slip
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0


def _open_closed_files() -> None:
    """Opens what was closed (`>&-`), so that no other file takes its number."""
    for name, mode in (('stdin', 'r'), ('stdout', 'w'), ('stderr', 'w')):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
