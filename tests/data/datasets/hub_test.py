"""Datasets of the Hugging Face library, from disk."""

import io
import pickle
import sys

import numpy as np
import pytest
from PIL import Image

from vit_jax.data import open
from vit_jax.data.datasets import hub
from vit_jax.files import network


def test_missing_library(monkeypatch):
    monkeypatch.setitem(sys.modules, 'datasets', None)
    with pytest.raises(ValueError, match=r"hf:owner/name needs .*pip install 'vit_jax"):
        open.open_dataset('hf:owner/name')


@pytest.fixture
def datasets(tmp_path_factory, monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    datasets = pytest.importorskip('datasets')
    cache = tmp_path_factory.mktemp('cache')
    monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', cache)
    datasets.disable_progress_bars()
    return datasets


def encode(i: int) -> dict:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), i, np.uint8)).save(buffer, 'PNG')
    return {'bytes': buffer.getvalue(), 'path': f'{i}.png'}


@pytest.fixture
def make(datasets):
    """Returns a function that makes splits of 7 and 2 examples."""

    def make(**features):
        names = ['owl', 'fox']
        columns = {
            'picture': ([encode(i) for i in range(7)], datasets.Image()),
            'kind': ([i % 2 for i in range(7)], datasets.ClassLabel(names=names)),
            'note': ([f'note {i}' for i in range(7)], datasets.Value('string')),
            **features,
        }
        columns = {key: value for key, value in columns.items() if value}
        train = datasets.Dataset.from_dict(
            {key: values for key, (values, _) in columns.items()},
            features=datasets.Features(
                {key: kind for key, (_, kind) in columns.items()}
            ),
        )
        splits = {'train': train, 'test': train.select([3, 0])}
        return datasets.DatasetDict(splits)

    return make


def check(dataset, splits=('train', 'test')):
    assert dataset.class_names == ('owl', 'fox')
    sizes = {'train': 7, 'test': 2}
    assert dataset.splits == {split: sizes[split] for split in splits}
    source = dataset.source('train[2:]')
    source = pickle.loads(pickle.dumps(source))
    for i in range(5):
        example = source[i]
        assert example['image'] == encode(i + 2)['bytes']
        assert example['label'] == i % 2
        assert example['name'].startswith('hf:')
        assert f'train[{i + 2}]' in example['name']
    if 'test' in splits:
        test = dataset.source('test')
        assert [test[i]['image'] for i in range(2)] == [
            encode(3)['bytes'],
            encode(0)['bytes'],
        ]


def test_saved_to_disk(make, tmp_path):
    make().save_to_disk(tmp_path / 'a')
    check(open.open_dataset(f'hf:{tmp_path}/a'))
    make()['train'].save_to_disk(tmp_path / 'b')
    check(open.open_dataset(f'hf:{tmp_path}/b'), splits=('train',))


def test_parquet(make, tmp_path):
    for split, rows in make().items():
        rows.to_parquet(tmp_path / f'{split}-00000-of-00001.parquet')
    check(open.open_dataset(f'hf:{tmp_path}'))


def test_folder_keeps_paths(datasets, tmp_path):
    for i, kind in enumerate(['fox', 'owl']):
        (tmp_path / 'train' / kind).mkdir(parents=True)
        (tmp_path / 'train' / kind / 'x.png').write_bytes(encode(i)['bytes'])
    source = open.open_dataset(f'hf:{tmp_path}').source('train')
    assert [source[i]['image'] for i in range(2)] == [
        encode(i)['bytes'] for i in (0, 1)
    ]
    assert source[0]['name'].endswith('fox/x.png')


def test_fingerprint_is_of_the_content(make, datasets, tmp_path):
    def of(directory, split='train', **features):
        make(**features).save_to_disk(tmp_path / directory)
        dataset = open.open_dataset(f'hf:{tmp_path / directory}')
        return dataset.source(split).fingerprint()

    one = of('one')
    assert one == of('two')
    assert one != of('three', split='test')
    labels = ([1] * 7, datasets.ClassLabel(names=['owl', 'fox']))
    assert one != of('four', kind=labels)
    images = ([encode(9)] * 7, datasets.Image())
    assert one != of('five', picture=images)


def test_preferred_names(make, datasets, tmp_path):
    other = ([0] * 7, datasets.ClassLabel(names=['coarse']))
    fine = ([i % 2 for i in range(7)], datasets.ClassLabel(names=['owl', 'fox']))
    make(kind=other, fine_label=fine).save_to_disk(tmp_path / 'a')
    check(open.open_dataset(f'hf:{tmp_path}/a'))
    make(second=other).save_to_disk(tmp_path / 'b')
    with pytest.raises(ValueError, match=r"ClassLabel.*'label'.*kind \(ClassLabel\)"):
        open.open_dataset(f'hf:{tmp_path}/b')


@pytest.mark.parametrize('missing', ['picture', 'kind'])
def test_no_images_or_no_labels(make, tmp_path, missing):
    make(**{missing: None}).save_to_disk(tmp_path / 'a')
    kind = {'picture': 'Image', 'kind': 'ClassLabel'}[missing]
    with pytest.raises(ValueError, match=rf'of type {kind}.*found .*note \(Value\)'):
        open.open_dataset(f'hf:{tmp_path}/a')


def test_unlabelled_row(make, datasets, tmp_path):
    labels = ([0, -1] + [1] * 5, datasets.ClassLabel(names=['owl', 'fox']))
    make(kind=labels).save_to_disk(tmp_path / 'a')
    source = open.open_dataset(f'hf:{tmp_path}/a').source('train')
    assert source[0]['label'] == 0
    with pytest.raises(ValueError, match=r'train\[1\].*found label -1'):
        source[1]


def test_other_classes_in_another_split(make, datasets, tmp_path):
    splits = make()
    names = datasets.ClassLabel(names=['fox', 'owl'])
    splits['test'] = splits['test'].cast_column('kind', names)
    splits.save_to_disk(tmp_path / 'a')
    with pytest.raises(ValueError, match=r"'test' has other classes than 'train'"):
        open.open_dataset(f'hf:{tmp_path}/a')


def test_unknown_name(datasets, monkeypatch, tmp_path):
    asked = []

    def load_dataset(*args):
        asked.append(args)
        raise ConnectionError('no\nnetwork')

    monkeypatch.setattr(datasets, 'load_dataset', load_dataset)
    monkeypatch.setattr(network, 'unreachable', lambda address: '')
    with pytest.raises(ValueError, match=r'hf:owner/name:big cannot .*: no network'):
        hub.open_hub('owner/name:big')
    assert asked == [('owner/name', 'big')]
    with pytest.raises(ValueError, match=r'no directory /none'):
        hub.open_hub('/none')
