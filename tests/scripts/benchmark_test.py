import importlib
import importlib.util
import itertools
import json
import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / 'scripts/benchmark'
TINY = ['--images', '32', '--batch', '16', '--size', '32', '--repeats', '1']


@pytest.mark.parametrize('as_json', [True, False])
def test_input(as_json):
    rows = ['--workers', '0', '--rows', 'decoder', 'pipeline']
    command = [sys.executable, SCRIPT, 'input', *TINY, *rows]
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
    decode, pipeline, in_part = report['rows']
    assert 'Pillow' in decode['name']
    assert 'as far as the crop' in in_part['name']
    for row in report['rows']:
        assert row['ratio'] > 0.05
        assert row['ratio_range'][0] <= row['ratio'] <= row['ratio_range'][1]
    assert pipeline['rate'] / pipeline['against'] == pytest.approx(pipeline['ratio'])


def test_input_of_kept_images():
    rows = report('input', *TINY, '--rows', 'cache')
    names = ['cache in memory, ag', 'shrunk to 37']
    assert len(rows) == len(names)
    for row, name in zip(rows, names, strict=True):
        assert name in row['name']
        assert 0 < row['ratio_range'][0] <= row['ratio'] <= row['ratio_range'][1]


def test_input_against_tf_data():
    arguments = ['input', *TINY, '--baseline', 'tf.data', '--workers', '0']
    if importlib.util.find_spec('tensorflow'):
        (row,) = report(*arguments)
        assert row['name'] == 'pipeline at 32, threads, against tf.data'
        assert row['against'] > 0
    else:
        done = run(*arguments)
        assert done.returncode == 2
        assert 'TensorFlow is not installed' in done.stderr
        assert '--tensorflow_python' in done.stderr
    done = run(*arguments, '--tensorflow_python', '/no/python')
    assert done.returncode == 2
    assert 'does not start' in done.stderr
    assert 'Traceback' not in done.stderr


SMALL = ['--model', 'testing', '--size', '32', '--batch', '4']


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)],
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


def report(*arguments):
    done = run(*arguments, '--json')
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)['rows']


def test_model_against_the_plain_formulation():
    rows = report('model', *SMALL, '--baseline', 'linen', '--repeats', 2)
    sides = [row for row in rows if 'comparison' not in row]
    assert {(r['name'], r['flags'], r['work']) for r in sides} == set(
        itertools.product(
            ('vit_jax', 'linen'),
            ('default flags', "our step's flags"),
            ('inference', 'training'),
        )
    )
    for row in sides:
        low, high = row['images_per_second_range']
        assert 0 < low <= row['images_per_second'] <= high
        assert 0 < row['peak_share'] < 1
        assert row['memory_bytes'] > 0
        assert row['compile_seconds'] > 0
        # The same parameters, and all flags: the same logits.
        if row['work'] == 'inference':
            assert row['largest_difference'] < 1e-5 < row['largest_logit']
    ratios = [row for row in rows if 'comparison' in row]
    assert len(ratios) == 4
    for row in ratios:
        assert 0 < row['ratio_range'][0] <= row['ratio'] <= row['ratio_range'][1]


def test_model_as_a_table():
    done = run('model', *SMALL, '--work', 'inference', '--repeats', 1, '--scan_layers')
    assert done.returncode == 0, done.stderr
    assert 'matmul peak' in done.stdout
    assert "vit_jax, our step's flags" in done.stdout


