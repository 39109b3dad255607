"""The safetensors format, against the format's own library."""

import json
import os

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from vit_jax.checkpoint.formats import safetensors

ARRAYS = {
    'b/kernel': np.arange(12, dtype='f').reshape(3, 4),
    'a': np.arange(3, dtype='i8'),
    'half': np.array([1.5, -2.0], np.float16),
    'brain': np.array([[1.5, -2.0, 3.0]], ml_dtypes.bfloat16),
    'flag': np.array([True, False, True]),
    'scalar': np.array(2.5, 'd'),
    'empty': np.zeros((0, 4), 'f'),
}


def arrays(**given):
    return {
        name: safetensors.Array(x.dtype, x.shape, lambda x=x: x)
        for name, x in given.items()
    }


def raw(path, header, data=b''):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, 'little') + text + data)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'x.safetensors'


def test_there_and_back(path):
    safetensors.save(path, arrays(**ARRAYS), {'format': 'pt'})
    entries = safetensors.entries(path)
    assert set(entries) == set(ARRAYS)
    for name, array in ARRAYS.items():
        found = safetensors.read(entries[name])
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert found.tobytes() == array.tobytes()


def test_the_bytes_are_those_of_the_library(path, tmp_path):
    dtypes = {
        'u': 'u1',
        'v': 'i1',
        'w': 'i2',
        'x': 'i4',
        'y': 'f2',
        'z': 'f4',
        'ä': 'd',
    }
    everything = ARRAYS | {name: np.ones(3, dtype) for name, dtype in dtypes.items()}
    safetensors.save(path, arrays(**everything), {'format': 'pt'})
    save_file(everything, tmp_path / 'y.safetensors', {'format': 'pt'})
    assert path.read_bytes() == (tmp_path / 'y.safetensors').read_bytes()


def test_rows(path):
    safetensors.save(path, arrays(**ARRAYS))
    entry = safetensors.entries(path)['b/kernel']
    assert safetensors.read(entry, slice(1, 2)).tolist() == [[4, 5, 6, 7]]


def test_a_file_that_became_shorter(path):
    safetensors.save(path, arrays(**ARRAYS))
    entry = safetensors.entries(path)['b/kernel']
    os.truncate(path, 10)
    with pytest.raises(ValueError, match='cannot be read any more'):
        safetensors.read(entry)


def test_several_files(tmp_path):
    for i, name in enumerate('ab'):
        x = np.full(3, i, 'f')
        safetensors.save(tmp_path / f'{name}.safetensors', arrays(**{name: x}))
    index = {'weight_map': {'a': 'a.safetensors', 'b': 'b.safetensors'}}
    (tmp_path / 'model.safetensors.index.json').write_text(json.dumps(index))
    entries = safetensors.entries(tmp_path)
    assert safetensors.read(entries['b']).tolist() == [1, 1, 1]
    for bad, message in (
        ({'a': '../a.safetensors'}, 'must name files beside it'),
        ({'a': 'a.safetensors', 'c': 'b.safetensors'}, 'no file holds c'),
        ({'a': 'c.safetensors'}, 'cannot be read'),
        ([], 'not an index'),
    ):
        text = json.dumps({'weight_map': bad})
        (tmp_path / 'model.safetensors.index.json').write_text(text)
        with pytest.raises(ValueError, match=message):
            safetensors.entries(tmp_path)


def entry(dtype='F32', shape=(2,), offsets=(0, 8)):
    return {'dtype': dtype, 'shape': list(shape), 'data_offsets': list(offsets)}


@pytest.mark.parametrize(
    ('header', 'data', 'message'),
    [
        (b'', b'', 'invalid JSON'),
        (b'[]', b'', 'invalid type: sequence'),
        (b'{}', b'', 'no arrays'),
        (b'{"a": 1, "a": 2}', b'', 'invalid type'),
        ({'a': entry()}, bytes(7), 'file not fully covered'),
        ({'a': entry()}, bytes(9), 'file not fully covered'),
        ({'a': entry(shape=(3,))}, bytes(8), 'invalid shape'),
        ({'a': entry(shape=(-2, -1))}, bytes(8), 'invalid value: integer `-2`'),
        ({'a': entry(shape=(2**62, 4))}, bytes(8), 'overflow'),
        ({'a': entry(dtype='F8')}, bytes(8), 'unknown variant `F8`'),
        ({'a': entry(dtype='U32')}, bytes(8), "'a' has dtype U32; expected one of"),
        ({'a': entry(offsets=(0,))}, bytes(8), 'invalid length 1'),
        ({'a': entry(offsets=(8, 16))}, bytes(16), 'invalid offset for tensor `a`'),
        ({'a': entry(), 'b': entry()}, bytes(8), 'invalid offset for tensor `[ab]`'),
        ({'a': entry(shape=(True, 2))}, bytes(8), 'invalid type: boolean'),
    ],
)
def test_damaged_files(path, header, data, message):
    with pytest.raises(ValueError, match=message):
        safetensors.entries(raw(path, header, data))


def test_header_longer_than_the_file(path):
    path.write_bytes((2**60).to_bytes(8, 'little') + b'{}')
    with pytest.raises(ValueError, match='header too large'):
        safetensors.entries(path)
    path.write_bytes(b'abc')
    with pytest.raises(ValueError, match='not a whole'):
        safetensors.entries(path)


def test_a_failed_write_leaves_the_old_file(path):
    safetensors.save(path, arrays(a=np.ones(3, 'f')))
    before = path.read_bytes()
    wrong = {'a': safetensors.Array(np.dtype('f'), (4,), lambda: np.ones(3, 'f'))}
    with pytest.raises(ValueError, match='declared was'):
        safetensors.save(path, wrong)
    with pytest.raises(ValueError, match='which safetensors has not'):
        safetensors.save(path, arrays(a=np.ones(3, 'complex64')))
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
