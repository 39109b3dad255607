"""python -m vit_jax.export, and the script that runs what it writes."""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.export
import numpy as np
import pytest
from PIL import Image

from vit_jax import checkpoint
from vit_jax.checkpoint import ModelCard
from vit_jax.data.images import decoding, ops
from vit_jax.export import __main__ as export
from vit_jax.export import onnx as onnx_lib
from vit_jax.export import options, preprocessing

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / 'scripts/run_exported.py'
IMAGE_SIZE = (12, 20)
# XLA:CPU before this version lays out constants in its own way where they multiply a
# vector: one image alone, weights inside.
EXACT_ALONE = jax.__version_info__ >= (0, 10, 2)
VIT = {
    'model_name': 'tiny',
    'patches': {'size': (4, 4)},
    'hidden_size': 12,
    'transformer': {'num_layers': 2, 'num_heads': 3, 'mlp_dim': 20},
    'classifier': 'token',
}
MIXER = {
    'model_name': 'tiny mixer',
    'patches': {'size': (4, 4)},
    'num_blocks': 2,
    'hidden_dim': 8,
    'tokens_mlp_dim': 9,
    'channels_mlp_dim': 16,
}
HYBRID = {
    **VIT,
    'patches': {'size': (1, 1)},
    'resnet': {'num_layers': (1,), 'width_factor': 0.5},
}

# What the script may import: jax, flatbuffers, and what jax itself needs.
ENOUGH = ('jax', 'jaxlib', 'flatbuffers', 'numpy', 'scipy', 'ml_dtypes', 'opt_einsum')


