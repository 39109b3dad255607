"""Random access to TFRecord files and its offset index."""

import os

import conftest
import numpy as np
import pytest

from vit_jax.data.datasets import tfrecord

GOLDEN = (
    conftest.GOLDEN
    / 'tfds_tfrecord/tiny_shapes/1.0.0/tiny_shapes-train.tfrecord-00000-of-00001'
)
RECORDS = [b'first', b'', b'x' * 1000, bytes(range(256)), b'last']


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('VIT_JAX_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache' / 'tfrecord'


@pytest.fixture
def path(tmp_path):
    path = tmp_path / 'records.tfrecord'
    path.write_bytes(b''.join(tfrecord.frames(RECORDS)))
    return path


def records(path):
    file = tfrecord.TFRecordFile(path)
    try:
        return [file[i] for i in range(len(file))]
    finally:
        file.close()


def test_masked_crc32c():
    # The check value of CRC-32C in every catalogue of checksums.
    rows = np.frombuffer(b'123456789', np.uint8).reshape(1, -1)
    crc = 0xE3069283
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert tfrecord.masked_crc32c(rows).tolist() == [masked]


def test_frames_equal_those_of_tensorflow():
    # The golden file was written by TensorFlow.
    assert len(records(GOLDEN)) == 60
    assert b''.join(tfrecord.frames(records(GOLDEN))) == GOLDEN.read_bytes()


def test_records_by_index(path):
    file = tfrecord.TFRecordFile(path)
    assert len(file) == len(RECORDS)
    assert [file[i] for i in (3, 0, 4, 1, 2)] == [RECORDS[i] for i in (3, 0, 4, 1, 2)]
    with pytest.raises(IndexError):
        file[len(RECORDS)]
    file.close()


def test_index_is_cached_and_mapped(path, cache, monkeypatch):
    assert records(path) == RECORDS
    assert len(list(cache.iterdir())) == 1

    def fail(*_):
        raise AssertionError('read the whole file again')

    monkeypatch.setattr(tfrecord, '_index', fail)
    assert records(path) == RECORDS
    file = tfrecord.TFRecordFile(path)
    assert isinstance(file._offsets, np.memmap)
    file.close()


def test_index_follows_the_file(path):
    records(path)
    changed = [b'FIRST', *RECORDS[1:]]
    path.write_bytes(b''.join(tfrecord.frames([b'another', *changed])))
    assert records(path) == [b'another', *changed]
    # The same size at another time is another file too.
    path.write_bytes(b''.join(tfrecord.frames([*changed, b'another'])))
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert records(path) == [*changed, b'another']


def test_damaged_index_is_made_again(path, cache):
    records(path)
    (cached,) = cache.iterdir()
    for content in (b'', b'garbage', cached.read_bytes()[:-8]):
        cached.write_bytes(content)
        assert records(path) == RECORDS


def test_unwritable_cache(path, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('VIT_JAX_CACHE', str(tmp_path / 'file' / 'cache'))
    assert records(path) == RECORDS


def test_cache_dir(monkeypatch, tmp_path):
    assert tfrecord.cache_dir() == tmp_path / 'cache'
    monkeypatch.delenv('VIT_JAX_CACHE')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
    assert tfrecord.cache_dir() == tmp_path / 'xdg' / 'vit_jax'


@pytest.mark.parametrize('cut', [1, 4, 7, 15, 20, 21])
def test_truncated_file(path, cut):
    data = path.read_bytes()
    path.write_bytes(data[:-cut])
    # The last frame is 20 bytes long; a whole frame less is a good file.
    start = len(data) - 20
    if cut == 20:
        assert records(path) == RECORDS[:-1]
        return
    offset = start if cut < 20 else start - 16 - 256
    with pytest.raises(ValueError, match=rf'{path}: .* offset {offset} .*truncated'):
        records(path)


@pytest.mark.parametrize('byte', [0, 3, 7, 8, 11])
def test_corrupt_length(path, byte):
    data = bytearray(path.read_bytes())
    offset = 16 + len(RECORDS[0])
    data[offset + byte] ^= 0x11
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf'{path}: .* offset {offset} .*checksum'):
        records(path)


def test_empty_file(tmp_path):
    (tmp_path / 'empty').write_bytes(b'')
    assert records(tmp_path / 'empty') == []


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        tfrecord.TFRecordFile(tmp_path / 'none')
