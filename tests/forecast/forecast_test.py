"""What a run would take is told before it begins, and before anything is written."""

import dataclasses
import json
import pathlib
import re
import shutil
import sys

import jax
import numpy as np
import processes
import pytest
from conftest import tiny_config

from vit_jax import main, train
from vit_jax.checkpoint.formats import npz
from vit_jax.forecast import answer, forecast, measure
from vit_jax.forecast import program as program_lib
from vit_jax.runtime import machine, memory
from vit_jax.training import input as input_lib
from vit_jax.training import plan as plan_lib
from vit_jax.training import step as train_step

sys.path.append(str(pathlib.Path(__file__).parents[2] / 'scripts'))
import verify_dry_run


@pytest.fixture
def ask(tmp_path, photos, capsys, monkeypatch):
    """Returns a function from settings to the exit code and what is printed."""
    recipe = processes.write_recipe(tmp_path / 'tiny.py', photos)
    monkeypatch.setattr(measure, '_SECONDS', 0.1)
    monkeypatch.setattr(forecast, '_ENOUGH', 0)
    monkeypatch.setattr(machine, 'seconds_running', lambda: 2.0)

    def ask(*arguments):
        command = ['main', f'--config={recipe}', f'--workdir={tmp_path / "run"}']
        before = snapshot(tmp_path)
        capsys.readouterr()
        code = main.main([*command, '--dry_run', *arguments])
        found = capsys.readouterr()
        assert snapshot(tmp_path) == before
        return code, found.out if code != 2 else found.err

    return ask


def snapshot(folder):
    """Returns all paths in a folder with their time and size."""
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_size)
        for path in folder.rglob('*')
    }


def test_an_answer(ask, monkeypatch):
    monkeypatch.setattr(forecast, '_ENOUGH', 1000)
    monkeypatch.setattr(memory, 'available', lambda device: 2**44)
    code, text = ask('--config.batch=16')
    assert code == 0
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert 'testing, 8,473 parameters, images 16x16, batch 16 in 1' in lines['Dry']
    assert '3 classes; 24 train, 9 val, 6 test' in lines['Data']
    assert re.search(r'a step \S+ \w+ per device: parameters and', lines['Memory'])
    assert re.search(r'at most the whole process about .*: it fits', text)
    assert re.search(r'Step +\S+ s, [\d,]+ images/s\n', text)
    assert re.search(r'Input +[\d,]+ images/s undisturbed', text)
    assert re.search(r'Time +in all about \S+ s: start \S+ s, compiling', text)
    assert re.search(r'4 steps \S+ s, evaluation \S+ s, saving', text)
    assert 'Batch       much larger ones would fit' in text
    assert 'Nothing was written' in text


def test_the_very_step_that_training_compiles(ask, tmp_path, photos, monkeypatch):
    """The run calls a program with the memory that was told, of the same text."""
    found = []
    real = train_step.compile_step

    def noting(*arguments):
        step = real(*arguments)

        class Noting:
            def lower(self, *args):
                lowered = step.lower(*args)
                found.append(lowered.as_text())
                return lowered

            def __call__(self, *args):
                if len(found) < 2:
                    self.lower(*args)
                return step(*args)

        return Noting()

    monkeypatch.setattr(plan_lib, 'compile_step', noting)
    monkeypatch.setattr(program_lib.Program, 'another_batch', lambda self: None)
    config = tiny_config(photos, **{'sharding.fsdp': 2, 'batch': 16, 'accum_steps': 2})
    forecast.forecast(config, tmp_path / 'run')
    assert len(found) == 1
    train.train_and_evaluate(config, tmp_path / 'run')
    assert len(found) == 2
    assert found[0] == found[1]


def test_memory_is_that_of_one_device(photos):
    settings = {'model.hidden_size': 40, 'model.transformer.mlp_dim': 800, 'batch': 16}
    programs = [
        program_lib.Program.of(planned(photos, **settings, **{'sharding.fsdp': fsdp}))
        for fsdp in (1, 8)
    ]
    whole, split = (memory.size(program.shapes) for program in programs)
    assert split < whole / 6
    taken = memory.MemoryUse.of(programs[1].compile_step())
    assert split <= taken.arguments < whole / 4


