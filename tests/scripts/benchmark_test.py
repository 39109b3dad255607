import json
import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / 'scripts/benchmark.py'
TINY = ['--images', '32', '--batch', '16', '--size', '32', '--repeats', '1']


@pytest.mark.parametrize('as_json', [True, False])
def test_input(as_json):
    command = [sys.executable, SCRIPT, 'input', *TINY, '--workers', '0']
    result = subprocess.run(
        command + ['--json'] * as_json,
        capture_output=True,
        text=True,
        check=True,
        env={'PYTHONPATH': ':'.join(sys.path), 'JAX_PLATFORMS': 'cpu'},
    )
    if not as_json:
        assert 'pipeline, threads, against decode + crop + resize' in result.stdout
        return
    report = json.loads(result.stdout)
    assert report['cores'] >= 1
    decode, pipeline = report['rows']
    assert 'Pillow' in decode['name']
    for row in report['rows']:
        assert row['ratio'] > 0.05
        assert row['ratio_range'][0] <= row['ratio'] <= row['ratio_range'][1]
    assert pipeline['rate'] / pipeline['against'] == pytest.approx(pipeline['ratio'])


@pytest.mark.slow
def test_train():
    sizes = ['--model', 'testing', '--size', '32', '--steps', '2']
    repeats = ['--repeats', '2', '--starts', '1']
    result = subprocess.run(
        [sys.executable, SCRIPT, 'train', *sizes, *repeats, '--json'],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, 'PYTHONPATH': ':'.join(sys.path), 'JAX_PLATFORMS': 'cpu'},
    )
    loop, start = json.loads(result.stdout)['rows']
    assert 0 < loop['ratio_range'][0] <= loop['ratio'] <= loop['ratio_range'][1]
    assert 1 < start['seconds'][0] < 120


def test_predict():
    sizes = ['--model', 'testing', '--size', '32', '--images', '20', '--batch', '8']
    result = subprocess.run(
        [sys.executable, SCRIPT, 'predict', *sizes, '--repeats', '2', '--json'],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, 'PYTHONPATH': ':'.join(sys.path), 'JAX_PLATFORMS': 'cpu'},
    )
    predict, reading = json.loads(result.stdout)['rows']
    assert predict['name'] == 'predict against bare testing, batch 8'
    assert 0 < predict['ratio_range'][0] <= predict['ratio']
    assert reading['rate'] > 0
    assert reading['against'] > 0
