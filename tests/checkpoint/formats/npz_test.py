"""Reading and writing published-format files, good and bad."""

import builtins
import errno
import io
import pickle
import re
import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from conftest import GOLDEN
from flax import traverse_util

from vit_jax import checkpoint, models
from vit_jax.checkpoint.formats import npz


def flat(tree):
    return traverse_util.flatten_dict(tree, sep='/')


def nest(leaves):
    return traverse_util.unflatten_dict(leaves, sep='/')


@pytest.fixture
def params():
    """A tree with 11 blocks, so that 10 sorts after 9."""
    rng = np.random.default_rng(0)
    tree = {'head': {'bias': rng.normal(size=3).astype('f')}}
    tree['Transformer'] = {
        f'encoderblock_{i}': {'LayerNorm_0': {'scale': np.full(2, i, 'f')}}
        for i in range(11)
    }
    return tree


@pytest.mark.parametrize('name', ['vit_tiny_legacy', 'hybrid_tiny_legacy'])
def test_old_names_are_todays(golden, name):
    arrays = golden(f'{name}.npz')
    params = flat(checkpoint.load(GOLDEN / f'{name}.npz'))
    assert len(params) == sum(key.startswith('params/') for key in arrays)
    blocks = sorted({n.split('/')[1] for n in params if 'encoderblock' in n})
    for block in blocks:
        old, new = (
            {n.removeprefix(p) for n in names if n.startswith(p)}
            for p, names in (
                (f'params/Transformer/{block}/', arrays),
                (f'Transformer/{block}/', params),
            )
        )
        assert {n.split('/')[0] for n in new} == {
            'LayerNorm_0',
            'LayerNorm_1',
            'MlpBlock_0',
            'MultiHeadDotProductAttention_0',
        }
        assert len(old) == len(new)
        np.testing.assert_array_equal(
            params[f'Transformer/{block}/MlpBlock_0/Dense_1/kernel'],
            arrays[f'params/Transformer/{block}/MlpBlock_3/Dense_1/kernel'],
        )


@pytest.mark.parametrize('name', ['vit_token', 'vit_token_rep', 'vit_gap'])
def test_todays_names_stay(golden, name):
    arrays = golden(f'{name}.npz')
    params = flat(checkpoint.load(GOLDEN / f'{name}.npz'))
    expected = {
        key.removeprefix('params/'): value
        for key, value in arrays.items()
        if key.startswith('params/')
    }
    assert params.keys() == expected.keys()
    for key in params:
        np.testing.assert_array_equal(params[key], expected[key])


def test_group_norm_is_squeezed(golden):
    stored = golden('hybrid_tiny_legacy.npz')['params/block1/unit1/gn_proj/scale']
    with checkpoint.open(GOLDEN / 'hybrid_tiny_legacy.npz') as weights:
        assert stored.shape == (1, 1, 1, 128)
        assert weights.shape('block1/unit1/gn_proj/scale') == (128,)
        assert weights['block1/unit1/gn_proj/scale'].shape == (128,)
        assert weights['gn_root/bias'].ndim == 1
        assert weights['conv_root/kernel'].ndim == 4


def test_translation_counts_in_natural_order():
    assert npz.translate(['a/X_10', 'a/X_9', 'a/Y_3', 'b1/z', 'a/X_2/W_7', 'q_z']) == [
        'a/X_2',
        'a/X_1',
        'a/Y_0',
        'b1/z',
        'a/X_0/W_0',
        'q_z',
    ]


def test_numbers_in_names_that_are_no_classes_stay():
    names = ['encoderblock_4/x', 'layer_1/kernel', 'layer_2/kernel']
    assert npz.translate(names) == names


