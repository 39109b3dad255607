"""What setup.py declares, read from the file: an installation may be out of date."""

import pathlib
import re
import runpy
from typing import Any
from unittest import mock

ROOT = pathlib.Path(__file__).parents[2]


def normalized(name: str) -> str:
    """Returns a distribution's name as package indexes compare it."""
    return re.sub('[-_.]+', '-', name).lower()


def arguments() -> dict[str, Any]:
    """Returns what setup.py passes to setup()."""
    with mock.patch('setuptools.setup') as setup:
        runpy.run_path(str(ROOT / 'setup.py'))
    return setup.call_args.kwargs


def requirements() -> dict[str, dict[str, str]]:
    """Returns 'core' and each extra: distribution -> version specifier."""
    found = arguments()
    lists = {'core': found['install_requires'], **found['extras_require']}
    result = {}
    for group, lines in lists.items():
        matches = [re.fullmatch(r'([\w.-]+)(\[\w+\])?(.*)', line) for line in lines]
        result[group] = {normalized(m[1]): m[3] for m in matches}
    return result
