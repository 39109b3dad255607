"""CIFAR prepared over HTTP without TensorFlow, in the order of TFDS's own builders."""

import functools
import hashlib
import http.server
import io
import json
import tarfile
import threading

import conftest
import numpy as np
import pytest
import tensorflow_datasets as tfds
import without_tensorflow
from PIL import Image
from tensorflow_datasets.image_classification import cifar as tfds_cifar

from vit_jax.data import open
from vit_jax.data.datasets import cifar

ARCHIVES = conftest.GOLDEN / 'cifar'


def checksum(name: str) -> str:
    data = (ARCHIVES / name).read_bytes()
    return f'{len(data)}:{hashlib.sha256(data).hexdigest()}'


ARCHIVE = {
    'cifar10': 'cifar-10-binary.tar.gz',
    'cifar100': 'cifar-100-binary.tar.gz',
}


@pytest.fixture(scope='module')
def url():
    """Serves the made-up archives on loopback."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=ARCHIVES)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()
        thread.join()


@pytest.mark.parametrize('name', ['cifar10', 'cifar100'])
def test_equals_tfds(name, url, tmp_path):
    # Downloaded, extracted and prepared where TensorFlow cannot be imported.
    code = f"""
from vit_jax.data import open
open.open_dataset({name!r}, data_dir={str(tmp_path)!r})
"""
    process = without_tensorflow.start(
        code,
        NO_PROXY='127.0.0.1',
        VIT_JAX_CIFAR_URL=url,
        VIT_JAX_CIFAR_CHECKSUM=checksum(ARCHIVE[name]),
    )
    without_tensorflow.finish(process)
    order = json.loads((ARCHIVES / 'order.json').read_text())
    version_dir = tmp_path / name / order[f'{name}/version']
    info = tfds.builder_from_directory(version_dir).info
    original = getattr(tfds_cifar, name.capitalize())(data_dir=tmp_path / 'none')
    assert info.full_name == original.info.full_name
    assert repr(info.features) == repr(original.info.features)
    assert info.supervised_keys == original.info.supervised_keys

    dataset = open.open_dataset(name, data_dir=tmp_path)
    for split in ('train', 'test'):
        source = dataset.source(split)
        examples = [source[i] for i in range(len(source))]
        expected = order[f'{name}/{split}/array_record']
        assert expected == order[f'{name}/{split}/tfrecord']
        assert [e['name'].split()[-1] for e in examples] == expected['ids']
        assert [e['label'] for e in examples] == expected['labels']
        digest = hashlib.sha256()
        for example in examples:
            with Image.open(io.BytesIO(example['image'])) as image:
                assert (image.format, image.mode, image.size) == (
                    'PNG',
                    'RGB',
                    (32, 32),
                )
                digest.update(np.asarray(image).tobytes())
        assert digest.hexdigest() == expected['images_sha256']


def test_real_archives_keep_their_checksums(tmp_path, monkeypatch):
    for cls, size in ((cifar.Cifar10, 170052171), (cifar.Cifar100, 168513733)):
        monkeypatch.delenv('VIT_JAX_CIFAR_URL', raising=False)
        builder = cls(data_dir=tmp_path)
        ((url, registered),) = builder.url_infos.items()
        assert url.startswith('https://www.cs.toronto.edu/~kriz/cifar-10')
        assert registered.size == size
        # A mirror must serve the same archive.
        monkeypatch.setenv('VIT_JAX_CIFAR_URL', 'http://mirror/files/')
        expected = {f'http://mirror/files/{url.split("/")[-1]}': registered}
        assert builder.url_infos == expected


def test_another_archive_is_refused(url, tmp_path, monkeypatch):
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    monkeypatch.setenv('VIT_JAX_CIFAR_URL', url)
    monkeypatch.delenv('VIT_JAX_CIFAR_CHECKSUM', raising=False)
    with pytest.raises(ValueError, match=r'cifar10 .*wrong checksum.*c4a38c50'):
        open.open_dataset('cifar10', data_dir=tmp_path)
    assert not (tmp_path / 'cifar10' / '3.0.2').exists()


def test_archive_put_by_hand(tmp_path, monkeypatch):
    monkeypatch.setenv('VIT_JAX_CIFAR_URL', 'http://127.0.0.1:9/nobody')
    monkeypatch.setenv('VIT_JAX_CIFAR_CHECKSUM', checksum(ARCHIVE['cifar10']))
    dataset = open.open_dataset('cifar10', data_dir=tmp_path, manual_dir=ARCHIVES)
    assert dataset.splits == {'train': 100, 'test': 30}


def test_malformed_checksum(tmp_path, monkeypatch):
    monkeypatch.setenv('VIT_JAX_CIFAR_CHECKSUM', 'abc')
    with pytest.raises(ValueError, match=r'size:sha256'):
        open.open_dataset('cifar10', data_dir=tmp_path)


def test_damaged_batch(tmp_path, monkeypatch):
    archive = tmp_path / 'manual' / ARCHIVE['cifar10']
    archive.parent.mkdir()
    with (
        tarfile.open(ARCHIVES / archive.name) as original,
        tarfile.open(archive, 'w:gz') as damaged,
    ):
        for member in original:
            data = original.extractfile(member).read()
            if member.name.endswith('data_batch_3.bin'):
                data = data[:-1]
            member.size = len(data)
            damaged.addfile(member, io.BytesIO(data))
    data = archive.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    monkeypatch.setenv('VIT_JAX_CIFAR_CHECKSUM', f'{len(data)}:{digest}')
    with pytest.raises(ValueError, match=r'data_batch_3.bin: 61459 bytes'):
        open.open_dataset('cifar10', data_dir=tmp_path, manual_dir=archive.parent)
    assert not list((tmp_path / 'cifar10').iterdir())
