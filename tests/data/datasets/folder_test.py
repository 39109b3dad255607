"""Folders of images: layouts, held-out files, and what is refused."""

import os
import pathlib

import numpy as np
import pytest
from photo_files import jpeg, make, names, relative

from vit_jax import data


class TestSplitFolders:
    def test_train_val_test(self, tmp_path):
        files = {
            'train': {'train/cat/a.jpg', 'train/dog/b.JPEG', 'train/dog/c.Png'},
            'validation': {'val/dog/d.webp'},
            'test': {'test/cat/deep/er/e.tiff', 'test/cat/f.BMP', 'test/dog/g.gif'},
        }
        make(tmp_path, *files['train'], *files['validation'], *files['test'])
        dataset = data.open_folder(tmp_path)
        assert dataset.class_names == ('cat', 'dog')
        assert dataset.splits == {'train': 3, 'validation': 1, 'test': 3}
        for split, expected in files.items():
            source = dataset.source(split)
            assert relative(source, tmp_path) == expected
            for i in range(len(source)):
                example = source[i]
                assert example['label'] == ('dog' in example['name'])
                assert example['image'] == jpeg()
        assert relative(dataset.source('val'), tmp_path) == files['validation']

    @pytest.mark.parametrize('name', ['val', 'validation', 'Validation'])
    def test_names_of_the_validation_folder(self, tmp_path, name):
        make(tmp_path, 'train/a/1.jpg', f'{name}/a/2.jpg')
        dataset = data.open_folder(tmp_path)
        assert dataset.splits == {'train': 1, 'validation': 1}
        assert relative(dataset.source('val[:100%]'), tmp_path) == {f'{name}/a/2.jpg'}

    def test_train_alone(self, tmp_path):
        make(tmp_path, *[f'train/a/{i}.jpg' for i in range(9)])
        assert data.open_folder(tmp_path).splits == {'train': 9}

    def test_a_class_that_test_lacks_shifts_no_label(self, tmp_path):
        make(tmp_path, 'train/a/1.jpg', 'train/b/2.jpg', 'test/b/3.jpg')
        source = data.open_folder(tmp_path).source('test')
        assert source[0]['label'] == 1
        assert source.class_names == ('a', 'b')

    def test_class_missing_in_train(self, tmp_path):
        make(tmp_path, 'train/terrier/1.jpg', 'train/b/2.jpg', 'test/Terrier/3.jpg')
        with pytest.raises(ValueError, match=r"'Terrier' in test but .* terrier\?"):
            data.open_folder(tmp_path)

    @pytest.mark.parametrize('split', ['train', 'val'])
    def test_empty_class(self, tmp_path, split):
        make(tmp_path, 'train/a/1.jpg', 'train/b/1.jpg', 'val/a/1.jpg')
        make(tmp_path, f'{split}/c/deep/readme.txt', f'{split}/c/.hidden.jpg')
        with pytest.raises(ValueError, match=rf"{split}: found no images in 1 .*'c'"):
            data.open_folder(tmp_path)

    def test_without_train_there_is_judging(self, tmp_path):
        make(tmp_path, 'test/a/1.jpg', 'val/a/1.jpg')
        assert data.open_folder(tmp_path).splits == {'test': 1, 'validation': 1}

    def test_two_validation_folders(self, tmp_path):
        make(tmp_path, 'train/a/1.jpg', 'val/a/1.jpg', 'validation/a/1.jpg')
        with pytest.raises(ValueError, match="both 'val' and 'validation'"):
            data.open_folder(tmp_path)

    def test_hidden_files_and_other_files_are_ignored(self, tmp_path):
        make(
            tmp_path,
            'train/a/1.jpg',
            'train/a/.2.jpg',
            'train/a/.cache/3.jpg',
            'train/.b/4.jpg',
            'train/a/5.txt',
            'train/a/jpg',
            '.git/a/6.jpg',
        )
        (tmp_path / 'train/a/folder.jpg').mkdir()
        dataset = data.open_folder(tmp_path)
        assert relative(dataset.source('train'), tmp_path) == {'train/a/1.jpg'}

    def test_links_are_followed(self, tmp_path):
        make(tmp_path, 'store/1.jpg', 'photos/train/a/2.jpg')
        root = tmp_path / 'photos'
        (root / 'train/a/link.jpg').symlink_to(tmp_path / 'store/1.jpg')
        (root / 'train/b').symlink_to(tmp_path / 'store')
        (root / 'train/a/loop').symlink_to(root / 'train')
        dataset = data.open_folder(root)
        assert dataset.class_names == ('a', 'b')
        found = relative(dataset.source('train'), root)
        assert {'train/a/2.jpg', 'train/a/link.jpg', 'train/b/1.jpg'} <= found
        assert len(found) < 9

    def test_odd_names(self, tmp_path):
        odd = ['train/ä é/ü 图.jpg', 'train/ä é/a\nb.jpg', 'train/ä é/x,"y.jpg']
        make(tmp_path, *odd)
        bad = os.fsencode(tmp_path) + b'/train/b/\xff\xfe/\xff.jpg'
        os.makedirs(os.path.dirname(bad))
        with open(bad, 'wb') as file:
            file.write(jpeg())
        source = data.open_folder(tmp_path).source('train')
        assert {os.fsencode(name) for name in names(source)} == {
            *(os.fsencode(tmp_path / name) for name in odd),
            bad,
        }


