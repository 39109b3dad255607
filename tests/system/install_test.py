"""What is installed: the built wheel, run from a folder that is not the checkout."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import declared
import pytest

ROOT = declared.ROOT


def run(arguments, **kwargs) -> str:
    """Runs Python with arguments; returns what it printed."""
    result = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        **kwargs,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """Builds the wheel from a copy of the sources, without a network."""
    source = tmp_path_factory.mktemp('source')
    for name in ('vit_jax', 'configs'):
        ignored = shutil.ignore_patterns('__pycache__')
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, source)
    wheels = tmp_path_factory.mktemp('wheels')
    offline = ['--no-deps', '--no-index', '--disable-pip-version-check']
    run(
        ['-m', 'pip', 'wheel', *offline, '--no-build-isolation', '-w', wheels, source],
    )
    (path,) = wheels.glob('vit_jax-*.whl')
    return path


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    """Returns the environment of processes that see the wheel, not the checkout."""
    target = tmp_path_factory.mktemp('target')
    offline = ['--no-deps', '--no-index', '--disable-pip-version-check']
    run(['-m', 'pip', 'install', *offline, '--target', target, wheel])
    data_dir = str(tmp_path_factory.mktemp('tfds'))
    return {
        **os.environ,
        'PYTHONPATH': str(target),
        'TFDS_DATA_DIR': data_dir,
        'XLA_FLAGS': '',  # one device
    }


def test_what_the_wheel_holds(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    checkout = {
        str(path.relative_to(ROOT))
        for folder in ('vit_jax', 'configs')
        for path in (ROOT / folder).rglob('*.py')
    }
    expected = {re.sub('^configs/', 'vit_jax/configs/', name) for name in checkout}
    expected |= {'vit_jax/py.typed', 'vit_jax/report/page.html'}
    expected |= {'vit_jax/models/zoo/google_files.csv'}
    expected |= {f'vit_jax/checkpoint/imagenet/imagenet{n}k.txt' for n in (1, 21)}
    found = {name for name in names if '.dist-info/' not in name}
    assert found == expected
    assert any(name.endswith('LICENSE') for name in names)


def test_quickstart_by_name(installed, tmp_path):
    where = run(
        ['-c', 'import vit_jax; print(vit_jax.__file__)'], env=installed, cwd=tmp_path
    )
    target = pathlib.Path(installed['PYTHONPATH'])
    assert target in pathlib.Path(where.strip()).parents
    command = ['-m', 'vit_jax.main', '--config=quickstart.py', '--workdir=run']
    text = run([*command, '--config.total_steps=2'], env=installed, cwd=tmp_path)
    assert re.search(r'last +2 +test +test .* 360\n', text)
    assert (tmp_path / 'run/model.npz').exists()


def test_the_first_command_of_the_readme_in_a_clone(installed, tmp_path):
    """There Python finds the clone's package first, whose recipes lie beside it."""
    for name in ('vit_jax', 'configs'):
        ignored = shutil.ignore_patterns('__pycache__')
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    text = (ROOT / 'README.md').read_text()
    command = re.search(r'python (-m vit_jax\.main .*configs/quickstart\.py .*)', text)
    arguments = [*command[1].split(), '--config.total_steps=2']
    text = run(arguments, env=installed, cwd=tmp_path)
    assert re.search(r'last +2 +test +test .* 360\n', text)
    where = 'import vit_jax.configs as c; print(*c.__path__)'
    assert str(tmp_path) in run(['-c', where], env=installed, cwd=tmp_path)


def test_fine_tuning_by_name(installed, photos, tmp_path):
    settings = {
        'pretrained': None,
        'model.hidden_size': 12,
        'model.transformer.num_heads': 2,
        'model.transformer.num_layers': 1,
        'pp.crop': 16,
        'total_steps': 2,
    }
    run(
        [
            *('-m', 'vit_jax.main', f'--config=vit.py:b16,{photos}', '--workdir=run'),
            *(f'--config.{key}={value}' for key, value in settings.items()),
        ],
        env=installed,
        cwd=tmp_path,
    )
    assert (tmp_path / 'run/model.npz').exists()


def pins(path: pathlib.Path) -> dict[str, str]:
    """Returns distribution -> version of a requirements file."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    parts = [line.split('==') for line in lines if line and not line.startswith('#')]
    found = {declared.normalized(name): version for name, version in parts}
    assert len(found) == len(parts)
    return found


def release(version: str) -> tuple[int, ...]:
    """Returns (1, 2) for '1.2.0': trailing zeros do not count."""
    numbers = [int(number) for number in version.split('.')]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def test_lowest_versions_are_the_declared_ones():
    groups = declared.requirements()
    bounds = {**groups['core'], **groups['hf'], **groups['test']}
    assert all(bound.startswith('>=') for bound in bounds.values())
    lowest = pins(ROOT / 'requirements/lowest.txt')
    found = {name: release(lowest[name]) for name in bounds}
    assert found == {name: release(b.removeprefix('>=')) for name, b in bounds.items()}


def test_tested_versions_are_no_lower():
    groups = declared.requirements()
    bounds = {**groups['core'], **groups['hf'], **groups['test']}
    tested = pins(ROOT / 'requirements/tested.txt')
    for name, bound in bounds.items():
        assert release(tested[name]) >= release(bound.removeprefix('>=')), name


def test_nothing_comes_from_elsewhere():
    """No git or URL dependencies, and no addresses of package indexes."""
    for path in ['setup.py', 'pyproject.toml', 'Makefile', '.ci/run', 'README.md']:
        text = (ROOT / path).read_text()
        assert not re.search(r'git\+|@ *https?:|--(extra-)?index-url', text), path
