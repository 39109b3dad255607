"""The run directory: what it records, and which run it holds."""

import json
import logging
import pathlib
import shutil
import sys

import jax
import pytest
from conftest import tiny_config

from vit_jax import data
from vit_jax.files import run_record
from vit_jax.training import metrics
from vit_jax.training.run_directory import RunDirectory


@pytest.fixture
def opened(photos):
    """Returns a function that opens a run directory for a configuration."""
    dataset = data.open_dataset(str(photos))
    sources = {'train': dataset.source('train'), 'test': dataset.source('test[:4]')}

    def open_run(path, *, resume=False, class_names=None, test=None, **settings):
        run = RunDirectory(path)
        chosen = {**sources, 'test': dataset.source(test) if test else sources['test']}
        run.open(
            tiny_config(photos, **settings),
            class_names or dataset.class_names,
            chosen,
            resume=resume,
        )
        return run

    return open_run


def test_what_is_recorded(opened, tmp_path, photos, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['main', '--config=x.py', '--config.batch=8'])
    run = opened(tmp_path / 'new' / 'run')
    assert run.path == tmp_path / 'new' / 'run'
    record = run.record()
    assert set(record) == {'fingerprints', 'starts'}
    assert set(record['fingerprints']) == {'classes', 'train examples', 'test examples'}
    assert all(len(text) == 64 for text in record['fingerprints'].values())
    (start,) = record['starts']
    assert start['command'] == sys.argv
    assert start['versions']['jax'] == jax.__version__
    assert set(start['versions']) >= {'python', 'vit_jax', 'flax', 'optax', 'grain'}
    assert start['devices'] == ['cpu'] * 8
    assert start['processes'] == 1
    assert 'git' in start
    assert run.config() == json.loads(json.dumps(tiny_config(photos).to_dict()))
    assert run.summary() is None
    assert sorted(path.name for path in run.path.iterdir()) == [
        'config.json',
        'run.json',
    ]


def test_relative_paths_stay_where_they_were(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = RunDirectory('runs/a')
    monkeypatch.chdir('/')
    assert run.path == tmp_path / 'runs' / 'a'
    assert run.path.is_dir()


def test_every_start_is_noted_and_results_stay(opened, tmp_path):
    run = opened(tmp_path)
    run.finish([{'accuracy': 0.5}], {'test_accuracy': 0.5})
    assert RunDirectory(tmp_path).summary() == {'test_accuracy': 0.5}
    assert run.record()['results'] == [{'accuracy': 0.5}]
    opened(tmp_path, resume=True)
    record = run.record()
    assert len(record['starts']) == 2
    assert record['summary'] == {'test_accuracy': 0.5}


def test_a_run_that_saved_nothing_is_replaced(opened, tmp_path):
    opened(tmp_path)
    run = opened(tmp_path, batch=16, total_steps=7)
    assert run.config()['batch'] == 16
    assert len(run.record()['starts']) == 1
    run.finish([], {'step': 7})  # complete: there is something to lose
    with pytest.raises(ValueError, match='batch: 16 there, 8 now'):
        opened(tmp_path)


def test_how_it_is_computed_may_change(opened, tmp_path):
    opened(tmp_path)
    how = {'num_workers': 3, 'checkpoint_every': 9, 'scan_layers': True, 'prefetch': 5}
    run = opened(tmp_path, resume=True, **how, **{'sharding.fsdp': 2})
    assert run.config()['num_workers'] == 3


def test_a_run_from_before_a_key_existed_goes_on(opened, tmp_path):
    """It was made with what is the default of the key now."""
    opened(tmp_path)
    path = tmp_path / 'config.json'
    config = json.loads(path.read_text())
    for key in ('layer_decay', 'frozen'):
        del config[key]
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r'layer_decay: 1\.0 there, 0\.5 now'):
        opened(tmp_path, resume=True, layer_decay=0.5)
    opened(tmp_path, resume=True)


def test_a_run_that_knew_a_key_that_is_gone_goes_on(opened, tmp_path):
    """Unless the key had another effect on the numbers than there is now."""
    opened(tmp_path)
    path = tmp_path / 'config.json'
    config = json.loads(path.read_text())
    config['cache'] |= {'on_device': False, 'device_mb': 77}
    config['pp']['scaled_decoding'] = False
    path.write_text(json.dumps(config))
    opened(tmp_path, resume=True)
    config['pp']['scaled_decoding'] = True
    path.write_text(json.dumps(config))
    message = (
        r'scaled_decoding: True there, .* no such key any more: use --config\.cache'
    )
    with pytest.raises(ValueError, match=message):
        opened(tmp_path, resume=True)