def test_weights_are_checked_but_not_read(ask, tmp_path, photos, monkeypatch):
    train.train_and_evaluate(tiny_config(photos, total_steps=1), tmp_path / 'first')
    weights = tmp_path / 'first' / 'model.npz'
    wider = tmp_path / 'wider.npz'
    with np.load(weights) as arrays:
        arrays = dict(arrays)
    arrays['embedding/kernel'] = np.zeros((2, 2, 3, 12), np.float32)
    np.savez(wider, **arrays)

    def refuse(self, name):
        raise AssertionError(f'{name} was read')

    monkeypatch.setattr(npz.NpzWeights, '__getitem__', refuse)
    how = ['--config.pp.crop=32', '--config.scan_layers=True']
    assert ask(f'--config.pretrained={weights}', *how)[0] == 0
    code, text = ask('--config.pretrained=/nowhere/ViT.npz')
    assert code == 2
    assert '/nowhere/ViT.npz' in text
    code, text = ask(f'--config.pretrained={wider}')
    assert code == 2
    assert 'embedding/kernel' in text


@pytest.mark.parametrize(
    ('argument', 'part'),
    [
        ('batch=32', '24 training examples'),
        ('batch=12', 'multiple of 8'),
        ('pp.train=trian', 'trian'),
    ],
)
def test_what_the_run_would_refuse_is_refused(ask, argument, part):
    code, text = ask(f'--config.{argument}')
    assert code == 2
    assert part in text


def test_a_run_that_would_go_on(ask, tmp_path, photos):
    recipe = tmp_path / 'tiny.py'
    command = ['main', f'--config={recipe}', f'--workdir={tmp_path / "run"}']
    assert main.main(command) == 0
    code, text = ask()
    assert code == 2
    assert 'is complete' in text
    record = tmp_path / 'run' / 'run.json'
    content = json.loads(record.read_text())
    del content['summary']
    record.write_text(json.dumps(content))
    shutil.rmtree(tmp_path / 'run' / 'checkpoints' / '4')
    code, text = ask()
    assert code == 0
    assert 'from step 2' in text
    assert re.search(r'has it\), 2 steps', text)


def test_too_little_memory(ask, monkeypatch):
    """The answer names settings with which it fits, and nothing whole is tried."""
    code, text = ask('--config.batch=16', '--config.pp.crop=128')
    needed = machine.resident() + 40 * 2**20
    monkeypatch.setattr(memory, 'available', lambda device: needed)
    wide = ['--config.model.hidden_size=100', '--config.pp.crop=512']
    tried = []
    real = measure.alone

    def alone(program, step):
        tried.append(program.config.batch)
        return real(program, step)

    monkeypatch.setattr(measure, 'alone', alone)
    code, text = ask('--config.batch=24', *wide)
    assert code == 1
    assert 'it does NOT fit' in text
    assert tried == [8]
    assert 'scaled up from 8 of the 24 images' in text
    for knob in ('accum_steps=3', 'remat=full', 'sharding.fsdp=8'):
        assert f'Turn        --config.{knob}' in text


def test_a_step_that_takes_too_long_is_not_tried_whole(ask, monkeypatch):
    monkeypatch.setattr(program_lib, '_LONGEST_STEP', 1e-12)
    code, text = ask('--config.batch=24')
    assert code == 0
    assert 'scaled up from 8 of the 24 images' in text


def test_input_that_does_not_keep_up(ask, monkeypatch):
    monkeypatch.setattr(measure, 'input_rate', lambda plan: 0.5)
    _, text = ask()
    assert (
        'the device will wait for data; --config.num_workers is 0, '
        '--config.num_threads is 1, --config.cache.where is None'
    ) in text