@pytest.mark.parametrize(
    'wrapper', ['', 'params/', 'opt/target/', 'target/', 'opt/target/params/']
)
def test_wrappers_are_stripped(tmp_path, params, wrapper):
    slots = {}
    if wrapper:
        slots = {'opt/state/param_states/head/bias/momentum': np.zeros(3), 'step': 4}
    stored = {f'{wrapper}{name}': array for name, array in flat(params).items()}
    np.savez(tmp_path / 'a.npz', **stored, **slots)
    loaded = checkpoint.load(tmp_path / 'a.npz')
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_arrays_are_read_when_asked_for(tmp_path, params, monkeypatch):
    np.savez(tmp_path / 'a.npz', **flat(params))
    reads = []
    original = np.lib.format.read_array
    monkeypatch.setattr(
        np.lib.format,
        'read_array',
        lambda *args, **kwargs: reads.append(1) or original(*args, **kwargs),
    )
    with checkpoint.open(tmp_path / 'a.npz') as weights:
        assert 'head/bias' in weights
        assert 'head/nothing' not in weights
        assert len(weights) == len(list(weights)) == 12
        assert weights.shape('head/bias') == (3,)
        assert weights.dtype('head/bias') == np.float32
        assert not reads
        weights['head/bias']
        assert len(reads) == 1
        with pytest.raises(KeyError):
            weights['head/nothing']


def test_bfloat16_stored_as_raw_bytes(tmp_path):
    values = np.array([[1.5, -2], [3, 0.125]], ml_dtypes.bfloat16)
    np.savez(tmp_path / 'a.npz', kernel=values.view('V2'))
    with checkpoint.open(tmp_path / 'a.npz') as weights:
        assert weights.dtype('kernel') == weights['kernel'].dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(weights['kernel'], values)


def test_foreign_byte_and_memory_order(tmp_path):
    values = np.arange(6.0).reshape(2, 3)
    np.savez_compressed(
        tmp_path / 'a.npz', big=values.astype('>f4'), fortran=np.asfortranarray(values)
    )
    loaded = checkpoint.load(tmp_path / 'a.npz')
    assert loaded['big'].dtype == np.dtype('=f4')
    np.testing.assert_array_equal(loaded['big'], values)
    np.testing.assert_array_equal(loaded['fortran'], values)


def test_round_trip_is_exact(tmp_path, params):
    params['half'] = np.array([1.5, 2], ml_dtypes.bfloat16)
    params['scalar'] = np.float32(3)
    params['count'] = np.arange(4)
    params['pre_logits'] = {}  # has no arrays, so it leaves no trace
    path = tmp_path / 'new folder' / 'model.npz'
    checkpoint.save(path, params)
    loaded = checkpoint.load(path)
    del params['pre_logits']
    assert flat(loaded).keys() == flat(params).keys()
    for name, array in flat(loaded).items():
        assert array.dtype == flat(params)[name].dtype
        np.testing.assert_array_equal(array, flat(params)[name])
    assert [p.name for p in path.parent.iterdir()] == ['model.npz']


def test_numpy_reads_what_is_saved(tmp_path, params):
    checkpoint.save(tmp_path / 'a.npz', params)
    with np.load(tmp_path / 'a.npz', allow_pickle=False) as arrays:
        assert set(arrays) == set(flat(params))
        np.testing.assert_array_equal(arrays['head/bias'], params['head']['bias'])


def test_bytes_do_not_depend_on_order_or_time(tmp_path, params, monkeypatch):
    checkpoint.save(tmp_path / 'a.npz', params)
    monkeypatch.setattr('time.time', lambda: 1e9)
    backwards = nest(dict(reversed(flat(params).items())))
    checkpoint.save(tmp_path / 'b.npz', backwards)
    assert (tmp_path / 'a.npz').read_bytes() == (tmp_path / 'b.npz').read_bytes()


