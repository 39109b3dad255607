"""Prepared TFDS data: both formats, without TensorFlow, in TFDS's order."""

import concurrent.futures
import json
import pathlib
import pickle
import shutil

import conftest
import numpy as np
import pytest
import tensorflow_datasets as tfds
import without_tensorflow

from vit_jax.data import open
from vit_jax.data.datasets import prepared

FORMATS = ('tfrecord', 'array_record')


def version_dir(file_format: str) -> pathlib.Path:
    return conftest.GOLDEN / f'tfds_{file_format}' / 'tiny_shapes' / '1.0.0'


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('VIT_JAX_CACHE', str(tmp_path / 'cache'))


@pytest.fixture
def copy(tmp_path):
    """Returns a function that copies a golden directory to where it can be changed."""

    def make(file_format: str) -> pathlib.Path:
        target = tmp_path / 'data' / 'tiny_shapes' / '1.0.0'
        return pathlib.Path(shutil.copytree(version_dir(file_format), target))

    return make


def examples(dataset, split):
    source = dataset.source(split)
    return [source[i] for i in range(len(source))]


@pytest.mark.parametrize('file_format', FORMATS)
@pytest.mark.parametrize('split', ['train', 'test', 'train[10%:20%]+test[-3:]'])
def test_order_and_content_equal_tfds(file_format, split):
    dataset = prepared.open_prepared(version_dir(file_format))
    assert dataset.splits == {'train': 60, 'test': 17}
    assert dataset.class_names == ('disc', 'square', 'cross')
    expected = tfds.data_source(
        'tiny_shapes',
        data_dir=conftest.GOLDEN / 'tfds_array_record',
        split=split,
        decoders={'image': tfds.decode.SkipDecoding()},
    )
    found = examples(dataset, split)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours['image'] == theirs['image']
        assert ours['label'] == theirs['label']
        assert ours['name'].startswith('tiny_shapes/')
        assert ours['name'].endswith(theirs['id'].decode())


def test_both_formats_are_the_same_data():
    one, other = (prepared.open_prepared(version_dir(name)) for name in FORMATS)
    assert examples(one, 'all') == examples(other, 'all')
    assert one.source('train').fingerprint() == other.source('train').fingerprint()
    assert one.source('train').fingerprint() != one.source('test').fingerprint()


@pytest.mark.parametrize('file_format', FORMATS)
def test_pickles_small_and_reopens(file_format):
    source = prepared.open_prepared(version_dir(file_format)).source('train')
    expected = source[7]
    data = pickle.dumps(source)
    assert len(data) < 2000
    assert pickle.loads(data)[7] == expected
    with pytest.raises(IndexError):
        source[60]


@pytest.mark.parametrize('file_format', FORMATS)
def test_no_tensorflow(file_format):
    code = f"""
from vit_jax.data import open
dataset = open.open_dataset({str(version_dir(file_format))!r})
print(dataset.source('train')[59]['name'])
"""
    output = without_tensorflow.finish(without_tensorflow.start(code))
    assert output.startswith('tiny_shapes/train[59] shape')


def test_few_files_stay_open(monkeypatch, tmp_path):
    directory = version_dir('tfrecord')
    paths = [str(next(directory.glob('*test.tfrecord*')))] * 5
    monkeypatch.setattr(prepared, '_max_open', lambda: 2)
    records = prepared.Records(
        'many',
        paths,
        [17] * 5,
        file_format='tfrecord',
        keys=('image', 'label', None),
        num_classes=3,
        identity=(),
    )
    order = np.random.default_rng(0).permutation(len(records))
    found = [records[i] for i in order]
    assert len(records._readers) == 2
    assert [example['name'] for example in found] == [f'many[{i}]' for i in order]
    labels = [example['label'] for example in found]
    assert labels == [records[i % 17]['label'] for i in order.tolist()]


@pytest.mark.parametrize('file_format', FORMATS)
def test_threads_share_a_source(file_format, monkeypatch):
    directory = version_dir(file_format)
    source = prepared.Records(
        'two files',
        [str(next(directory.glob(f'*{split}.*-of-*'))) for split in ('train', 'test')],
        [60, 17],
        file_format=file_format,
        keys=('image', 'label', 'id'),
        num_classes=3,
        identity=(),
    )
    expected = [source[i] for i in range(77)]
    # One open file for two: every thread makes the others reopen.
    monkeypatch.setattr(prepared, '_max_open', lambda: 1)
    order = np.random.default_rng(0).integers(0, 77, 2000).tolist()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(source.__getitem__, order))
    assert found == [expected[i] for i in order]


