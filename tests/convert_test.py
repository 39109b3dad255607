"""python -m vit_jax.convert, from every format to every other."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import GOLDEN

from vit_jax import checkpoint, convert, models


@pytest.fixture
def npz(tmp_path):
    """An .npz with its card."""
    _, params, card = checkpoint.load_model(GOLDEN / 'hf_vit')
    checkpoint.save(tmp_path / 'model.npz', params)
    card.save(tmp_path / 'model.json')
    return tmp_path / 'model.npz'


def command(*arguments):
    return convert.main([str(argument) for argument in arguments])


def test_round_trip_through_all_formats(npz, tmp_path, capsys):
    steps = [
        (npz, tmp_path / 'hf', ['--to=huggingface']),
        (tmp_path / 'hf', tmp_path / 'timm', ['--to=timm']),
        (tmp_path / 'timm', tmp_path / 'x.safetensors', []),
        (tmp_path / 'x.safetensors', tmp_path / 'y.npz', []),
    ]
    for source, out, options in steps:
        assert command(source, out, *options) == 0
        assert capsys.readouterr().out.strip() == str(out)
    # Bit for bit, and so are the files.
    with checkpoint.open(npz) as first, checkpoint.open(tmp_path / 'y.npz') as last:
        assert {n: x.tobytes() for n, x in first.items()} == {
            n: x.tobytes() for n, x in last.items()
        }
        assert first.card.model['gelu'] == last.card.model['gelu'] == 'exact'
    assert npz.read_bytes() == (tmp_path / 'y.npz').read_bytes()
    original = (GOLDEN / 'hf_vit/model.safetensors').read_bytes()
    assert len(original) < (tmp_path / 'hf/model.safetensors').stat().st_size * 1.1


def test_without_head(npz, tmp_path):
    assert command(npz, tmp_path / 'bare.npz', '--no_head') == 0
    model, params, card = checkpoint.load_model(tmp_path / 'bare.npz')
    assert card.num_classes == 0
    assert 'head' not in params
    assert model.apply({'params': params}, np.zeros((1, 64, 64, 3), 'f')).shape == (
        1,
        24,
    )
    assert command(npz, tmp_path / 'bare', '--to=huggingface', '--no_head') == 0
    config = json.loads((tmp_path / 'bare/config.json').read_text())
    assert config['architectures'] == ['ViTModel']


def test_through_the_entry_point(npz, tmp_path):
    arguments = [sys.executable, '-m', 'vit_jax.convert', npz, tmp_path / 'a.npz']
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f'{tmp_path / "a.npz"}\n')
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f'convert: {tmp_path / "a.npz"} exists; --overwrite')
    assert subprocess.run([*arguments, '--overwrite'], check=False).returncode == 0


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['{npz}', '{tmp}/x'], 'is it for timm or for huggingface'),
        (['{npz}', '{tmp}/x', '--to=npz'], 'expected a name that ends with .npz'),
        (['{npz}', '{tmp}/x.npz', '--to=huggingface'], 'is a folder, not a file'),
        (['{tmp}/nothing.npz', '{tmp}/x.npz'], 'There is no'),
        (['{text}', '{tmp}/x.npz'], 'is not an .npz of weights'),
        (['{mixer}', '{tmp}/x', '--to=huggingface'], 'it is of the family MLP-Mixer'),
        (['{npz}', '{npz}/x.npz'], 'model.npz'),
    ],
)
def test_bad_input(npz, tmp_path, capsys, golden, arguments, message):
    (tmp_path / 'text').write_text('hello')
    arrays = golden('mixer.npz')
    params = {k[7:]: x for k, x in arrays.items() if k.startswith('params/')}
    np.savez(tmp_path / 'mixer.npz', **params)
    places = {'npz': npz, 'tmp': tmp_path, 'text': tmp_path / 'text',
              'mixer': tmp_path / 'mixer.npz'}  # fmt: skip
    before = sorted(p.name for p in tmp_path.iterdir())
    assert command(*(argument.format(**places) for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_repository_from_the_hub_of_before(npz, tmp_path):
    """Names and numbers survive where only the files are copied."""
    assert command(npz, tmp_path / 'hf', '--to=huggingface') == 0
    shutil.copytree(tmp_path / 'hf', tmp_path / 'copy')
    with checkpoint.open(tmp_path / 'copy') as weights, checkpoint.open(npz) as first:
        assert set(weights) == set(first)


MEMORY = """
import json, sys, time
from vit_jax.checkpoint import conversion

def status(key):
    with open('/proc/self/status') as f:
        return next(int(l.split()[1]) * 1024 for l in f if l.startswith(key))

before = status('VmRSS')
with open('/proc/self/clear_refs', 'w') as f:
    f.write('5')  # forget the peak so far
cpu, wall = time.process_time(), time.perf_counter()
conversion.convert(sys.argv[1], sys.argv[2], sys.argv[3])
print(json.dumps({'beyond': status('VmHWM') - before,
                  'cpu': time.process_time() - cpu,
                  'wall': time.perf_counter() - wall}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_vit_l_in_the_memory_of_two_arrays(tmp_path):
    """304 million parameters, from every format to every other."""
    model = models.get_model('ViT-L_16', 1000)
    images = np.zeros((1, 224, 224, 3), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)['params']
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: rng.random(s.shape, np.float32), shapes)
    checkpoint.save(tmp_path / 'ViT-L_16.npz', params)
    largest = max(leaf.nbytes for leaf in jax.tree.leaves(params))
    del params
    # Three arrays of ours are one of timm's: query, key and value.
    bound = 2 * max(largest, 3 * 1024 * 1024 * 4) + 200e6
    for source, out, to in (
        ('ViT-L_16.npz', 'hf', 'huggingface'),
        ('hf', 'timm', 'timm'),
        ('timm', 'back.npz', 'npz'),
    ):
        arguments = [str(tmp_path / source), str(tmp_path / out), to]
        done = subprocess.run(
            [sys.executable, '-c', MEMORY, *arguments],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found = json.loads(done.stdout)
        print(
            f'{source} -> {out}: {found["beyond"] / 1e6:.0f} MB more than before, '
            f'{found["wall"]:.1f} s, of which the processor {found["cpu"]:.1f} s'
        )
        assert found['beyond'] <= bound
    with (
        checkpoint.open(tmp_path / 'ViT-L_16.npz') as first,
        checkpoint.open(tmp_path / 'back.npz') as last,
    ):
        assert set(first) == set(last)
        assert all(np.array_equal(first[name], last[name]) for name in first)
