"""docs/extending.md: its own lines, run in a folder beside nothing but photos."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import declared
import numpy as np
import pytest

PAGE = declared.ROOT / 'docs' / 'extending.md'


def blocks(language: str) -> list[str]:
    return re.findall(rf'^```{language}\n(.*?)^```', PAGE.read_text(), re.DOTALL | re.M)


def run(arguments, folder):
    result = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, 'XLA_FLAGS': ''},  # one device
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.fixture(scope='module')
def folder(photos, tmp_path_factory):
    """Returns a folder with photos, the files of the page, and what its run left."""
    path = tmp_path_factory.mktemp('extending')
    shutil.copytree(photos, path / 'photos')
    for block in blocks('python'):
        name, _, code = block.removeprefix('# ').partition('\n')
        (path / name).write_text(code)
    (commands,) = blocks('sh')
    for line in commands.splitlines():
        run(shlex.split(line)[1:], path)
    return path


def records(folder):
    lines = (folder / 'runs/mine/metrics.jsonl').read_text().splitlines()
    return {record['step']: record for record in map(json.loads, lines)}


def test_each_part_took_part(folder):
    found = records(folder)
    assert [step for step in found if 'size_norm' in found[step]] == [2, 4]
    card = json.loads((folder / 'runs/mine/model.json').read_text())
    assert card['task'] == 'my_task:FOCAL'
    assert card['model'] == {'family': 'my_network:SMALL', 'width': 8}
    with np.load(folder / 'runs/mine/model.npz') as arrays:
        assert {'batch_stats/norm/mean', 'head/kernel', 'norm/scale'} <= set(arrays)
        # Moved by four steps from where it began.
        assert np.abs(arrays['batch_stats/norm/mean']).max() > 0
    config = json.loads((folder / 'runs/mine/config.json').read_text())
    assert config['optimizer'] == 'my_optimizer:lion'
    assert config['pp']['augment'][2] == 'my_augmentation:Darker(0.3)'


@pytest.mark.parametrize(
    ('setting', 'message'),
    [
        ('task=my_task:FOKAL', 'has no FOKAL. Did you mean FOCAL?'),
        ('optimizer=my_optimiser:lion', 'there is no module my_optimiser'),
        ('optimizer=my_optimizer:tiger', 'my_optimizer has no tiger'),
        ('model.family=my_network:SmallConvNet', 'must be a vit_jax.models.Family'),
    ],
)
def test_what_is_not_there(folder, tmp_path, setting, message):
    command = ['--config=my_recipe.py', f'--workdir={tmp_path / "run"}']
    result = subprocess.run(
        [sys.executable, '-m', 'vit_jax.main', *command, f'--config.{setting}'],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert not (tmp_path / 'run').exists()
