"""The trace that `--config.profile_steps` writes, through the command."""

import gzip
import json

import processes
import pytest

from vit_jax import main
from vit_jax.training import loop


@pytest.fixture
def run(tmp_path, photos):
    """Returns a function from settings to the exit code and the run directory."""
    recipe = processes.write_recipe(tmp_path / 'tiny.py', photos, total_steps=8)

    def run(*arguments):
        folder = tmp_path / 'run'
        command = ['main', f'--config={recipe}', f'--workdir={folder}']
        return main.main(
            [*command, *(f'--config.{argument}' for argument in arguments)]
        ), folder

    return run


def traces(folder):
    """Returns the events of all traces, oldest first."""
    found = sorted(folder.glob('plugins/profile/*/perfetto_trace.json.gz'))
    return [json.loads(gzip.decompress(p.read_bytes()))['traceEvents'] for p in found]


def annotated(events):
    """Returns the steps that a trace tells apart."""
    return [int(e['args']['step_num']) for e in events if e.get('name') == 'train']


@pytest.mark.parametrize(
    ('wanted', 'expected'), [('3,5', [3, 4, 5]), ('1,1', [1]), ('(7,20)', [7, 8])]
)
def test_a_trace_of_the_steps_that_are_wanted(run, wanted, expected, caplog):
    code, folder = run(f'profile_steps={wanted}')
    assert code == 0
    (events,) = traces(folder)
    assert annotated(events) == expected
    # The devices' work is in it, not just the host's.
    names = {event.get('name') for event in events}
    assert any('dot' in name for name in names if name)
    (written,) = folder.glob('plugins/profile/*/*.xplane.pb')
    log = (folder / 'train.log').read_text()
    (told,) = (line for line in log.splitlines() if 'The trace is in' in line)
    for part in (
        str(written.parent),
        'ui.perfetto.dev',
        f'tensorboard --logdir={folder}',
    ):
        assert part in told
    # Nothing is lost around the trace.
    assert [record['step'] for record in processes.records(folder)] == [*range(1, 9)]


def test_a_run_is_the_same_with_a_trace(run, tmp_path):
    run('profile_steps=2,4')
    traced = (tmp_path / 'run').rename(tmp_path / 'traced')
    _, plain = run()
    assert not traces(plain)
    processes.assert_same_bits(plain / 'model.npz', traced / 'model.npz')
    assert processes.records(plain) == processes.records(traced)


def test_a_trace_ends_with_the_run(run, monkeypatch):
    """Early stopping, or an error, in the middle of it; what goes on is traced too."""
    steps = loop.training_steps

    def dying(*arguments):
        for item in steps(*arguments):
            if item[0] == 5:
                raise FloatingPointError
            yield item

    with monkeypatch.context() as patch:
        patch.setattr(loop, 'training_steps', dying)
        code, folder = run('profile_steps=2,6')
    assert code == 1
    assert annotated(traces(folder)[0]) == [2, 3, 4, 5]
    code, _ = run('profile_steps=2,6')
    assert code == 0
    assert annotated(traces(folder)[-1]) == [5, 6]  # from the checkpoint of step 4


@pytest.mark.parametrize(
    'wanted', ['5,3', '0,4', '10', '2,4,6', 'a,b', '2.5,4', '9,12']
)
def test_what_cannot_be_traced_is_refused(run, wanted, capsys):
    code, folder = run(f'profile_steps={wanted}')
    assert code == 2
    assert 'profile_steps' in capsys.readouterr().err
    assert not list(folder.glob('checkpoints/*'))
