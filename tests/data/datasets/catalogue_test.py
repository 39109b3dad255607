"""TFDS names: found, prepared here, or an error that says what to do."""

import sys
import types

import conftest
import numpy as np
import pytest
import tensorflow_datasets as tfds

from vit_jax.data import open, sources
from vit_jax.data.datasets import catalogue


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('VIT_JAX_CACHE', str(tmp_path / 'cache'))


@pytest.fixture
def register(monkeypatch):
    """Returns a function that makes a TFDS builder known for one test."""

    def add(examples, features, error=None):
        class Toy(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            VERSION = tfds.core.Version('1.2.3')
            name = 'toy'

            def _info(self):
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, dl_manager):
                if error:
                    raise error
                return {'train': enumerate(examples)}

            def _generate_examples(self):
                raise NotImplementedError

        monkeypatch.setitem(tfds.core.registered._DATASET_REGISTRY, 'toy', Toy)

    return add


def features():
    return tfds.features.FeaturesDict(
        {
            'image': tfds.features.Image(shape=(None, None, 3)),
            'label': tfds.features.ClassLabel(names=['a', 'b']),
        }
    )


@pytest.mark.parametrize('file_format', ['tfrecord', 'array_record'])
@pytest.mark.parametrize('name', ['tiny_shapes', 'tiny_shapes:1.0.0'])
def test_prepared_in_data_dir(file_format, name, monkeypatch):
    root = conftest.GOLDEN / f'tfds_{file_format}'
    dataset = open.open_dataset(name, data_dir=root)
    assert dataset.splits == {'train': 60, 'test': 17}
    monkeypatch.setenv('TFDS_DATA_DIR', str(root))
    assert open.open_dataset(name).splits == dataset.splits


def test_tfds_prepares_what_needs_no_tensorflow(register, tmp_path):
    examples = [{'image': b'encoded %d' % i, 'label': i % 2} for i in range(5)]
    register(examples, features())
    dataset = open.open_dataset('toy', data_dir=tmp_path)
    assert dataset.splits == {'train': 5}
    assert dataset.class_names == ('a', 'b')
    source = dataset.source('train')
    found = {source[i]['image']: source[i]['label'] for i in range(5)}
    assert found == {example['image']: example['label'] for example in examples}
    assert source[0]['name'] == 'toy/train[0]'
    # The second time it is only read.
    register([], features(), error=AssertionError('prepared again'))
    assert open.open_dataset('toy:1.2.3', data_dir=tmp_path).splits == {'train': 5}


def test_what_needs_tensorflow_gets_the_command(register, tmp_path):
    pixels = np.zeros((2, 2, 3), np.uint8)  # which TFDS encodes by TensorFlow
    register([{'image': pixels, 'label': 0}], features())
    expected = (
        r'pip install tensorflow tensorflow-datasets && '
        rf'tfds build toy --data_dir={tmp_path} --file_format=array_record'
    )
    with pytest.raises(ValueError, match=expected):
        open.open_dataset('toy', data_dir=tmp_path)
    assert not list(tmp_path.glob('toy/*'))


def test_failing_builder(register, tmp_path):
    register([], features(), error=RuntimeError('the server\nis down'))
    expected = (
        r'toy is not in .*could not be prepared: RuntimeError: the server is down'
    )
    with pytest.raises(ValueError, match=expected):
        open.open_dataset('toy', data_dir=tmp_path)


@pytest.mark.parametrize('name', ['cifar11', 'no such/../name', 'cifar11/big:1.0.0'])
def test_unknown_name(name, tmp_path):
    with pytest.raises(ValueError, match=r'unknown dataset .*folder') as caught:
        open.open_dataset(name, data_dir=tmp_path)
    assert '\n' not in str(caught.value)
    assert (' cifar10 ' in str(caught.value)) == name.startswith('cifar11')


def test_nearest_name_may_be_ours(tmp_path):
    with pytest.raises(ValueError, match=r'Did you mean .*digits'):
        open.open_dataset('digit', data_dir=tmp_path)


def test_missing_path():
    for name in ('/none/photos', './photos', '~/none/photos'):
        with pytest.raises(ValueError, match=r'does not exist; expected a folder'):
            open.open_dataset(name)


def test_file_is_no_dataset(tmp_path):
    (tmp_path / 'photo.jpg').write_bytes(b'')
    with pytest.raises(ValueError, match=r'is a file; expected a folder'):
        open.open_dataset(str(tmp_path / 'photo.jpg'))


def test_version_that_cannot_be_prepared(tmp_path):
    with pytest.raises(ValueError, match=r'only version 1.0.0 can be prepared'):
        open.open_dataset('digits:0.9.0', data_dir=tmp_path)


def test_unwritable_data_dir(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(ValueError, match=r'cannot be written.*data_dir'):
        open.open_dataset('digits', data_dir=tmp_path / 'file')


def test_remote_data_dir():
    with pytest.raises(ValueError, match=r'gs://bucket.* is remote.*mount'):
        open.open_dataset('cifar10', data_dir='gs://bucket/tfds')


def test_imagenet_without_data(tmp_path):
    expected = r'train/<wnid>.*image-net.org.*tfds build imagenet2012'
    with pytest.raises(ValueError, match=expected):
        open.open_dataset('imagenet2012', data_dir=tmp_path)


@pytest.mark.parametrize('place', ['data', 'data/imagenet2012', 'manual'])
def test_imagenet_from_folders(place, tmp_path, monkeypatch):
    opened = []
    folder = types.ModuleType('vit_jax.data.datasets.folder')

    def open_folder(path, *, holdout):
        opened.append((path, holdout))
        return sources.Dataset('folder', {}, ())

    folder.open_folder = open_folder
    monkeypatch.setitem(sys.modules, 'vit_jax.data.datasets.folder', folder)
    monkeypatch.setattr('vit_jax.data.datasets.folder', folder, raising=False)
    (tmp_path / place / 'train' / 'n01440764').mkdir(parents=True)
    catalogue.open_named(
        'imagenet2012',
        data_dir=tmp_path / 'data',
        manual_dir=tmp_path / 'manual',
        holdout=0.2,
    )
    assert opened == [(tmp_path / place, 0.2)]