@pytest.fixture
def run_alone(tmp_path):
    """Returns a function that runs the script where nothing else is installed."""

    def run(*arguments, extra=()):
        folder = tmp_path / f'packages{len(extra)}'
        if not folder.exists():
            folder.mkdir()
            for name in (*ENOUGH, *extra):
                (place,) = importlib.util.find_spec(name).submodule_search_locations
                # Shared libraries lie beside a package: numpy.libs, pillow.libs.
                library = {'PIL': 'pillow'}.get(name, name)
                for path in (place, f'{pathlib.Path(place).parent / library}.libs'):
                    if os.path.isdir(path):
                        (folder / pathlib.Path(path).name).symlink_to(path)
        code = (
            'import importlib.util, runpy, sys\n'
            'sys.path.insert(0, sys.argv[1])\n'
            'assert not importlib.util.find_spec("flax")\n'
            'assert not importlib.util.find_spec("vit_jax")\n'
            'sys.argv = sys.argv[2:]\n'
            'runpy.run_path(sys.argv[0], run_name="__main__")\n'
        )
        # Isolated (-I), and without the packages of this Python (-S).
        return subprocess.run(
            [sys.executable, '-I', '-S', '-W', 'error', '-c', code, folder, SCRIPT,
             *map(str, arguments)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


def command(*arguments):
    return export.main([str(argument) for argument in arguments])


def alone(*arguments):
    """Exports the model itself, for images that are normalized already."""
    return command(*arguments, '--preprocessing', 'none')


def save(folder, config=VIT, *, num_classes=4, channels=3, **card):
    """Writes a tiny model and its card; returns the folder."""
    from vit_jax import models

    model = models.from_config(config, num_classes=num_classes)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images(1, channels))
    rng = np.random.default_rng(7)
    params = jax.tree.map(
        lambda s: rng.normal(0, 0.5, s.shape).astype('f'), shapes['params']
    )
    folder.mkdir()
    checkpoint.save(folder / 'model.npz', params)
    names = ['cat', 'dog', 'eel', 'fox'][:num_classes] or None
    ModelCard(config, num_classes, IMAGE_SIZE, names, **card).save(
        folder / 'model.json'
    )
    return folder


@pytest.fixture
def model_dir(tmp_path):
    return save(tmp_path / 'run')


def images(n=3, channels=3, dtype='float32'):
    shape = (n, *IMAGE_SIZE, channels)
    rng = np.random.default_rng(n)
    if dtype == 'uint8':
        return rng.integers(0, 256, shape, np.uint8)
    return rng.normal(size=shape).astype('f')


def read(folder) -> jax.export.Exported:
    return jax.export.deserialize(bytearray((folder / 'model.stablehlo').read_bytes()))


def answers(reference, x, dtype='float32') -> np.ndarray:
    """Returns what the model itself computes."""
    model, params, _ = checkpoint.load_model(reference, dtype=dtype)
    return np.asarray(jax.jit(model.apply)({'params': params}, x))


@pytest.mark.parametrize(
    ('config', 'dtype'),
    [
        (VIT, 'float32'),
        (VIT, 'bfloat16'),
        ({**VIT, 'classifier': 'gap', 'representation_size': 7}, 'float32'),
        ({**VIT, 'classifier': 'token_unpooled', 'gelu': 'exact'}, 'float32'),
        (HYBRID, 'float32'),
        (HYBRID, 'bfloat16'),
        (MIXER, 'float32'),
    ],
)
def test_any_batch_to_the_bit(config, dtype, tmp_path):
    reference = save(tmp_path / 'run', config)
    results = []
    for weights in ('inside', 'beside'):
        out = tmp_path / weights
        assert alone(reference, out, '--weights', weights, '--dtype', dtype) == 0
        exported = read(out)
        assert exported.platforms == ('cpu', 'cuda', 'tpu')
        # Portable: nothing of one platform's libraries.
        calls = set(re.findall(r'custom_call @(\w+)', exported.mlir_module()))
        assert calls == {'shape_assertion'}
        before = ()
        if weights == 'beside':
            with checkpoint.open(reference) as held:
                before = (dict(held),)
        for n in (1, 3):
            found = jax.jit(exported.call)(*before, images(n))
            assert list(found) == ['logits']
            results.append(np.asarray(found['logits']))
            wanted = answers(reference, images(n), dtype)
            if n > 1 or weights == 'beside' or EXACT_ALONE:
                np.testing.assert_array_equal(results[-1], wanted)
            else:
                bound = 1e-2 if dtype == 'bfloat16' else 1e-5
                np.testing.assert_allclose(results[-1], wanted, atol=bound)
            assert len(wanted) == n
    assert np.ptp(results[0]) > 0.01


def test_the_run_dtype_is_kept(tmp_path):
    reference = save(tmp_path / 'run', source={'dtype': 'bfloat16'})
    assert alone(reference, tmp_path / 'out') == 0
    found = read(tmp_path / 'out').call(images())['logits']
    assert (
        np.asarray(found).tobytes()
        == answers(reference, images(), 'bfloat16').tobytes()
    )


@pytest.mark.parametrize(
    ('channels', 'mean', 'std'),
    [(3, 127.5, 127.5), (3, (120.3, 118, 103.53), (58.4, 57.12, 57.375)), (1, 10, 3)],
)
def test_normalization_to_the_bit(channels, mean, std, tmp_path):
    reference = save(tmp_path / 'run', channels=channels, mean=mean, std=std)
    out = tmp_path / 'out'
    assert command(reference, out, '--preprocessing', 'normalize') == 0
    pixels = images(5, channels, 'uint8')
    found = jax.jit(read(out).call)(pixels)['logits']
    wanted = answers(reference, ops.ValueRange(mean, std)(pixels))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize('shorter', [None, 20, 33])
@pytest.mark.parametrize(
    'old',
    [(24, 40), (12, 20), (6, 10), (1, 1), (77, 50), (301, 400), (2, 3001), (9000, 31)],
)
def test_resize_is_that_of_evaluation(old, shorter):
    x = np.random.default_rng(0).integers(0, 256, (*old, 3), np.uint8)
    if shorter is None:
        wanted = ops.Resize(IMAGE_SIZE)(x.astype('f'))
    else:
        wanted = ops.ResizeShorter(shorter)(x.astype('f'))
        wanted = ops.CentreCrop(IMAGE_SIZE)(wanted)
    resize = jax.jit(preprocessing.resize, static_argnums=(1, 2))
    found = resize(x[None], IMAGE_SIZE, shorter)[0]
    # Of 255: OpenCV rounds the positions too, more with other instruction sets.
    np.testing.assert_allclose(found, wanted, rtol=0, atol=0.05)
    assert np.abs(found - wanted).mean() < 0.005
    if sys.platform == 'linux' and os.uname().machine == 'x86_64':
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize('shorter', [None, 20, 31])
def test_photos_of_any_size_as_predicted(shorter, photos, tmp_path):
    from vit_jax import data
    from vit_jax.inference.predictor import Predictor

    reference = save(tmp_path / 'run', resize=shorter)
    out = tmp_path / 'out'
    arguments = ['--output', 'probabilities', '--output', 'pre_logits/features']
    assert command(reference, out, '--preprocessing', 'resize', *arguments) == 0
    exported = read(out)
    assert [str(n) for n in exported.in_avals[0].shape] == ['b', 'h', 'w', '3']
    source = data.open_dataset(str(photos)).source('test')
    names = ['probabilities', 'pre_logits/features']
    wanted = next(Predictor.load(reference).outputs(source, names))
    pixels = np.stack([decoding.pixels(source[i]['image']) for i in range(len(source))])
    found = jax.jit(exported.call)(pixels)
    assert sorted(found) == sorted(names)
    for name in names:
        np.testing.assert_allclose(found[name], wanted[name], atol=2e-5)


def test_a_crop_larger_than_the_resize(tmp_path, capsys):
    reference = save(tmp_path / 'run', resize=19)
    assert command(reference, tmp_path / 'o', '--preprocessing', 'resize') == 2
    assert 'resizes to 19 pixels' in capsys.readouterr().err
    assert command(reference, tmp_path / 'o') == 0
    card = json.loads((tmp_path / 'o' / 'model.json').read_text())
    assert card['source']['export']['preprocessing'] == 'normalize'


@pytest.mark.parametrize('weights', ['inside', 'beside'])
def test_the_script_with_nothing_but_jax(model_dir, weights, tmp_path, run_alone):
    out = tmp_path / 'exported'
    subprocess.run(
        [sys.executable, '-W', 'error', '-m', 'vit_jax.export', model_dir, out,
         '--weights', weights, '--output', 'logits', '--output', 'probabilities',
         '--preprocessing', 'none'],
        check=True,
    )  # fmt: skip
    np.save(tmp_path / 'x.npy', images(11))
    done = run_alone(out, tmp_path / 'x.npy', '--out', tmp_path / 'y.npz', '--top_k', 2)
    assert done.returncode == 0, done.stderr
    wanted = answers(model_dir, images(11))
    with np.load(tmp_path / 'y.npz') as found:
        np.testing.assert_array_equal(found['logits'], wanted)
        best = found['probabilities'].argmax(-1)
        odds = found['probabilities'].max(-1)
    lines = [line.split('\t') for line in done.stdout.splitlines()]
    assert len(lines) == 11
    names = ['cat', 'dog', 'eel', 'fox']
    for i, (name, first, second) in enumerate(lines):
        assert name == f'{tmp_path}/x.npy[{i}]'
        assert first == f'{names[best[i]]} {odds[i]:.4f}'
        assert float(second.split()[1]) <= float(first.split()[1])


def test_the_script_and_photos(model_dir, tmp_path, run_alone):
    out = tmp_path / 'exported'
    assert command(model_dir, out) == 0
    for i, size in enumerate([(31, 20), (8, 90)]):
        pixels = np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f'{i}.png')
    photos = [tmp_path / '0.png', tmp_path / '1.png']
    done = run_alone(out, *photos, '--out', tmp_path / 'y.npz', extra=['PIL'])
    assert done.returncode == 0, done.stderr
    assert [x.split('\t')[0] for x in done.stdout.splitlines()] == list(
        map(str, photos)
    )
    with np.load(tmp_path / 'y.npz') as found:
        for path, logits in zip(photos, found['logits'], strict=True):
            x = ops.Resize(IMAGE_SIZE)(np.float32(Image.open(path)))
            wanted = answers(model_dir, ops.ValueRange()(x)[None])
            np.testing.assert_allclose(logits, wanted[0], atol=2e-5)
    done = run_alone(out, *photos)
    assert done.returncode == 2
    assert 'photos need Pillow' in done.stderr