class TestFolderOfClasses:
    @pytest.fixture
    def root(self, tmp_path):
        """Classes of 50, 20, 4 and 2 images."""
        for name, count in {'a': 50, 'b': 20, 'c': 4, 'd': 2}.items():
            make(tmp_path, *[f'{name}/{i % 3}/{i}.jpg' for i in range(count)])
        return tmp_path

    def test_holds_out_a_part_of_each_class(self, root):
        dataset = data.open_folder(root)
        assert dataset.class_names == ('a', 'b', 'c', 'd')
        count = {
            split: np.bincount(
                [dataset.source(split)[i]['label'] for i in range(size)], minlength=4
            ).tolist()
            for split, size in dataset.splits.items()
        }
        assert count == {
            'train': [40, 16, 2, 2],
            'validation': [5, 2, 1, 0],
            'test': [5, 2, 1, 0],
        }
        parts = [relative(dataset.source(split), root) for split in dataset.splits]
        assert len(set.union(*parts)) == sum(map(len, parts)) == 76

    @pytest.mark.parametrize(
        ('holdout', 'splits'),
        [
            (0.0, {'train': 76}),
            (0.25, {'train': 38, 'validation': 19, 'test': 19}),
            (0.49, {'train': 7, 'validation': 34, 'test': 34}),
        ],
    )
    def test_holdout(self, root, holdout, splits):
        found = data.open_folder(root, holdout=holdout).splits
        assert found.keys() == splits.keys()
        assert all(abs(found[name] - splits[name]) <= 2 for name in splits)

    @pytest.mark.parametrize('holdout', [-0.1, 0.5, 1.0])
    def test_impossible_holdout(self, root, holdout):
        with pytest.raises(ValueError, match=f'holdout={holdout}'):
            data.open_folder(root, holdout=holdout)

    def test_any_slice_is_a_fair_sample(self, root):
        source = data.open_folder(root, holdout=0.0).source('train[:50%]')
        labels = [source[i]['label'] for i in range(len(source))]
        assert 15 <= labels.count(0) <= 35
        assert 4 <= labels.count(1) <= 16
        assert labels != sorted(labels)

    def test_does_not_depend_on_where_and_how_files_lie(self, root, tmp_path_factory):
        """Another place, and files created in another order."""
        other = tmp_path_factory.mktemp('other')
        files = sorted(path for path in root.rglob('*.jpg'))
        make(other, *[str(path.relative_to(root)) for path in reversed(files)])
        for split in ('train', 'val', 'test'):
            a = data.open_folder(root).source(split)
            b = data.open_folder(other).source(split)
            assert [name.removeprefix(str(root)) for name in names(a)] == [
                name.removeprefix(str(other)) for name in names(b)
            ]
            assert a.fingerprint() == b.fingerprint()

    def test_fingerprint_tells_lists_apart(self, root):
        def fingerprint():
            return data.open_folder(root).source('train').fingerprint()

        first = fingerprint()
        assert first == fingerprint()
        victim = names(data.open_folder(root).source('train'))[7]
        renamed = pathlib.Path(victim).with_name('renamed.jpg')
        os.rename(victim, renamed)
        second = fingerprint()
        assert second != first
        os.rename(root / 'b', root / 'e')
        assert fingerprint() not in (first, second)

    def test_images_without_classes(self, tmp_path):
        make(tmp_path, '1.jpg', '2.jpg')
        with pytest.raises(ValueError, match='2 images and no folders'):
            data.open_folder(tmp_path)

    def test_nothing(self, tmp_path):
        with pytest.raises(ValueError, match='found no folders'):
            data.open_folder(tmp_path)

    def test_is_what_open_dataset_opens(self, root):
        dataset = data.open_dataset(str(root), holdout=0.2)
        assert dataset.splits == data.open_folder(root, holdout=0.2).splits

    def test_trains(self, root):
        source = data.open_folder(root).source('train')
        with data.train_batches(
            source, data.Augment((8, 8)), batch=5, seed=0
        ) as batches:
            assert next(batches)['image'].shape == (5, 8, 8, 3)

    def test_a_file_that_does_not_decode_is_named(self, tmp_path):
        make(tmp_path, 'train/a/1.jpg')
        (tmp_path / 'train/a/2.jpg').write_bytes(jpeg()[:-50])
        source = data.open_folder(tmp_path).source('train')
        batches = data.eval_batches(source, data.Preprocess((8, 8)), batch=2)
        with pytest.raises(data.UndecodableImage, match=r'train/a/2\.jpg does not'):
            next(batches)

    def test_a_file_that_has_gone_is_named(self, tmp_path):
        make(tmp_path, 'train/a/1.jpg')
        source = data.open_folder(tmp_path).source('train')
        (tmp_path / 'train/a/1.jpg').unlink()
        with pytest.raises(FileNotFoundError, match=r'train/a/1\.jpg'):
            source[0]


