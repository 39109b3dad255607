"""The trainer 'inference_time', through the command line's main()."""

import json

import numpy as np
import processes
import pytest
import together

from vit_jax import config as config_lib
from vit_jax import main
from vit_jax.command_line import recipe as recipe_lib
from vit_jax.files import run_record
from vit_jax.training import inference_time

TINY = [
    '--config=configs/inference_time.py:testing',
    *('--config.image_size=32', '--config.batch=16', '--config.num_classes=7'),
    *('--config.initial_steps=2', '--config.steps=5'),
]


def run(workdir, *arguments) -> int:
    return main.main(['main', *TINY, f'--workdir={workdir}', *arguments])


def record(workdir) -> dict:
    return json.loads((workdir / 'run.json').read_text())


def test_what_is_measured_is_written(tmp_path, caplog):
    assert run(tmp_path) == 0
    lines = run_record.read(tmp_path / 'metrics.jsonl')
    assert [line['step'] for line in lines] == [1, 2, 3, 4, 5]
    seconds = np.array([line['seconds'] for line in lines])
    assert (seconds > 0).all()
    for line in lines:
        assert line['images_per_second'] == pytest.approx(16 / line['seconds'])
    assert list(tmp_path.glob('events.out.tfevents.*'))

    found = record(tmp_path)
    summary = found['summary']
    assert summary['step'] == 5
    assert summary['images_per_second'] == pytest.approx(16 / np.median(seconds))
    assert summary['seconds_p50'] == pytest.approx(np.median(seconds))
    assert summary['seconds_p90'] == pytest.approx(np.quantile(seconds, 0.9))
    per_core = 16 / 8 / seconds
    for name in ('min', 'max', 'mean', 'std'):
        expected = getattr(np, name)(per_core)
        assert summary[f'imgs_sec_core_{name}'] == pytest.approx(expected)
    assert summary['compile_seconds'] > 0
    # Each of the eight devices has its two images, and all parameters.
    assert summary['memory_bytes'] > 2 * 32 * 32 * 3 * 4
    (row,) = found['results']
    assert (
        row.items()
        >= {
            **{'model_name': 'testing', 'batch': 16, 'image_size': 32},
            **{'dtype': 'float32', 'devices': 8, **summary},
        }.items()
    )
    config = json.loads((tmp_path / 'config.json').read_text())
    assert (config['trainer'], config['num_classes']) == ('inference_time', 7)
    text = f'{summary["images_per_second"]:,.1f} images/s; a batch of 16 takes'
    assert text in (tmp_path / 'train.log').read_text()
    assert text in caplog.text


@pytest.mark.parametrize(
    ('steps', 'initial_steps', 'expected'), [(3, 2, 5), (1, 0, 1), (2, 4, 6)]
)
def test_so_many_batches_as_asked_for(
    steps, initial_steps, expected, tmp_path, monkeypatch
):
    compiled, count = inference_time._compiled, 0

    def counted(*arguments):
        infer, facts = compiled(*arguments)

        def counting():
            nonlocal count
            count += 1
            return infer()

        return counting, facts

    monkeypatch.setattr(inference_time, '_compiled', counted)
    settings = f'--config.steps={steps}', f'--config.initial_steps={initial_steps}'
    assert run(tmp_path, *settings) == 0
    assert count == expected
    assert len(run_record.read(tmp_path / 'metrics.jsonl')) == steps


@pytest.mark.parametrize(
    ('setting', 'program'),
    [
        ('image_size=48', 'f32[2,48,48,3]'),
        ('batch=32', 'f32[4,32,32,3]'),
        ('num_classes=23', 'f32[2,23]'),
        ('dtype=bfloat16', 'bf16['),
        ('model_name=ViT-Ti_16', 'f32[192]'),
        # Parameters are split over four devices, and gathered where they are used.
        ('sharding.fsdp=4', ' all-gather('),
    ],
)
def test_every_key_decides_what_runs(setting, program, monkeypatch, tmp_path):
    texts = []
    taken = inference_time.memory.MemoryUse.of

    def spied(compiled):
        texts.append(compiled.as_text())
        return taken(compiled)

    monkeypatch.setattr(inference_time.memory.MemoryUse, 'of', spied)
    command = ['main', '--config=inference_time.py:testing', '--config.steps=1']
    tiny = [a for a in TINY[1:] if setting.partition('=')[0] not in a]
    for name, more in ('without', []), ('with', [f'--config.{setting}']):
        arguments = [*command, *(tiny if more else TINY[1:]), *more]
        assert main.main([*arguments, f'--workdir={tmp_path / name}']) == 0
    assert program not in texts[0]
    assert program in texts[1]


def test_the_recipes_defaults():
    config = recipe_lib.load_recipe('inference_time.py')
    assert config_lib.flatten(config) == {
        **{'trainer': 'inference_time', 'model_name': 'ViT-B_32'},
        # The original's; batch, image_size and num_classes had none there.
        **{'initial_steps': 10, 'steps': 30},
        **{'batch': 64, 'image_size': 224, 'num_classes': 1000},
        **{'dtype': 'float32', 'sharding.fsdp': 1},
    }
    inference_time.check(config, num_devices=8)
    assert recipe_lib.load_recipe('inference_time.py:b16').model_name == 'b16'


