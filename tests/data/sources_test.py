"""The split view over readers, and which adapter opens what."""

import pickle
import sys
import types

import numpy as np
import pytest

from vit_jax.data import open, sources


class CountingReader:
    """Examples whose name is '<split><index>'."""

    def __init__(self, split: str, size: int):
        self.split = split
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        assert 0 <= index < self.size
        return {'image': b'', 'label': index % 2, 'name': f'{self.split}{index}'}

    def fingerprint(self):
        return sources.sha256(self.split, self.size)


@pytest.fixture
def dataset():
    readers = {'train': CountingReader('train', 100), 'test': CountingReader('test', 7)}
    return sources.Dataset('toy', readers, ['a', 'b'])


def names(source):
    return [source[i]['name'] for i in range(len(source))]


def test_source_concatenates_ranges(dataset):
    assert dataset.splits == {'train': 100, 'test': 7}
    source = dataset.source('train[98%:]+test[5:]+train[:2]')
    assert names(source) == ['train98', 'train99', 'test5', 'test6', 'train0', 'train1']
    assert source[-1]['name'] == 'train1'
    assert source[np.int64(2)]['name'] == 'test5'
    assert source.class_names == ('a', 'b')
    assert isinstance(source, sources.Source)
    for index in (6, -7):
        with pytest.raises(IndexError):
            source[index]


def test_source_of_nothing_is_empty(dataset):
    assert len(dataset.source('train[5:5]')) == 0


def test_source_pickles(dataset):
    source = dataset.source('test')
    copy = pickle.loads(pickle.dumps(source))
    assert names(copy) == names(source)
    assert copy.fingerprint() == source.fingerprint()
    # A source carries only the readers that it reads.
    assert b'train' not in pickle.dumps(source)


def test_fingerprint_tells_lists_apart(dataset):
    def of(split):
        return dataset.source(split).fingerprint()

    assert of('train') == of('train[:100%]') == of('train[:50]+train[50:]')
    assert of('testing') == of('test')
    others = ['train', 'train[:99]', 'train[1:]', 'test', 'test+train', 'train+test']
    assert len({of(split) for split in others}) == len(others)
    renamed = sources.Dataset(
        'toy', {'train': CountingReader('train', 100)}, ['b', 'a']
    )
    assert renamed.source('train').fingerprint() != of('train')


def test_unknown_split_names_the_dataset(dataset):
    with pytest.raises(ValueError, match=r"toy: unknown split 'tain'.*mean train\?"):
        dataset.source('tain')
    with pytest.raises(ValueError, match=r'toy: unknown split'):
        dataset.complement('tain')
    assert dataset.complement('testing[:3]') == 'test[3:]'


def test_folders_and_manifests_go_to_their_adapter(tmp_path, monkeypatch, dataset):
    opened = []

    def opener(kind):
        def open_it(path, *, holdout):
            opened.append((kind, path, holdout))
            return dataset

        return open_it

    folder = types.ModuleType('vit_jax.data.datasets.folder')
    folder.open_folder = opener('folder')
    folder.open_manifest = opener('manifest')
    monkeypatch.setitem(sys.modules, 'vit_jax.data.datasets.folder', folder)
    monkeypatch.setattr('vit_jax.data.datasets.folder', folder, raising=False)
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'photos').mkdir()
    open.open_dataset(str(tmp_path / 'photos'), holdout=0.2)
    open.open_dataset('~/photos')
    open.open_dataset(f'{tmp_path}/list.CSV', holdout=0.3)
    assert opened == [
        ('folder', tmp_path / 'photos', 0.2),
        ('folder', tmp_path / 'photos', 0.1),
        ('manifest', tmp_path / 'list.CSV', 0.3),
    ]


def test_shared_examples_are_counted(dataset):
    def shared(one, other):
        return dataset.source(one).num_shared(dataset.source(other))

    assert shared('train[:80%]', 'train[80%:]') == 0
    assert shared('train', 'test') == 0
    assert shared('train[:50]', 'train[40:60]') == 10
    assert shared('train+test[:3]', 'test[2:]+train[:5]') == 6


def test_picked_examples():
    """Evenly from all over the source, and never more than there are."""

    class Numbers:
        class_names = ('a',)

        def __len__(self):
            return 10

        def __getitem__(self, index):
            return {'image': b'', 'label': 0, 'name': str(index)}

        def fingerprint(self):
            return 'numbers'

    picked = sources.Picked.spread(Numbers(), 4)
    assert [picked[i]['name'] for i in range(len(picked))] == ['0', '2', '5', '7']
    assert len(sources.Picked.spread(Numbers(), 99)) == 10
    assert len(sources.Picked.spread(Numbers(), 0)) == 0
    other = sources.Picked(Numbers(), [7, 5, 2, 0])
    assert other.class_names == ('a',)
    assert other.fingerprint() != picked.fingerprint()
    assert picked.fingerprint() == sources.Picked(Numbers(), (0, 2, 5, 7)).fingerprint()


def test_a_folder_by_its_path(photos):
    assert open.open_dataset(photos).splits == open.open_dataset(
        str(photos)
    ).splits  # fmt: skip
