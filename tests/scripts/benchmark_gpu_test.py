"""`python scripts/benchmark gpu`, on a CPU with tiny networks."""

import importlib
import io
import json
import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / 'scripts/benchmark'


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, SCRIPT, 'gpu', *map(str, arguments)],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            'PYTHONPATH': ':'.join(sys.path),
            'JAX_PLATFORMS': 'cpu',
            **environment,
        },
        check=False,
    )


@pytest.fixture
def gpu(monkeypatch):
    """Returns the benchmark's module of that name."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return importlib.import_module('benchmark.gpu')


@pytest.mark.slow
def test_every_row(tmp_path):
    out = tmp_path / 'results.jsonl'
    done = run('--cpu-test', '--out', out)
    assert done.returncode == 0, done.stderr
    device, *results = map(json.loads, out.read_text().splitlines())
    assert device['platform'] == 'cpu'
    # What was printed: the machine, the device, and each result.
    lines = done.stdout.splitlines()
    assert len(lines) == 2 + len(results)
    groups = list(dict.fromkeys(result['row'] for result in results))
    assert groups == [
        *('training', 'inference', 'timm', 'plain'),
        *('loop', 'predict', 'float16', 'attention'),
    ]
    for result, line in zip(results, lines[2:], strict=True):
        assert line.startswith(result['name'])
        if result['row'] == 'timm' and 'error' in result:
            assert 'is not installed' in result['error']
            continue
        assert 'skipped' not in result
        assert 'error' not in result, result
        assert result['rate'] > 0
        low, high = result['ratio_range' if 'ratio' in result else 'rate_range']
        assert 0 < low <= high
    first = results[0]
    assert 0 < first['peak_share'] < 1
    assert first['memory_bytes'] > 0
    assert first['cudnn_attention_calls'] == 0
    assert 'aim 4500, first 3300' in lines[2]
    loop = next(result for result in results if result['row'] == 'loop')
    assert 0 <= loop['data_wait'] < 1


def test_networks_need_no_data_libraries(tmp_path):
    """Where only they are missing, what is computed is measured all the same."""
    for name in ('grain', 'tensorflow_datasets', 'simplejpeg', 'tensorboardX'):
        error = f'raise ModuleNotFoundError("No module named {name!r}", name={name!r})'
        (tmp_path / f'{name}.py').write_text(error)
    path = ':'.join([str(tmp_path), *sys.path])
    rows = ['--rows', 'inference', 'loop']
    done = run('--cpu-test', '--json', *rows, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    _, *results = json.loads(done.stdout)['rows']
    computed = [result for result in results if result['row'] == 'inference']
    assert all(result['rate'] > 0 for result in computed)
    for result in results[len(computed) :]:
        assert 'No module named' in result['error']


def test_without_a_gpu():
    done = run()
    assert done.returncode == 2
    assert 'there is no GPU here' in done.stderr
    assert 'Traceback' not in done.stderr


class Clock:
    """Time that passes when a row says so."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


def test_rows_that_do_not_fit_are_skipped(gpu, monkeypatch):
    clock = Clock()
    for module in (gpu, gpu.gpu_run):
        monkeypatch.setattr(module, 'time', clock)

    def row(name, estimate, seconds, error=None):
        def measure(run):
            clock.now += seconds
            if error:
                raise gpu.WorkerError(error)
            yield {'name': name, 'rate': 1.0}

        return gpu.gpu_rows.Row('group', name, measure, estimate)

    rows = [
        row('quick', 60, 60),
        row('broken', 60, 60, 'CUDNN_STATUS: no'),
        row('long', 200, 0),
        row('fits', 20, 20),
    ]
    with gpu.gpu_run.Run(200, 1.0, io.StringIO()) as run:
        quick, broken, long, fits = gpu.measured(run, rows)
    assert quick['seconds'] == 60
    assert broken['error'] == 'CUDNN_STATUS: no'
    assert 'takes about 200 s, 80 s are left' in gpu.text({**long, 'aim': ''})
    assert fits['name'] == 'fits'


def test_a_batch_that_does_not_fit_is_halved(gpu, monkeypatch):
    batches = []

    def call(self, process, name, **settings):
        batches.append(settings['batch'])
        if settings['batch'] > 8:
            raise gpu.WorkerError('XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory')
        return {'batch': settings['batch']}

    monkeypatch.setattr(gpu.gpu_run.Run, 'call', call)
    program = gpu.gpu_run.Program('training', 'testing', 32, 32)
    with gpu.gpu_run.Run(10, 1.0, io.StringIO()) as run:
        assert run.prepare(program) == {'batch': 8}
        assert run.batch(program) == 8
    assert batches == [32, 16, 8]


def test_a_process_that_takes_too_long_is_replaced(gpu):
    from benchmark import worker

    with open(os.devnull, 'w') as log:
        one = worker.Worker('benchmark.torch_process', {'JAX_PLATFORMS': 'cpu'}, log)
        with pytest.raises(worker.WorkerError, match='not done after 0 s'):
            one.call('rate', 0.01, key='', seconds=1)
        assert one.ended
        one = worker.Worker('benchmark.torch_process', {'JAX_PLATFORMS': 'cpu'}, log)
        with pytest.raises(worker.WorkerError, match='KeyError'):
            one.call('rate', 60, key='', seconds=1)
        assert not one.ended
        one.end()