def test_what_the_script_refuses(model_dir, tmp_path, run_alone):
    out, x = tmp_path / 'exported', tmp_path / 'x.npy'
    assert alone(model_dir, out, '--platforms', 'tpu') == 0
    np.save(x, images())

    def told(*arguments):
        done = run_alone(*arguments)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        return line

    assert 'exported for tpu; this is cpu' in told(out, x)
    assert 'No such file' in told(tmp_path / 'nothing', x)
    out = tmp_path / 'again'
    assert alone(model_dir, out) == 0
    np.save(x, images(3, 3, 'uint8'))
    assert 'is uint8[3, 12, 20, 3], this export takes float32[b, 12,' in told(out, x)
    np.save(x, images()[0])
    assert 'is float32[12, 20, 3], this export takes' in told(out, x)


def test_the_card_travels_along(model_dir, tmp_path, capsys):
    out = tmp_path / 'out'
    assert command('--checkpoint', model_dir, out, '--preprocessing', 'normalize') == 0
    assert {path.name for path in out.iterdir()} == {'model.json', 'model.stablehlo'}
    before, card = ModelCard.load(model_dir / 'model.json'), ModelCard.load(
        out / 'model.json'
    )  # fmt: skip
    assert card.class_names == ['cat', 'dog', 'eel', 'fox']
    told = card.source.pop('export')
    assert card == before
    assert told['input'] == {
        'name': 'images', 'shape': ['b', *IMAGE_SIZE, 3], 'dtype': 'uint8'
    }  # fmt: skip
    assert told['outputs'] == {'logits': {'shape': ['b', 4], 'dtype': 'float32'}}
    lines = capsys.readouterr().out.splitlines()
    assert 'images: uint8 (b, 12, 20, 3), already resized, pixels 0 to 255' in lines[2]
    assert lines[3:] == [
        'logits: float32 (b, 4)',
        'computed in float32; weights: inside',
        'platforms: cpu, cuda, tpu',
    ]