@pytest.fixture
def programs(monkeypatch):
    """Returns the benchmark's module of that name."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return importlib.import_module('benchmark.programs')


def test_operations_are_those_of_the_formula(programs):
    import jax

    from vit_jax import models

    for scan in (False, True):
        model = models.get_model('ViT-S_16', num_classes=1000, scan_layers=scan)
        images = jax.ShapeDtypeStruct((2, 224, 224, 3), 'float32')
        shapes = jax.eval_shape(model.init, jax.random.key(0), images)
        jaxpr = jax.make_jaxpr(model.apply)(shapes, images)
        n, d, m = 197, 384, 1536
        macs = 12 * (n * (4 * d * d + 2 * d * m) + 2 * n * n * d)
        macs += 196 * 768 * d + d * 1000
        assert programs.matmul_flops(jaxpr) == 2 * 2 * macs


def test_scaling():
    options = ['--devices', 1, 4, '--fsdp', 1, 4, '--accum_steps', 2, '--scan_layers']
    size = ['--model', 'testing', '--size', 32, '--batch', 8]
    one, data, sharded = report('scaling', *size, *options)
    assert one['collectives'] == {}
    assert [data['devices'], data['fsdp'], sharded['fsdp']] == [4, 1, 4]
    # Gradients once for each part, `skipped` once; nothing is gathered.
    assert set(data['collectives']) == {'all-reduce'}
    assert data['collectives']['all-reduce']['count'] == 3
    assert data['collectives']['all-reduce']['bytes'] > data['state_bytes'] / 2
    assert sharded['argument_bytes'] < data['argument_bytes'] / 2
    assert 'all-gather' in sharded['collectives']


def test_layers_stacked_and_unrolled():
    rows = report('layers', *SMALL, '--layers', 1, 12, '--repeats', 1)
    networks = [row for row in rows if 'ratio' not in row]
    assert {row['name'] for row in networks} == {
        f'{name}, {n} blocks' for name in ('stacked', 'unrolled') for n in (1, 12)
    }
    assert all(row['compile_seconds'] > 0 for row in networks)
    ratios = {row['name']: row['ratio'] for row in rows if 'ratio' in row}
    # Twelve blocks are more work to compile than one, unless they are one.
    assert ratios['compile, stacked to unrolled'] < 1
    assert ratios['step, stacked to unrolled'] > 0


def test_collectives_in_loops_count_as_often_as_they_run(programs):
    hlo = """HloModule jit_f

%body (x: f32[8]) -> f32[8] {
  %a = f32[8]{0} all-reduce(%x), to_apply=%add
  ROOT %b = (bf16[2,4]{1,0}, f32[]) all-gather-start(%a), dimensions={0}
}

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %s = f32[] add(%x, %y)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %w = f32[8] while(%x), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %r = f32[] all-reduce(%w), to_apply=%add
}
"""  # noqa: E501
    assert programs.executed_collectives(hlo) == {
        'all-reduce': {'count': 6, 'bytes': 5 * 32 + 4},
        'all-gather': {'count': 5, 'bytes': 5 * 20},
    }


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['model', '--model', 'Mixer-B_16', '--baseline', 'linen'], 'leave out'),
        (['model', '--model', 'ViT-Z'], 'Unknown model'),
        (['scaling', *SMALL, '--devices', 3], 'fit none of'),
        (['layers', '--model', 'Mixer-B_16'], 'only ViTs'),
    ],
)
def test_user_errors(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert 'Traceback' not in done.stderr


def test_timm_is_asked_for_and_missing():
    if importlib.util.find_spec('timm') and importlib.util.find_spec('torch'):
        rows = report('model', *SMALL, '--baseline', 'timm', '--repeats', 1)
        assert any('timm' in row['name'] for row in rows)
        return
    done = run('model', *SMALL, '--baseline', 'timm')
    assert done.returncode == 2
    assert 'is not installed' in done.stderr


@pytest.mark.slow
def test_train():
    sizes = ['--model', 'testing', '--size', 32, '--steps', 2]
    loop, start = report('train', *sizes, '--repeats', 2, '--starts', 1)
    assert 0 < loop['ratio_range'][0] <= loop['ratio'] <= loop['ratio_range'][1]
    assert 0 <= loop['data_wait'] < 1
    assert 1 < start['seconds'][0] < 120


def test_predict():
    sizes = ['--model', 'testing', '--size', 32, '--images', 20, '--batch', 8]
    predict, reading = report('predict', *sizes, '--repeats', 2)
    assert predict['name'] == 'predict against bare testing, batch 8'
    assert 0 < predict['ratio_range'][0] <= predict['ratio']
    assert reading['rate'] > 0
    assert reading['against'] > 0