@pytest.mark.parametrize('where', ['memory', 'folder'])
def test_the_input_is_that_of_the_run(ask, photos, tmp_path, monkeypatch, where):
    """A cache is read as the run will read it, of a few images, and written nowhere."""
    kinds = []
    real = input_lib.train_batches
    monkeypatch.setattr(
        input_lib,
        'train_batches',
        lambda config, source, start, on_skip=None: (
            kinds.append(type(source).__name__) or real(config, source, start)
        ),
    )
    place = where if where == 'memory' else tmp_path / 'cache'
    code, text = ask(f'--config.cache.where={place}', '--config.batch=8')
    assert code == 0
    assert set(kinds) == {'Cached'}
    assert ('of images, kept decoded' in text) == (where == 'memory')
    assert not (tmp_path / 'cache').exists()


def test_more_room_than_needed(ask, monkeypatch):
    monkeypatch.setattr(forecast, '_ENOUGH', 1000)
    _, text = ask('--config.batch=16', '--config.accum_steps=2')
    assert 'accum_steps=1 fits as well (parts of 16 images)' in text


def test_the_whole_run_is_told(ask):
    """Start, compiling, evaluation and saving, which short runs mostly are."""
    _, text = ask()
    seconds = [float(x) for x in re.findall(r'([\d.]+) s\b', text.partition('Time')[2])]
    whole, *parts = seconds[:6]
    assert whole == pytest.approx(sum(parts), rel=0.05)
    assert all(parts)


def test_where_a_tenth_is_enough_no_larger_batch_is_compiled(ask, monkeypatch):
    monkeypatch.setattr(measure, 'largest_batch', None)
    monkeypatch.setattr(memory, 'available', lambda device: 2**44)
    _, text = ask('--config.batch=16')
    assert 'Batch       much larger ones would fit' in text


def test_the_largest_batch_would_fit(photos, tmp_path, monkeypatch):
    """With that batch the run takes what there is, about."""
    monkeypatch.setattr(measure, '_SECONDS', 0.1)
    monkeypatch.setattr(answer, '_SPARE', 0.0)
    monkeypatch.setattr(forecast, '_ENOUGH', 1000)
    settings = {'pp.crop': 96, 'model.hidden_size': 50}
    base = machine.resident()
    limit = base + 300 * 2**20
    monkeypatch.setattr(machine, 'resident', lambda name='VmRSS': base)
    monkeypatch.setattr(memory, 'available', lambda device: limit)
    found = forecast.forecast(tiny_config(photos, batch=16, **settings), tmp_path)
    assert found.fits
    assert found.largest_batch > 100
    plan = planned(photos, batch=found.largest_batch, **settings)
    program = program_lib.Program.of(plan)
    taken = memory.MemoryUse.of(program.compile_step())
    _, process = program.peak(taken, None, 0, base)
    assert process - base == pytest.approx(limit - base, rel=0.1)


def planned(photos, **settings):
    """Returns the plan of a run that has no directory."""
    config = plan_lib.checked(tiny_config(photos, **settings))
    return plan_lib.prepare(config, '/nowhere')


def test_a_forecast_is_plain_data(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, '_SECONDS', 0.1)
    found = forecast.forecast(tiny_config(photos), tmp_path)
    assert json.loads(json.dumps(dataclasses.asdict(found)))
    assert found.probed == found.batch == 8
    assert found.steps == 4
    assert jax.device_count() == 8


@pytest.mark.slow
@pytest.mark.parametrize('index', range(len(verify_dry_run.COMBINATIONS)))
def test_the_run_then_shows_what_was_said(index, tmp_path, monkeypatch):
    """Memory within 15 %. The time is only told: other tests run at the same time."""
    monkeypatch.delenv('XLA_FLAGS')
    photos = verify_dry_run.make_photos(tmp_path / 'photos')
    row = verify_dry_run.compare(
        verify_dry_run.COMBINATIONS[index], photos, tmp_path / 'run'
    )
    print(row)
    assert row['memory_ratio'] == pytest.approx(1, abs=0.15)
    assert 0.3 < row['time_ratio'] < 3
