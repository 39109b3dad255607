"""The safetensors format, against the format's own library where it is installed."""

import json

import ml_dtypes
import numpy as np
import pytest

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


def test_agrees_with_the_library(path, tmp_path):
    library = pytest.importorskip('safetensors.numpy')
    known = {k: x for k, x in ARRAYS.items() if k != 'brain'}
    safetensors.save(path, arrays(**known), {'format': 'pt'})
    found = library.load_file(path)
    assert {k: x.tobytes() for k, x in found.items()} == {
        k: x.tobytes() for k, x in known.items()
    }
    library.save_file(known, tmp_path / 'y.safetensors')
    for name, entry in safetensors.entries(tmp_path / 'y.safetensors').items():
        assert np.array_equal(safetensors.read(entry), known[name])


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
        (b'', b'', 'not JSON'),
        (b'[]', b'', 'not a table'),
        (b'{}', b'', 'no arrays'),
        (b'{"a": 1, "a": 2}', b'', 'stands there twice'),
        ({'a': entry()}, bytes(7), '8 bytes are declared, 7 are there'),
        ({'a': entry()}, bytes(9), '8 bytes are declared, 9 are there'),
        ({'a': entry(shape=(3,))}, bytes(8), 'declares shape'),
        ({'a': entry(shape=(-2, -1))}, bytes(8), 'declares shape'),
        ({'a': entry(shape=(2**62, 4))}, bytes(8), 'declares shape'),
        ({'a': entry(dtype='F8')}, bytes(8), 'is described by'),
        ({'a': entry(offsets=(0,))}, bytes(8), 'is described by'),
        ({'a': entry(offsets=(8, 16))}, bytes(16), 'a gap or an overlap'),
        ({'a': entry(), 'b': entry()}, bytes(8), 'a gap or an overlap'),
        ({'a': entry(shape=(True, 2))}, bytes(8), 'declares shape'),
    ],
)
def test_damaged_files(path, header, data, message):
    with pytest.raises(ValueError, match=message):
        safetensors.entries(raw(path, header, data))


def test_header_longer_than_the_file(path):
    path.write_bytes((2**60).to_bytes(8, 'little') + b'{}')
    with pytest.raises(ValueError, match='a header of 1152921504606846976 bytes'):
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