@pytest.mark.parametrize(
    ('arguments', 'parts'),
    [
        (['batch=12'], ['config.batch is 12', '8 devices', 'multiple of 8']),
        (['batch=0'], ['config.batch is 0', 'at least 1']),
        (['steps=0'], ['config.steps is 0', 'at least 1']),
        (['initial_steps=-1'], ['config.initial_steps is -1', 'at least 0']),
        (['num_classes=0'], ['config.num_classes is 0', 'at least 1']),
        (['image_size=3'], ['3', 'patch']),
        (['sharding.fsdp=3'], ['config.sharding.fsdp is 3', 'one of 1, 2, 4, 8.']),
        (['sharding.fsdp=0'], ['config.sharding.fsdp is 0', 'at least 1']),
        (['dtype=bfloat61'], ["'bfloat61'", 'Did you mean bfloat16']),
        (['model_name=ViT-B_61'], ['ViT-B_61', 'ViT-B_16']),
        (['total_steps=3'], ['config.total_steps', 'Did you mean', 'steps']),
        (
            ['trainer=inference-time'],
            ["'inference-time'", 'Did you mean inference_tim'],
        ),
        (['trainer=nope'], ["'nope'", 'train, inference_time']),
        # The recipe of a measurement has not what training needs, nor the other way.
        (['trainer=train'], ["'train'", 'no key', 'base_lr', 'default()']),
    ],
)
def test_settings_that_cannot_be(arguments, parts, tmp_path, capsys):
    settings = [f'--config.{argument}' for argument in arguments]
    assert run(tmp_path / 'run', *settings) == 2
    message = capsys.readouterr().err
    message = message[message.index('vit_jax: ') :]
    for part in parts:
        assert part in message
    assert 'Traceback' not in message
    assert not (tmp_path / 'run').exists()


def test_the_recipe_of_training_cannot_be_measured(tmp_path, capsys):
    command = ['main', '--config=quickstart.py', f'--workdir={tmp_path / "run"}']
    assert main.main([*command, '--config.trainer=inference_time']) == 2
    message = capsys.readouterr().err
    assert 'no model_name, image_size, num_classes, steps, initial_steps' in message
    assert '--config=configs/inference_time.py' in message


def test_there_is_no_dry_run_of_a_measurement(tmp_path, capsys):
    assert run(tmp_path / 'run', '--dry_run') == 2
    assert '--dry_run says what training would take' in capsys.readouterr().err


def test_another_measurement_replaces_the_first(tmp_path):
    assert run(tmp_path) == 0
    assert run(tmp_path, '--config.batch=8', '--config.steps=2') == 0
    assert len(run_record.read(tmp_path / 'metrics.jsonl')) == 2
    assert len(list(tmp_path.glob('events.out.tfevents.*'))) == 1
    found = record(tmp_path)
    assert [row['batch'] for row in found['results']] == [8]
    assert len(found['starts']) == 1


def test_training_and_measuring_do_not_overwrite_each_other(tmp_path, photos, capsys):
    recipe = processes.write_recipe(tmp_path / 'tiny.py', photos)
    trained, measured = tmp_path / 'trained', tmp_path / 'measured'
    train = ['main', f'--config={recipe}']
    assert main.main([*train, f'--workdir={trained}']) == 0
    before = (trained / 'run.json').read_bytes()
    assert run(trained) == 2
    assert "a run of the trainer 'train'" in capsys.readouterr().err
    assert (trained / 'run.json').read_bytes() == before

    assert run(measured) == 0
    before = (measured / 'run.json').read_bytes()
    assert main.main([*train, f'--workdir={measured}']) == 2
    message = capsys.readouterr().err
    assert "config.trainer: 'inference_time' there, 'train' now" in message
    assert (measured / 'run.json').read_bytes() == before


def test_a_device_that_is_out_of_memory(tmp_path, monkeypatch, capsys):
    import jax

    def compiled(*_):
        def infer():
            raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')

        return infer, {}

    monkeypatch.setattr(inference_time, '_compiled', compiled)
    assert run(tmp_path) == 2
    message = capsys.readouterr().err
    for part in ('batch=16', 'Lower --config.batch', 'sharding.fsdp=1 of 8 devices'):
        assert part in message


@pytest.mark.slow
def test_two_hosts_measure_together(tmp_path):
    recipe = processes.ROOT / 'configs/inference_time.py'
    codes = together.finish(f'{recipe}:testing', tmp_path / 'run', *TINY[1:])
    assert codes == [0, 0], together.printed(tmp_path / 'run')
    (row,) = record(tmp_path / 'run')['results']
    assert (row['devices'], row['batch']) == (8, 16)
    assert len(run_record.read(tmp_path / 'run/metrics.jsonl')) == 5
