"""Where what is compiled is kept, who decides it, and that it is found again."""

import os
import pathlib
import subprocess
import sys

import processes
import pytest

JAXS = 'JAX_COMPILATION_CACHE_DIR'
ROOT = pathlib.Path(__file__).parents[2]


def python(code: str, *arguments: str, **variables: str) -> str:
    """Runs Python without the cache of the tests; returns what it prints."""
    inherited = {k: v for k, v in os.environ.items() if 'CACHE' not in k}
    result = subprocess.run(
        [sys.executable, '-W', 'error', '-c', code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=inherited | variables,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


ENABLE = """
import sys
from vit_jax.runtime import compilation_cache
print(compilation_cache.enable(*sys.argv[1:]))
"""
COMPILE = """
import jax
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
jax.jit(lambda x: x * 2 + 1)(1.0).block_until_ready()
"""


@pytest.mark.parametrize(
    ('arguments', 'variables', 'expected'),
    [
        ([], ['VIT_JAX_CACHE'], 'VIT_JAX_CACHE/compiled'),
        ([], ['VIT_JAX_CACHE', JAXS], JAXS),
        (['mine'], ['VIT_JAX_CACHE', JAXS], 'mine'),
        (['off'], ['VIT_JAX_CACHE', JAXS], None),
    ],
)
def test_who_decides(tmp_path, arguments, variables, expected):
    folders = {name: str(tmp_path / name) for name in variables}
    arguments = [str(tmp_path / x) if x == 'mine' else x for x in arguments]
    printed = python(ENABLE + COMPILE, *arguments, **folders)
    assert printed == str(expected and tmp_path / expected)
    filled = {path.parent for path in tmp_path.rglob('*-cache')}
    assert filled == ({tmp_path / expected} if expected else set())


def test_jax_has_the_last_word(tmp_path):
    variables = {'VIT_JAX_CACHE': str(tmp_path), 'JAX_ENABLE_COMPILATION_CACHE': '0'}
    python(ENABLE + COMPILE, **variables)
    assert not list(tmp_path.rglob('*-cache'))


def test_importing_keeps_nothing(tmp_path):
    code = 'import vit_jax, vit_jax.train, vit_jax.main' + COMPILE
    python(code, VIT_JAX_CACHE=str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be(tmp_path, photos, capsys):
    from vit_jax import main

    (tmp_path / 'file').touch()
    # What nobody asked for is left out.
    assert python(ENABLE, VIT_JAX_CACHE=str(tmp_path / 'file')) == 'None'
    recipe = processes.write_recipe(tmp_path / 'tiny.py', photos)
    arguments = [f'--config={recipe}', f'--workdir={tmp_path / "run"}']
    cache = f'--compile_cache={tmp_path / "file" / "in"}'
    assert main.main(['main', *arguments, cache]) == 2
    assert cache in capsys.readouterr().err
    assert not (tmp_path / 'run').exists()


RUN = """
import logging, sys
from jax import monitoring
found = []
monitoring.register_event_listener(lambda name, **_: found.append(name))
from vit_jax import main
code = main.main(['main', *sys.argv[1:]])
hits, misses = (
    found.count(f'/jax/compilation_cache/cache_{kind}') for kind in ('hits', 'misses')
)
print(code, hits, misses)
"""


def test_a_second_run_finds_what_the_first_compiled(tmp_path, photos):
    """And ends with the same bits; one without a cache as well.

    Everything is kept here: what compiles in about the least time that is kept
    otherwise would be found or not, by how busy the machine is.
    """
    keep_all = {
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
    }
    recipe = processes.write_recipe(tmp_path / 'tiny.py', photos)
    counts = {}
    for name in ('first', 'second', 'off'):
        arguments = [f'--config={recipe}', f'--workdir={tmp_path / name}']
        arguments += ['--compile_cache=off'] if name == 'off' else []
        folder = str(tmp_path / 'cache')
        printed = python(RUN, *arguments, VIT_JAX_CACHE=folder, **keep_all)
        code, *counts[name] = map(int, printed.splitlines()[-1].split())
        assert code == 0
    assert counts['first'][1] > 0
    assert counts['second'][0] > 0
    assert counts['second'][1] == 0
    assert counts['off'] == [0, 0]
    for name in ('second', 'off'):
        processes.assert_same_bits(
            tmp_path / 'first' / 'model.npz', tmp_path / name / 'model.npz'
        )
