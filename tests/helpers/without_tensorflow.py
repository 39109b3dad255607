"""Runs code in a process where the import of TensorFlow fails, as for most users."""

import os
import pathlib
import subprocess
import sys

_PRELUDE = """
import importlib.machinery, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('tensorflow', 'torch'):
            return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec):
        raise ModuleNotFoundError(f'No module named {spec.name!r}', name=spec.name)

    def exec_module(self, module):
        raise AssertionError

sys.meta_path.insert(0, Blocker())
"""
_END = """
assert not {'tensorflow', 'torch'} & set(sys.modules)
"""


def start(code: str, **environment: str) -> subprocess.Popen:
    """Starts a process in which warnings are errors, from the repository's root."""
    return subprocess.Popen(
        [sys.executable, '-W', 'error', '-c', _PRELUDE + code + _END],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        cwd=pathlib.Path(__file__).parents[2],
    )


def finish(process: subprocess.Popen) -> str:
    """Returns what the process printed, once it has ended well."""
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output
