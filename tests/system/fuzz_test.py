"""Damaged and hostile files: an error each time, and nothing worse."""

import io
import json
import pickle
import random
import resource
import zipfile

import numpy as np
import pytest
from conftest import GOLDEN
from flax import serialization, traverse_util

from vit_jax import checkpoint

SEEDS = 20  # of each kind, format and amount of damage: 1,080 files
# More than any of these files needs, and less than what they may pretend to.
_MEMORY = 1 << 30


def npz() -> bytes:
    with np.load(GOLDEN / 'vit_gap.npz') as arrays:
        params = {k[7:]: arrays[k] for k in arrays if k.startswith('params/')}
    file = io.BytesIO()
    np.savez(file, **params)
    return file.getvalue()


def safetensors() -> bytes:
    return (GOLDEN / 'timm_vit.safetensors').read_bytes()


def msgpack() -> bytes:
    with np.load(GOLDEN / 'vit_gap.npz') as arrays:
        params = {k[7:]: arrays[k] for k in arrays if k.startswith('params/')}
    tree = traverse_util.unflatten_dict(params, sep='/')
    return serialization.msgpack_serialize({'0': tree, '1': {}, '2': 7})


FORMATS = {'x.npz': npz, 'x.safetensors': safetensors, 'checkpoint_7': msgpack}


def truncate(data: bytearray, rng: random.Random, amount: int) -> bytearray:
    return data[: rng.randrange(len(data))]


def flip_bits(data: bytearray, rng: random.Random, amount: int) -> bytearray:
    for _ in range(amount):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def damage_header(data: bytearray, rng: random.Random, amount: int) -> bytearray:
    """Overwrites where names, shapes and sizes stand: at the start and the end."""
    for _ in range(amount):
        place = rng.randrange(4000)
        data[place if rng.random() < 0.5 else -1 - place] = rng.randrange(256)
    return data


def drop(data: bytearray, rng: random.Random, amount: int) -> bytearray:
    start = rng.randrange(len(data))
    return data[:start] + data[start + 37 * amount :]


def repeat(data: bytearray, rng: random.Random, amount: int) -> bytearray:
    start = rng.randrange(len(data))
    return data[: start + 11 * amount] + data[start:]


def numbers(data: bytearray, rng: random.Random, amount: int) -> bytearray:
    """Makes digits in the text of headers other digits: shapes, offsets, dtypes."""
    places = [i for i, c in enumerate(data[:4000]) if chr(c).isdigit()]
    for place in rng.sample(places, min(amount, len(places))):
        data[place] = ord(rng.choice('0123456789'))
    return data


@pytest.fixture(autouse=True)
def bounded_memory():
    """Lets an allocation beyond what the files can need fail."""
    with open('/proc/self/statm') as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def read_all(path):
    """Reads a file as far as it can be read."""
    with checkpoint.open(path, num_heads=3) as weights:
        for name in weights:
            array = weights[name]
            assert array.shape == weights.shape(name)


@pytest.mark.parametrize('amount', [1, 5, 50])
@pytest.mark.parametrize(
    'damage', [truncate, flip_bits, damage_header, drop, repeat, numbers]
)
@pytest.mark.parametrize('name', FORMATS)
def test_damaged_files(tmp_path, name, damage, amount):
    original = FORMATS[name]()
    refused = []
    for seed in range(SEEDS):
        rng = random.Random(f'{name} {damage.__name__} {amount} {seed}')
        path = tmp_path / name
        path.write_bytes(damage(bytearray(original), rng, amount))
        try:
            read_all(path)
        except ValueError as error:
            refused.append(str(error))
    assert all(str(path) in message for message in refused)
    # Numbers inside arrays may be others and the file whole, but sizes may not.
    if damage is truncate:
        assert len(refused) == SEEDS


class Boom:
    """What a pickle may do to whoever loads it."""

    def __reduce__(self):
        return exec, ("raise SystemExit('code was run')",)