class TestLayoutsThatAreTakenForOthers:
    """Half of these were two classes, 'Training' and 'Testing', once."""

    @pytest.mark.parametrize(
        ('train', 'test'),
        [
            ('Training', 'Testing'),
            ('training_set', 'test_set'),
            ('seg_train', 'seg_test'),
        ],
    )
    def test_splits_by_other_names(self, tmp_path, train, test):
        make(tmp_path, f'{train}/a/1.jpg', f'{train}/b/2.jpg', f'{test}/a/3.jpg')
        dataset = data.open_folder(tmp_path)
        assert dataset.splits == {'train': 2, 'test': 1}
        assert dataset.class_names == ('a', 'b')

    @pytest.mark.parametrize('name', ['extra', 'train2', 'seg_pred', 'unlabelled'])
    def test_what_is_no_split_beside_some_is_refused(self, tmp_path, name):
        make(tmp_path, 'train/a/1.jpg', f'{name}/a/2.jpg')
        with pytest.raises(ValueError, match=f"'{name}' beside 'train', and it is no"):
            data.open_folder(tmp_path)
        # As the message says.
        (tmp_path / name).rename(tmp_path.with_name(f'{tmp_path.name}-{name}'))
        assert data.open_folder(tmp_path).splits == {'train': 1}

    def test_a_folder_without_images_beside_splits_is_told(self, tmp_path, caplog):
        make(tmp_path, 'train/a/1.jpg', 'annotations/1.xml')
        assert data.open_folder(tmp_path).splits == {'train': 1}
        assert '1 without images beside the splits (annotations)' in caplog.text

    def test_splits_inside_classes_are_refused(self, tmp_path):
        make(tmp_path, *[f'{c}/{s}/1.jpg' for c in 'ab' for s in ('train', 'test')])
        with pytest.raises(ValueError, match=r"each of 'a', 'b' holds 'test', 'train'"):
            data.open_folder(tmp_path)

    def test_a_folder_around_it_all_is_told(self, tmp_path):
        make(tmp_path, *[f'photos/{s}/a/1.jpg' for s in ('train', 'test')])
        with pytest.raises(ValueError, match='alone, which holds') as raised:
            data.open_folder(tmp_path)
        meant = str(raised.value).split(' Is ')[1].removesuffix(' meant?')
        assert data.open_folder(meant).splits == {'train': 1, 'test': 1}

    def test_a_class_that_is_called_as_a_split(self, tmp_path):
        make(tmp_path, 'car/1.jpg', 'train/2.jpg', 'tram/3.jpg')
        dataset = data.open_folder(tmp_path, holdout=0)
        assert dataset.class_names == ('car', 'train', 'tram')

    def test_splits_without_classes_are_refused(self, tmp_path):
        make(tmp_path, 'train/1.jpg', 'test/2.jpg')
        with pytest.raises(ValueError, match='images and no folders in them'):
            data.open_folder(tmp_path)