def test_weights_that_are_too_large_for_inside(
    model_dir, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(options, 'MAX_INSIDE', 1000)
    assert alone(model_dir, tmp_path / 'out') == 0
    assert (tmp_path / 'out/model.safetensors').exists()
    size = (tmp_path / 'out/model.stablehlo').stat().st_size
    assert alone(model_dir, tmp_path / 'in', '--weights', 'inside') == 2
    assert 'do not fit inside' in capsys.readouterr().err
    monkeypatch.undo()
    assert alone(model_dir, tmp_path / 'in') == 0
    assert not (tmp_path / 'in/model.safetensors').exists()
    assert (tmp_path / 'in/model.stablehlo').stat().st_size > size


def test_the_weights_beside_are_read_by_the_format_s_own_library(model_dir, tmp_path):
    safetensors = pytest.importorskip('safetensors.numpy')
    assert alone(model_dir, tmp_path / 'out', '--weights', 'beside') == 0
    arrays = safetensors.load_file(tmp_path / 'out/model.safetensors')
    with checkpoint.open(model_dir) as wanted:
        assert {n: x.tobytes() for n, x in arrays.items()} == {
            n: x.tobytes() for n, x in wanted.items()
        }


def test_a_model_without_head(tmp_path, run_alone):
    reference = save(tmp_path / 'run', num_classes=0)
    assert alone(reference, tmp_path / 'out') == 0
    found = read(tmp_path / 'out').call(images())
    assert list(found) == ['pre_logits/features']
    wanted = answers(reference, images())
    np.testing.assert_array_equal(found['pre_logits/features'], wanted)
    np.save(tmp_path / 'x.npy', images())
    done = run_alone(tmp_path / 'out', tmp_path / 'x.npy', '--out', tmp_path / 'y.npz')
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / 'y.npz') as arrays:
        np.testing.assert_array_equal(arrays['pre_logits/features'], wanted)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'no model is named'),
        (['{run}'], 'expected one folder to be made'),
        (['{run}', '{run}'], r'run exists: remove it, or name'),
        (['{run}', '{out}', '{out}2'], 'expected one folder'),
        (['{out}.npz', '{out}'], r'There is no .*out\.npz'),
        (['{broken}', '{out}'], r'broken\.npz'),
        (
            ['{run}', '{out}', '--platforms', 'cpu,tpuu'],
            "platform 'tpuu'. Did you mean",
        ),
        (['{run}', '{out}', '--platforms', 'gpu,cuda'], 'expected each once'),
        (['{run}', '{out}', '--platforms', ''], 'expected each once'),
        (['{run}', '{out}', '--output', 'logit'], 'Did you mean logits'),
        (['{run}', '{out}', '--dtype', 'float31'], 'Did you mean float32'),
        (['{run}', '{run}/model.npz/x'], 'Not a directory|exists'),
    ],
)
def test_user_errors(model_dir, tmp_path, arguments, message, capsys):
    (tmp_path / 'broken.npz').write_bytes(b'PK\3\4 and no more')
    names = {n: tmp_path / n for n in ('run', 'out')}
    names['broken'] = tmp_path / 'broken.npz'
    before = sorted(tmp_path.rglob('*'))
    assert command(*(a.format(**names) for a in arguments)) == 2
    told = capsys.readouterr()
    assert told.err.startswith('export: ')
    assert re.search(message, told.err), told.err
    assert not told.out
    assert sorted(tmp_path.rglob('*')) == before