def in_zip(**members) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def npy(array, allow_pickle=False) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


def npy_header(**changes) -> bytes:
    header = {'descr': '<f4', 'fortran_order': False, 'shape': (2,)} | changes
    text = repr(header).ljust(117).encode() + b'\n'
    return b'\x93NUMPY\x01\x00' + len(text).to_bytes(2, 'little') + text + bytes(8)


def header(**entries) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, 'little') + text


def entry(shape, end, dtype='F32'):
    return {'dtype': dtype, 'shape': shape, 'data_offsets': [0, end]}


HOSTILE = {
    'pickle in place of an npz': ('x.npz', pickle.dumps(Boom())),
    'pickle in an npz': (
        'x.npz',
        in_zip(**{'a.npy': npy(np.array([Boom()], object), True)}),
    ),
    'pickle beside arrays': ('x.npz', in_zip(**{'a.pkl': pickle.dumps(Boom())})),
    'pickle as msgpack': ('checkpoint_7', pickle.dumps(Boom())),
    'pickle as safetensors': ('x.safetensors', pickle.dumps(Boom())),
    'expression as a header': (
        'x.npz',
        in_zip(**{'a.npy': npy_header().replace(b"'<f4'", b'exit(')}),
    ),
    'deflate bomb': ('x.npz', in_zip(**{'a.npy': npy(np.zeros(10**8, 'f'))})),
    'bomb with a small header': (
        'x.npz',
        in_zip(**{'a.npy': npy_header() + bytes(3 * 10**8)}),
    ),
    'huge shape': ('x.npz', in_zip(**{'a.npy': npy_header(shape=(2**40,))})),
    'shape that overflows': (
        'x.npz',
        in_zip(**{'a.npy': npy_header(shape=(2**32, 2**32))}),
    ),
    'negative shape': ('x.npz', in_zip(**{'a.npy': npy_header(shape=(-2, -1))})),
    'structured dtype': (
        'x.npz',
        in_zip(**{'a.npy': npy_header(descr=[('a', '<f4')])}),
    ),
    'text dtype': ('x.npz', in_zip(**{'a.npy': npy_header(descr='<U1')})),
    'path upwards': ('x.npz', in_zip(**{'../../a.npy/b': b''})),
    'huge safetensors shape': (
        'x.safetensors',
        header(a=entry([2**40], 2**42)) + bytes(8),
    ),
    'shape whose size is right by overflow': (
        'x.safetensors',
        header(a=entry([2**62, 4], 0)),
    ),
    'header of 99 MB that is not there': (
        'x.safetensors',
        (99 * 10**6).to_bytes(8, 'little') + b'{}',
    ),
    'deep JSON': (
        'x.safetensors',
        (10**5).to_bytes(8, 'little') + b'[' * 10**5,
    ),
    'deep msgpack': ('checkpoint_7', b'\x91' * 10**5),
    'array of 4 billion': ('checkpoint_7', b'\xdd\xff\xff\xff\xff'),
    'map of 4 billion': ('checkpoint_7', b'\xdf\xff\xff\xff\xff'),
    'bytes of 4 billion': ('checkpoint_7', b'\xc6\xff\xff\xff\xff'),
    'extension of 4 billion': ('checkpoint_7', b'\xc9\xff\xff\xff\xff\x01'),
    'unknown extension': ('checkpoint_7', b'\x81\xa1a\xd4\x63\x00'),
    'array of Python objects': (
        'checkpoint_7',
        serialization.msgpack_serialize({'a': np.ones(3)}).replace(
            b'float64', b'object0'
        ),
    ),
}


@pytest.mark.parametrize('case', HOSTILE)
def test_hostile_files(tmp_path, case):
    name, content = HOSTILE[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        read_all(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert not (tmp_path.parent / 'a.npy').exists()


def test_the_whole_files_are_read(tmp_path):
    for name, make in FORMATS.items():
        (tmp_path / name).write_bytes(make())
        read_all(tmp_path / name)
