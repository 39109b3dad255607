"""Photos: what a path or a pattern finds, and what is said where it finds nothing."""

import gc
import os
import pathlib
import pickle

import numpy as np
import pytest
import web
from PIL import Image

from vit_jax import data
from vit_jax.data.datasets import photos as photos_lib
from vit_jax.data.datasets.photos import Photos
from vit_jax.files import fetch


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


def test_folders_without_images_among_those_of_a_pattern(album, caplog):
    (album / 'empty').mkdir()
    (album / 'deep/none').mkdir()
    assert found(album, '[de]*') == ['deep/er/c.webp']
    assert sorted(found(album, '**')) == ['a.PNG', 'b.jpg', 'deep/er/c.webp']
    # What is left out is told once, and not for each folder that it is below.
    assert caplog.text.count('1 of kind .txt') == 1
    with pytest.raises(ValueError, match='no images among the 1 files and folders'):
        found(album, 'emp*')


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
    (batch,) = data.eval_batches(photos, data.Preprocess((2, 2)), batch=4)
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
        ('c.jpg', r'c\.jpg: there is no such file\. Did you mean b\.jpg'),
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


def test_nothing_named():
    with pytest.raises(ValueError, match='no photos are named'):
        Photos([])


def test_contents_that_are_nowhere(album):
    content = (album / 'b.jpg').read_bytes()
    photos = Photos(['-', album / 'a.PNG', '-'], {'-': content})
    assert photos.names == ('-', str(album / 'a.PNG'), '-')
    assert photos[0]['image'] == photos[2]['image'] == content
    other = Photos(['-', album / 'a.PNG', '-'], {'-': content[:-1]})
    assert photos.fingerprint() != other.fingerprint()
    with pytest.raises(ValueError, match='-: there is no such file'):
        Photos('-')


@pytest.fixture
def server(album, monkeypatch):
    """A web server with one photo, which plays all services."""
    with web.serving() as server:
        content = (album / 'b.jpg').read_bytes()
        server.files['/b.jpg'] = server.files['/bucket/a folder/b+.jpg'] = content
        server.add_repo('owner/repo', {'deep/b.jpg': content})
        server.add_repo('datasets/owner/repo', {'b.jpg': content}, 'v1')
        monkeypatch.setenv('STORAGE_EMULATOR_HOST', server.url)
        monkeypatch.setenv('HF_ENDPOINT', server.url)
        monkeypatch.setattr('time.sleep', lambda seconds: None)  # between tries
        yield server


@pytest.mark.parametrize(
    'url',
    [
        '{server}/b.jpg',
        '{server}/b.jpg?size=large',
        'gs://bucket/a folder/b+.jpg',
        'hf://owner/repo/deep/b.jpg',
        'hf://datasets/owner/repo/b.jpg@v1',
        'hf://datasets/owner/repo@v1/b.jpg',
    ],
)
def test_addresses(album, server, url):
    server.files['/b.jpg?size=large'] = server.files['/b.jpg']
    name = url.format(server=server.url)
    photos = Photos([name, album / 'a.PNG'])
    assert photos.names == (name, str(album / 'a.PNG'))
    example = photos[0]
    assert example == {
        'image': (album / 'b.jpg').read_bytes(),
        'label': -1,
        'name': name,
    }


def test_an_address_is_asked_once_and_leaves_nothing(server, monkeypatch, tmp_path):
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path / 'temporary'))
    (tmp_path / 'temporary').mkdir()
    names = [f'{server.url}/b.jpg', f'{server.url}/b.jpg', f'{server.url}/c.jpg']
    photos = Photos(names)
    assert server.requests == []
    copy = pickle.loads(pickle.dumps(photos))  # as in a worker process
    for source in (photos, copy, photos):
        assert source[0] == source[1]
        for _ in range(2):
            with pytest.raises(data.UndecodableImage, match=r'no such file .404'):
                source[2]
    assert server.gets('/b.jpg') == server.gets('/c.jpg') == 1
    del copy, source
    gc.collect()
    assert list((tmp_path / 'temporary').iterdir())
    del photos
    gc.collect()
    assert not list((tmp_path / 'temporary').iterdir())


@pytest.mark.parametrize('fault', [503, 'truncate', 'stall'])
def test_a_server_that_fails_is_asked_again(server, fault, monkeypatch):
    monkeypatch.setattr(fetch, 'TIMEOUT', 0.2)
    server.stall_seconds = 0.4
    server.faults['/b.jpg'] = [2, fault]
    assert Photos(f'{server.url}/b.jpg')[0]['image'] == server.files['/b.jpg']
    assert server.gets('/b.jpg') == 3


@pytest.mark.parametrize(
    ('fault', 'reason', 'gets'),
    [
        (403, 'access is refused .403', 1),
        (500, 'the server answered 500', 4),
        ('truncate', 'the connection broke before the end', 4),
        ('stall', 'the server sent nothing for 0.2 seconds', 4),
        (('redirect', '/b.jpg'), 'cannot be followed .*30 redirects', 31),
    ],
)
def test_a_server_that_goes_on_failing(server, fault, reason, gets, monkeypatch):
    monkeypatch.setattr(fetch, 'TIMEOUT', 0.2)
    server.stall_seconds = 0.4
    server.faults['/b.jpg'] = [1000, fault]
    with pytest.raises(data.UndecodableImage, match=reason) as caught:
        Photos(f'{server.url}/b.jpg')[0]
    assert caught.value.name == f'{server.url}/b.jpg'
    assert server.gets('/b.jpg') == gets


@pytest.mark.parametrize('url', ['http://[/b.jpg', 'http://?/b.jpg'])
def test_addresses_that_are_none(url):
    with pytest.raises(data.UndecodableImage, match='cannot be followed'):
        Photos(url)[0]


def test_no_server(monkeypatch):
    monkeypatch.setattr('time.sleep', lambda seconds: None)
    with web.serving() as server:
        url = server.url
    with pytest.raises(data.UndecodableImage, match=r'reached \(Connection refused\)'):
        Photos(f'{url}/b.jpg')[0]


def test_more_than_a_photo_can_have(server, monkeypatch):
    monkeypatch.setattr(photos_lib, 'MAX_BYTES', 1 << 20)
    server.files['/b.jpg'] = bytes(1 << 20)
    assert len(Photos(f'{server.url}/b.jpg')[0]['image']) == 1 << 20
    server.files['/b.jpg'] += b'\0'
    with pytest.raises(data.UndecodableImage, match='more than 1 MiB'):
        Photos(f'{server.url}/b.jpg')[0]


@pytest.mark.parametrize(
    ('url', 'message'),
    [
        ('ftp://host/b.jpg', 'one of http://, https://, gs://, hf://, not ftp://'),
        ('hf://owner/repo', 'names no file'),
        ('gs://bucket', 'names no file'),
        ('http://', 'names no file'),
    ],
)
def test_addresses_of_another_kind(url, message):
    with pytest.raises(ValueError, match=message):
        Photos(url)
