"""A command on any terminal: closed files, closed pipes, Ctrl-C, and names misspelt."""

import signal
import subprocess
import sys
import time

import processes
import pytest
from conftest import make_photos

import vit_jax.__main__ as front
from vit_jax.command_line import terminal

PYTHON = f'{sys.executable} -m vit_jax'


def shell(command: str, cwd) -> subprocess.CompletedProcess:
    return subprocess.run(
        ['bash', '-c', f'{command}; echo "code ${{PIPESTATUS[0]}}" >&2'],
        capture_output=True, text=True, cwd=cwd, check=False,
    )  # fmt: skip


def test_the_commands_are_listed(tmp_path, capsys):
    assert front.main([]) == 0
    out = capsys.readouterr().out
    assert all(f'python -m vit_jax.{name} ' in out for name in front.COMMANDS)
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ('name', 'said'),
    [
        ('pedict', 'there is no command .pedict.. Did you mean predict'),
        ('predict', 'type python -m vit_jax.predict'),
        ('xyz', 'python -m vit_jax lists the commands'),
    ],
)
def test_what_is_no_command_says_which_is(name, said, capsys):
    import re

    assert front.main([name]) == 2
    assert re.search(said, capsys.readouterr().err)


@pytest.mark.parametrize('module', ['train', 'fine_tuning'])
def test_modules_that_are_no_commands(module, tmp_path):
    done = shell(f'{PYTHON}.{module} --config=vit.py:b16,cifar10', tmp_path)
    assert 'is no command' in done.stderr
    assert 'python -m vit_jax.main --config=RECIPE' in done.stderr
    assert 'code 1' in done.stderr


@pytest.mark.parametrize(
    'command',
    [
        '.main --help',
        '.predict --help',
        '.models',
        '',
        ".models '*B_16*' --format json",
    ],
)
def test_a_closed_pipe_is_no_traceback(command, tmp_path):
    done = shell(f'{PYTHON}{command} | head -c 1', tmp_path)
    assert len(done.stdout) == 1
    assert done.stderr.splitlines()[:-1] == []


@pytest.mark.parametrize('closed', ['>&-', '2>&-', '>&- 2>&-', '<&- >&- 2>&-'])
@pytest.mark.parametrize('command', ['.models', '.main --help', '.predict --help'])
def test_closed_files_are_no_traceback(command, closed, tmp_path):
    done = subprocess.run(
        ['bash', '-c', f'{PYTHON}{command} {closed}'],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert 'Error' not in done.stderr


SLEEPING = """
import time
from vit_jax.command_line import terminal

def main():
    import jax
    time.sleep(30)

raise SystemExit(terminal.run(main))
"""


@pytest.mark.parametrize('after', [0.5, 1.0, 2.5])
def test_ctrl_c_is_no_traceback(after, tmp_path):
    process = subprocess.Popen(
        [sys.executable, '-c', SLEEPING],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == terminal.INTERRUPTED
    assert said == ''


def test_a_slip_on_the_command_line_keeps_its_code(capsys):
    def slip():
        raise SystemExit(2)

    assert terminal.run(slip) == 2
    assert terminal.run(lambda: 7) == 7


@pytest.mark.slow
def test_ctrl_c_at_any_moment_of_a_start(tmp_path):
    """Of a run that would last hours: it ends soon, without a traceback."""
    recipe = processes.write_recipe(
        tmp_path / 'tiny.py', make_photos(tmp_path, train=8)
    )
    options = [f'--workdir={tmp_path}/run', '--config.total_steps=10000000']
    splits = [f'--config.pp.{role}=auto' for role in ('train', 'val', 'test')]
    command = ['vit_jax.main', f'--config={recipe}', *options, *splits]
    for i in range(30):
        process = subprocess.Popen(
            [sys.executable, '-m', *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=processes.environment(),
        )
        time.sleep(0.3 + i / 10)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode in (130, -signal.SIGINT), said
        assert 'Traceback' not in said
        assert 'ignored' not in said