def test_gpu_is_cuda(model_dir, tmp_path):
    assert alone(model_dir, tmp_path / 'out', '--platforms', 'gpu, cpu') == 0
    assert read(tmp_path / 'out').platforms == ('cuda', 'cpu')


@pytest.mark.skipif(sys.platform != 'linux', reason='limits are those of Linux')
@pytest.mark.parametrize('weights', ['inside', 'beside'])
def test_no_space(model_dir, weights, tmp_path):
    limit = 'import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000));'
    done = subprocess.run(
        [sys.executable, '-W', 'error', '-c',
         f'{limit} import sys; from vit_jax.export.__main__ import main; '
         'sys.exit(main())', model_dir, tmp_path / 'out', '--weights', weights],
        capture_output=True, text=True, check=False,
        env={**os.environ, 'JAX_ENABLE_COMPILATION_CACHE': '0'},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith('export: ')
    assert 'File too large' in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ['run']


def test_what_a_killed_export_left_is_replaced(model_dir, tmp_path):
    left = tmp_path / '.out.tmp'
    left.mkdir()
    (left / 'model.safetensors').write_bytes(b'half')
    assert alone(model_dir, tmp_path / 'out') == 0
    assert not left.exists()
    assert not (tmp_path / 'out/model.safetensors').exists()


def test_without_the_libraries(model_dir, tmp_path, monkeypatch, capsys):
    import importlib.util

    find = importlib.util.find_spec
    gone = {'jax2onnx', 'flatbuffers'}
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda n: None if n in gone else find(n)
    )
    assert command(model_dir, tmp_path / 'out') == 2
    assert 'pip install flatbuffers' in capsys.readouterr().err
    assert command(model_dir, tmp_path / 'out', '--to', 'onnx') == 2
    assert "pip install 'vit_jax[onnx]'" in capsys.readouterr().err


@pytest.mark.filterwarnings('default')  # what the converter's libraries speak of
@pytest.mark.parametrize(
    ('config', 'preprocessing', 'weights'),
    [
        (VIT, 'none', 'inside'),
        (VIT, 'normalize', 'beside'),
        ({**VIT, 'gelu': 'exact', 'classifier': 'gap'}, 'none', 'inside'),
        (MIXER, 'auto', 'inside'),
        (HYBRID, 'none', 'inside'),
    ],
)
def test_onnx(config, preprocessing, weights, tmp_path):
    pytest.importorskip('jax2onnx')
    onnxruntime = pytest.importorskip('onnxruntime')
    card = {'mean': (120.3, 118, 103.53), 'std': (58.4, 57.12, 57.375)}
    reference = save(tmp_path / 'run', config, **card)
    out = tmp_path / 'out'
    options = ['--to', 'onnx', '--preprocessing', preprocessing, '--weights', weights]
    options += ['--output', 'probabilities', '--output', 'logits']
    assert command(reference, out, *options) == 0
    told = json.loads((out / 'model.json').read_text())['source']['export']
    assert told['opset'] == onnx_lib.OPSET
    assert {told['file'], 'model.json'} == {path.name for path in out.iterdir()}
    session = onnxruntime.InferenceSession(str(out / 'model.onnx'))
    for n in (1, 3, 8):
        x = images(n, dtype=told['input']['dtype'])
        probabilities, logits = session.run(['probabilities', 'logits'], {'images': x})
        if preprocessing != 'none':
            x = ops.ValueRange(**card)(x)
        wanted = answers(reference, x)
        np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(
            probabilities, jax.nn.softmax(wanted), rtol=1e-5, atol=1e-5
        )


def test_onnx_has_one_dtype_and_no_resize(model_dir, tmp_path, monkeypatch, capsys):
    from vit_jax.runtime import extras

    monkeypatch.setattr(extras, 'require', lambda *_, **__: None)
    for option in (['--dtype', 'bfloat16'], ['--preprocessing', 'resize']):
        assert command(model_dir, tmp_path / 'out', '--to', 'onnx', *option) == 2
        assert 'computes in float32' in capsys.readouterr().err