def test_all_differences_are_listed_with_both_values_and_nothing_is_changed(
    opened, tmp_path
):
    run = opened(tmp_path)
    before = (tmp_path / 'config.json').read_bytes(), run.record()
    with pytest.raises(
        ValueError, match='another configuration or other data'
    ) as error:
        opened(
            tmp_path,
            resume=True,
            class_names=('cat', 'dog', 'fox'),
            base_lr=0.5,
            num_threads=9,
            **{'pp.crop': 32, 'model.transformer.num_layers': 3},
        )
    first, *lines, last = str(error.value).splitlines()
    assert str(tmp_path) in first
    keys = [line.split(':')[0].strip() for line in lines]
    assert keys == [
        'config.base_lr',
        'config.model.transformer.num_layers',
        'config.pp.crop',
        'fingerprint of classes',
    ]
    assert lines[0].strip() == 'config.base_lr: 0.03 there, 0.5 now'
    known = before[1]['fingerprints']
    assert f'{known["classes"]} there' in lines[3]
    assert '--workdir' in last
    assert ((tmp_path / 'config.json').read_bytes(), run.record()) == before


def test_a_disk_without_room_is_told_before_anything_is_written(
    opened, tmp_path, monkeypatch
):
    run = opened(tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
    run.require_room(1000)
    with pytest.raises(ValueError, match=r'up to 9.77 KiB in .*, where 1,000 B are'):
        run.require_room(10_000)


def test_the_pretrained_file_is_known_by_its_content(opened, tmp_path):
    file = tmp_path / 'a.npz'
    file.write_bytes(b'weights')
    run = tmp_path / 'run'
    opened(run, pretrained=str(file))
    # Elsewhere, or gone, it does not matter; other content does.
    moved = file.rename(tmp_path / 'b.npz')
    opened(run, resume=True, pretrained=str(moved))
    moved.unlink()
    opened(run, resume=True, pretrained=str(moved))
    moved.write_bytes(b'WEIGHTS')
    with pytest.raises(ValueError, match='fingerprint of pretrained file'):
        opened(run, resume=True, pretrained=str(moved))
    with pytest.raises(ValueError, match=r'c\.npz'):
        opened(tmp_path / 'other', pretrained=str(tmp_path / 'c.npz'))


def test_where_no_run_can_be(tmp_path):
    (tmp_path / 'file').write_text('')
    for path in (tmp_path / 'file', tmp_path / 'file' / 'run'):
        with pytest.raises(ValueError, match=r'cannot be written to.*--workdir'):
            RunDirectory(path)
    with pytest.raises(ValueError, match='remote file system'):
        RunDirectory('gs://bucket/run')


def test_the_log_tells_what_ended_the_run(tmp_path):
    run = RunDirectory(tmp_path)
    package = logging.getLogger('vit_jax')
    before = list(package.handlers)

    def fail():
        with run.logging():
            package.info('hello')
            raise KeyError('that')

    with pytest.raises(KeyError):
        fail()
    with run.logging():
        package.info('again')
    assert package.handlers == before
    lines = (tmp_path / 'train.log').read_text().splitlines()
    assert [line.split(' ', 2)[2] for line in lines] == [
        'hello',
        "KeyError: 'that'",
        'again',
    ]


def write_metrics(path, start, steps):
    with metrics.MetricsLog(path, start) as log:
        for step in steps:
            log.write(step, {'loss': step / 2})


def test_metrics_go_on_as_if_nothing_had_happened(tmp_path):
    """A line was half written, and two steps are repeated."""
    write_metrics(tmp_path, 0, range(1, 6))
    lines = tmp_path / 'metrics.jsonl'
    with lines.open('a') as file:
        file.write('{"step": 6, "lo')
    assert [record['step'] for record in run_record.read(lines)] == [1, 2, 3, 4, 5]
    write_metrics(tmp_path, 3, range(4, 8))
    found = [(record['step'], record['loss']) for record in run_record.read(lines)]
    assert found == [(step, step / 2) for step in range(1, 8)]
    assert len(list(tmp_path.glob('events.out.tfevents.*'))) == 1
    assert sorted(path.name.split('.')[0] for path in tmp_path.iterdir()) == [
        'events',
        'metrics',
    ]


def test_metrics_of_a_run_from_the_start_are_new(tmp_path):
    write_metrics(tmp_path, 0, range(1, 6))
    write_metrics(tmp_path, 0, [1])
    assert [r['step'] for r in run_record.read(tmp_path / 'metrics.jsonl')] == [1]
    assert run_record.read(tmp_path / 'nothing.jsonl') == []


@pytest.mark.skipif(not pathlib.Path('/dev/full').exists(), reason='needs /dev/full')
def test_metrics_on_a_full_disk_are_an_error_and_nothing_waits(tmp_path):
    with metrics.MetricsLog(tmp_path) as log:
        log._lines.close()
        log._lines = pathlib.Path('/dev/full').open('w')  # noqa: SIM115
        for step in range(30):
            with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"):
                log.write(step, {'loss': 1.0})