def test_stacked_and_sharded_arrays_are_saved_as_published(tmp_path, params):
    checkpoint.save(tmp_path / 'a.npz', params)
    stacked = models.stack(params)
    assert 'encoderblock' in stacked['Transformer']
    mesh = jax.make_mesh((2,), ('x',), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec(None, 'x')
    scale = stacked['Transformer']['encoderblock']['LayerNorm_0']
    scale['scale'] = jax.device_put(
        scale['scale'], jax.sharding.NamedSharding(mesh, spec)
    )
    stacked['head']['bias'] = jnp.asarray(stacked['head']['bias'])
    checkpoint.save(tmp_path / 'b.npz', stacked)
    assert (tmp_path / 'a.npz').read_bytes() == (tmp_path / 'b.npz').read_bytes()


def test_disk_full_while_saving_keeps_the_old_file(tmp_path, params, monkeypatch):
    path = tmp_path / 'model.npz'
    checkpoint.save(path, params)
    before = path.read_bytes()

    class Full(io.FileIO):
        written = 0

        def write(self, data):
            self.written += len(data)
            if self.written > 500:
                raise OSError(errno.ENOSPC, 'No space left on device')
            return super().write(data)

    monkeypatch.setattr(
        'pathlib.Path.open', lambda self, mode: Full(self, mode.replace('b', ''))
    )
    params['head']['bias'] = np.ones(3000, 'f')
    with pytest.raises(OSError, match=r'No space left.*model\.npz') as e:
        checkpoint.save(path, params)
    assert e.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ['model.npz']


def test_failure_between_arrays_keeps_the_old_file(tmp_path, params):
    path = tmp_path / 'model.npz'
    checkpoint.save(path, params)
    before = path.read_bytes()
    params['zz'] = np.array(['text'])
    with pytest.raises(ValueError, match='zz has dtype <U4, expected an array of num'):
        checkpoint.save(path, params)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ['model.npz']


def test_saving_nothing_or_to_a_url():
    with pytest.raises(ValueError, match='no parameters'):
        checkpoint.save('x.npz', {'head': {}})
    with pytest.raises(ValueError, match=r'gs://bucket/x\.npz is a URL'):
        checkpoint.save('gs://bucket/x.npz', {'a': np.ones(1)})


def test_truncated_at_any_place(tmp_path, params):
    checkpoint.save(tmp_path / 'a.npz', params)
    whole = (tmp_path / 'a.npz').read_bytes()
    broken = tmp_path / 'b.npz'
    for size in [*range(4, len(whole), 251), len(whole) - 1]:
        broken.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r'b\.npz .*truncated or damaged'):
            checkpoint.load(broken)


def test_flipped_bit_in_the_data(tmp_path, params):
    path = tmp_path / 'a.npz'
    params['head']['bias'] = np.arange(
        1, 5000, dtype='f'
    )  # more than a zip reads ahead
    checkpoint.save(path, params)
    data = bytearray(path.read_bytes())
    at = data.find(params['head']['bias'].tobytes())
    data[at + 10000] ^= 1
    path.write_bytes(data)
    with checkpoint.open(path) as weights:
        weights['Transformer/encoderblock_3/LayerNorm_0/scale']
        with pytest.raises(ValueError, match=r'a\.npz: head/bias\.npy cannot be read'):
            weights['head/bias']


@pytest.mark.parametrize(
    ('content', 'found'),
    [
        (b'', 'the file is empty'),
        (pickle.dumps({'a': 1}), 'a Python pickle'),
        (b'\n<!DOCTYPE html><html>', 'a web page'),
        (b'\x93NUMPY\x01\x00', r'a single \.npy array'),
        (b'CDF\x01', "starts with b'CDF"),
    ],
)
def test_no_npz(tmp_path, content, found):
    path = tmp_path / 'ViT-B_16.npz'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf'ViT-B_16\.npz is not an \.npz.*{found}'):
        checkpoint.load(path)


def test_missing_file_lists_its_neighbours(tmp_path, params):
    checkpoint.save(tmp_path / 'ViT-B_32.npz', params)
    with pytest.raises(ValueError, match=r'no .*ViT-B_23\.npz\. Did you mean ViT-B_32'):
        checkpoint.load(tmp_path / 'ViT-B_23.npz')


class Unpickled:
    def __reduce__(self):
        return (builtins.exit, (77,))  # what a malicious file could run instead


def test_pickled_objects_are_refused_unopened(tmp_path):
    path = tmp_path / 'a.npz'
    array = np.empty(1, object)
    array[0] = Unpickled()
    np.savez(path, kernel=np.ones(2), evil=array)
    with pytest.raises(ValueError, match=r'a\.npz: evil is a pickled Python object'):
        checkpoint.load(path)
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('evil.npy', pickle.dumps(Unpickled()))
    with pytest.raises(ValueError, match=r'evil\.npy is not an array'):
        checkpoint.load(path)


def test_empty_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / 'a.npz', 'w'):
        pass
    with pytest.raises(ValueError, match=r'a\.npz holds no arrays'):
        checkpoint.load(tmp_path / 'a.npz')