def test_find_version_dir(copy, tmp_path):
    one = copy('tfrecord')
    dataset = one.parent
    for version in ('1.10.0', '1.9.0', '2.0.0.incomplete'):
        shutil.copytree(one, dataset / version)
    (dataset / '3.0.0').mkdir()  # empty: not prepared
    find = prepared.find_version_dir
    assert find(one) == one
    assert find(dataset) == dataset / '1.10.0'
    assert find(dataset, version='1.0.0') == one
    assert find(dataset, version='1.9.*') == dataset / '1.9.0'
    assert find(dataset, version='7.0.0') is None
    assert find(tmp_path / 'none') is None
    assert find(dataset, config='big') is None


def test_find_version_dir_of_configs(tmp_path):
    for config in ('small', 'big'):
        shutil.copytree(version_dir('tfrecord'), tmp_path / config / '1.0.0')
    find = prepared.find_version_dir
    assert find(tmp_path) is None
    (tmp_path / '.config').mkdir()
    note = tmp_path / '.config' / 'metadata.json'
    note.write_text(json.dumps({'default_config_name': 'small'}))
    assert find(tmp_path) == tmp_path / 'small' / '1.0.0'
    assert find(tmp_path, config='big') == tmp_path / 'big' / '1.0.0'


def test_open_dataset_takes_the_directory_of_a_dataset():
    path = conftest.GOLDEN / 'tfds_array_record' / 'tiny_shapes'
    assert open.open_dataset(str(path)).splits == {'train': 60, 'test': 17}


def change_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_no_label(copy):
    path = copy('tfrecord')

    def drop(content):
        features = content['featuresDict']['features']
        features['kind'] = features.pop('id')
        features.pop('label')

    change_json(path / 'features.json', drop)
    change_json(path / 'dataset_info.json', lambda info: info.pop('supervisedKeys'))
    expected = r'no class label .*found .*kind \(Text\)'
    with pytest.raises(ValueError, match=expected):
        prepared.open_prepared(path)


def test_supervised_keys_name_the_features(copy):
    path = copy('tfrecord')

    def rename(content):
        features = content['featuresDict']['features']
        features['shape'] = features.pop('label')

    def supervise(info):
        info['supervisedKeys']['tuple']['items'][1]['featureKey'] = 'shape'

    (path / 'label.labels.txt').rename(path / 'shape.labels.txt')
    change_json(path / 'features.json', rename)
    change_json(path / 'dataset_info.json', supervise)
    dataset = prepared.open_prepared(path)
    assert dataset.class_names == ('disc', 'square', 'cross')
    # The records still say 'label': data that disagrees with its description.
    with pytest.raises(ValueError, match=r"tiny_shapes/train\[0\].*'shape'"):
        dataset.source('train')[0]


def test_label_without_meaning(copy):
    path = copy('array_record')

    def fewer(content):
        label = content['featuresDict']['features']['label']
        label['classLabel']['numClasses'] = '1'

    (path / 'label.labels.txt').write_text('disc\n')
    change_json(path / 'features.json', fewer)
    with pytest.raises(ValueError, match=r'label [12] is none of the 1 classes'):
        examples(prepared.open_prepared(path), 'train')


@pytest.mark.parametrize('file_format', FORMATS)
def test_missing_file(copy, file_format):
    path = copy(file_format)
    next(path.glob('*train*')).unlink()
    with pytest.raises(
        ValueError, match=r'1 of the 1 files of split .train. .*missing'
    ):
        prepared.open_prepared(path)


@pytest.mark.parametrize('file_format', FORMATS)
def test_truncated_file(copy, file_format):
    path = copy(file_format)
    file = next(path.glob('*train*'))
    data = file.read_bytes()
    file.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ValueError, match=f'{file}.*truncated'):
        prepared.open_prepared(path).source('train')[0]


def test_damaged_record(copy):
    path = copy('array_record')
    file = next(path.glob('*train*'))
    data = bytearray(file.read_bytes())
    for offset in range(100, 5000, 50):
        data[offset] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(ValueError, match=f'{file}: record . cannot be read'):
        examples(prepared.open_prepared(path), 'train')


@pytest.mark.parametrize('file_format', FORMATS)
def test_another_number_of_examples(copy, file_format):
    path = copy(file_format)

    def more(info):
        info['splits'][0]['shardLengths'] = ['61']

    change_json(path / 'dataset_info.json', more)
    with pytest.raises(
        ValueError, match=r'holds 60 examples, dataset_info.json says 61'
    ):
        prepared.open_prepared(path).source('train')[0]


def test_other_file_format(copy):
    path = copy('tfrecord')
    change_json(
        path / 'dataset_info.json', lambda info: info.update(fileFormat='riegeli')
    )
    with pytest.raises(ValueError, match=r"'riegeli'.*--file_format=array_record"):
        prepared.open_prepared(path)


def test_damaged_description(copy):
    path = copy('tfrecord')
    (path / 'dataset_info.json').write_text('{')
    with pytest.raises(ValueError, match=f'{path} is not readable by TFDS'):
        prepared.open_prepared(path)
