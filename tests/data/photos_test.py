"""Photos: what a path or a pattern finds, and what is said where it finds nothing."""

import os
import pathlib
import pickle

import numpy as np
import pytest
from PIL import Image

from vit_jax import data
from vit_jax.data.photos import Photos


@pytest.fixture
def album(tmp_path):
    for name in ('b.jpg', 'a.PNG', 'deep/er/c.webp', '.hidden.png', '.dir/d.png'):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        suffix = path.suffix[1:].upper().replace('JPG', 'JPEG')
        Image.new('RGB', (5, 4), (200, 10, 30)).save(path, suffix)
    (tmp_path / 'notes.txt').write_text('no image')
    return tmp_path


def found(album: pathlib.Path, *patterns: str) -> list[str]:
    names = Photos([str(album / p) for p in patterns]).names
    return [os.path.relpath(name, album) for name in names]


def test_a_folder_gives_its_images_in_order(album):
    assert found(album, '') == ['a.PNG', 'b.jpg', 'deep/er/c.webp']
    assert found(album, 'deep') == ['deep/er/c.webp']


def test_files_keep_the_order_in_which_they_are_named(album):
    assert found(album, 'b.jpg', 'a.PNG', 'b.jpg') == ['b.jpg', 'a.PNG', 'b.jpg']
    # Who names a file means it.
    assert found(album, 'notes.txt') == ['notes.txt']


def test_patterns(album):
    assert found(album, '*.jpg') == ['b.jpg']
    assert found(album, '*') == ['a.PNG', 'b.jpg', 'deep/er/c.webp']
    assert found(album, '**/*.webp') == ['deep/er/c.webp']
    assert sorted(found(album, '**')) == ['a.PNG', 'b.jpg', 'deep/er/c.webp']


def test_a_name_with_wildcards_in_it_is_a_file(album):
    (album / 'b.jpg').rename(album / 'b[1].jpg')
    assert found(album, 'b[1].jpg') == ['b[1].jpg']


def test_home(album, monkeypatch):
    monkeypatch.setenv('HOME', str(album))
    assert Photos('~/b.jpg').names == (str(album / 'b.jpg'),)


def test_it_is_a_source_that_travels(album):
    photos = pickle.loads(pickle.dumps(Photos(album)))
    assert isinstance(photos, data.Source)
    assert (len(photos), photos.class_names) == (3, ())
    example = photos[1]
    assert (example['label'], example['name']) == (-1, str(album / 'b.jpg'))
    assert data.pixels(example['image']).shape == (4, 5, 3)
    assert photos.fingerprint() == Photos(album).fingerprint()
    assert photos.fingerprint() != Photos(album / 'b.jpg').fingerprint()
    with pytest.raises(IndexError):
        photos[3]
    (batch,) = data.eval_batches(photos, batch=4, size=(2, 2))
    assert batch['label'].tolist() == [-1, -1, -1, 0]
    np.testing.assert_array_equal(batch['mask'], [1, 1, 1, 0])


def test_a_photo_that_has_gone_is_an_image_that_does_not_decode(album):
    photos = Photos(album)
    (album / 'b.jpg').unlink()
    with pytest.raises(data.UndecodableImage, match=r'b\.jpg.*No such file'):
        photos[1]


@pytest.mark.parametrize(
    ('path', 'message'),
    [
        ('c.jpg', r'c\.jpg: there is no such file; did you mean b\.jpg'),
        ('nowhere/c.jpg', 'nor the folder .*nowhere'),
        ('empty', r'no images in this folder: it is empty'),
        ('texts', r'no images in this folder: found a\.txt, expected .*\.jpeg'),
        ('*.txt', r'no images among the 1 files .* pattern: .*notes\.txt'),
        ('*.gif', r'no images among the 0 files'),
    ],
)
def test_nothing_found(album, path, message):
    (album / 'empty').mkdir()
    (album / 'texts').mkdir()
    (album / 'texts/a.txt').touch()
    with pytest.raises(ValueError, match=message):
        Photos(album / path)


def test_nothing_named_and_urls():
    with pytest.raises(ValueError, match='no photos are named'):
        Photos([])
    with pytest.raises(ValueError, match='is a URL'):
        Photos('https://example.com/cat.jpg')