def test_other_zips_and_dtypes(tmp_path):
    path = tmp_path / 'a.npz'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data.pkl', b'\x80')
    with pytest.raises(
        ValueError, match=r"not an .npz of weights: .*'archive/data.pkl"
    ):
        checkpoint.load(path)
    np.savez(path, names=np.array(['a', 'b']))
    with pytest.raises(ValueError, match='names has dtype <U1, expected numbers'):
        checkpoint.load(path)


def header(shape, descr='<f4'):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {'descr': descr, 'fortran_order': False, 'shape': shape}
    )
    return file.getvalue()


@pytest.mark.parametrize('shape', [(10**12,), (3,), (-1,), (2**40, 2**40)])
def test_header_that_does_not_fit_what_is_stored(tmp_path, shape):
    path = tmp_path / 'a.npz'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('kernel.npy', header(shape) + bytes(8))
    with pytest.raises(
        ValueError, match=r'kernel declares shape .* 8 bytes are stored'
    ):
        checkpoint.open(path)


def test_absurd_sizes_in_the_directory(tmp_path):
    path = tmp_path / 'a.npz'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_LZMA) as archive:
        archive.writestr('kernel.npy', header((10**8,)) + bytes(4 * 10**8))
    assert path.stat().st_size < 10**6
    with pytest.raises(ValueError, match='more than 1000:1 are refused'):
        checkpoint.open(path)
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('kernel.npy', header((2,)) + bytes(8))
        archive.infolist()[0].file_size = 65 * 10**9
        archive.infolist()[0].compress_size = 65 * 10**9
    with pytest.raises(ValueError, match='declares 65 GB of arrays'):
        checkpoint.open(path)


def test_compressed_files(tmp_path):
    kernel = np.random.default_rng(0).integers(0, 9, (80, 90)).astype('f')
    np.savez_compressed(tmp_path / 'a.npz', kernel=kernel)
    assert np.array_equal(checkpoint.load(tmp_path / 'a.npz')['kernel'], kernel)
    # Nothing but zeros comes near deflate's limit of 1032:1.
    np.savez_compressed(tmp_path / 'a.npz', kernel=np.zeros((768, 21843), 'f'))
    with pytest.raises(ValueError, match='savez writes without compression'):
        checkpoint.open(tmp_path / 'a.npz')


def test_two_arrays_of_one_name(tmp_path):
    path = tmp_path / 'a.npz'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('kernel.npy', header((2,)) + bytes(8))
        archive.writestr('kernel2.npy', header((2,)) + bytes(8))
        archive.infolist()[1].filename = 'kernel.npy'
    with pytest.raises(ValueError, match="two arrays named 'kernel'"):
        checkpoint.open(path)


def test_name_that_is_array_and_scope(tmp_path):
    np.savez(tmp_path / 'a.npz', **{'head': np.ones(1), 'head/bias': np.ones(1)})
    with pytest.raises(ValueError, match="holds 'head' as an array and as a scope"):
        checkpoint.open(tmp_path / 'a.npz')


def test_random_damage_is_always_a_value_error(tmp_path, params):
    path = tmp_path / 'a.npz'
    rng = np.random.default_rng(0)
    np.savez_compressed(path, **flat(params))
    whole = path.read_bytes()
    array = header((2,)) + bytes(8)
    refused = 0
    for i in range(600):
        if i % 2:  # anywhere in the zip
            data = bytearray(whole)
            data[rng.integers(len(data))] = rng.integers(256)
            path.write_bytes(data)
        else:  # in an array's header, with a checksum that agrees
            data = bytearray(array)
            data[rng.integers(len(data) - 8)] = rng.integers(256)
            with zipfile.ZipFile(path, 'w') as archive:
                archive.writestr('kernel.npy', bytes(data))
        try:
            checkpoint.load(path)
        except ValueError:
            refused += 1
    assert refused > 300


def test_importing_is_light():
    code = (
        'import sys, vit_jax.checkpoint; print(*{m.split(".")[0] for m in sys.modules})'
    )
    loaded = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert 'flax' in loaded
    heavy = {'orbax', 'grain', 'tensorflow', 'tensorflow_datasets', 'torch'}
    assert not heavy & set(loaded), re.sub(r'\s+', ' ', ' '.join(loaded))
