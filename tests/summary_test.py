"""python -m vit_jax.summary, through the entry point."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from vit_jax import checkpoint, models
from vit_jax.summary import main


@pytest.fixture
def run_dir(tmp_path):
    model = models.get_model('testing', 3)
    params = model.init(jax.random.key(0), jnp.ones((1, 32, 48, 1)), train=False)
    checkpoint.save(tmp_path / 'model.npz', params['params'])
    card = checkpoint.ModelCard(models.get_config('testing'), 3, (32, 48))
    card.save(tmp_path / 'model.json')
    return tmp_path


def output(capsys, *argv: str) -> str:
    assert main(list(argv)) == 0
    return capsys.readouterr().out


def test_a_published_model_as_text():
    done = subprocess.run(
        [sys.executable, '-W', 'error', '-m', 'vit_jax.summary', 'ViT-B_16'],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, '')
    lines = done.stdout.splitlines()
    assert lines[0] == 'ViT-B_16, float32, one image'
    # The number of parameters is the published one.
    assert lines[-1].split()[:3] == ['total', '86,567,656', '35.3']
    assert '12 blocks, each:' in done.stdout
    assert max(map(len, lines)) <= 125


def test_markdown(capsys):
    lines = output(capsys, 'Mixer-S_32', '--format', 'markdown').splitlines()
    assert len({line.count('|') for line in lines}) == 1
    assert set(lines[1]) <= set('|-: ')
    assert len({len(line) for line in lines}) == 1


def test_json_has_every_layer(capsys):
    found = json.loads(output(capsys, 's32', '--format', 'json', '--num_classes', '7'))
    names = [layer['name'] for layer in found['layers']]
    for i in range(12):
        assert f'Transformer/encoderblock_{i}/MlpBlock_0/Dense_0' in names
    assert found['layers'][-1]['output'] == [7]
    assert found['parameters'] == sum(r['parameters'] for r in found['layers'])
    assert found['flops'] == sum(r['flops'] for r in found['layers'])
    assert found['image'] == [224, 224, 3]


def test_all_tells_every_block(capsys):
    text = output(capsys, 's32', '--all')
    assert 'blocks, each' not in text
    assert 'Transformer/encoderblock_11\n' in text


def test_what_a_run_left(run_dir, capsys):
    found = json.loads(output(capsys, str(run_dir), '--format', 'json'))
    assert found['image'] == [32, 48, 1]  # grey
    with checkpoint.open(run_dir) as weights:
        sizes = [weights[name].size for name in weights]
    assert found['parameters'] == sum(sizes)
    same = json.loads(
        output(capsys, '--checkpoint', str(run_dir / 'model.npz'), '--format', 'json')
    )
    assert same == found
    features = output(capsys, str(run_dir), '--num_classes', '0')
    assert 'head' not in [line.split()[0] for line in features.splitlines()[4:-2]]


def test_image_size(capsys):
    found = output(capsys, 'ti16', '--image_size', '32', '64', '--format', 'json')
    layers = {layer['name']: layer for layer in json.loads(found)['layers']}
    assert layers['embedding']['output'] == [2, 4, 192]


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        (['b17'], 'Did you mean b16'),
        ([], 'no model is named'),
        (['b16', '--image_size', '100', '100'], 'nearest sizes'),
        (['b16', '--dtype', 'float8'], 'float8'),
    ],
)
def test_user_errors(argv, message, capsys):
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith('summary: ')
    assert message in error
    assert len(error) < 500
