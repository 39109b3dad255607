"""What people may have for photos and folders: a right answer or a clear error each.

2,000 image files that are damaged, or whole with metadata that nobody expects; and 500
folders and manifests. Nothing hangs, and nothing but a ValueError is raised.
"""

import csv
import io
import logging
import os
import random
import re
import struct
import time
import zlib

import jax
import numpy as np
import photo_files
import pytest
from PIL import Image

from vit_jax import checkpoint, data, models, predict
from vit_jax.data.datasets import folder as folder_lib

# Seconds that one file or folder may take on a machine that is busy.
_PATIENCE = 20


def pixels(rng: random.Random) -> np.ndarray:
    """Smooth colours: JPEG keeps them almost."""
    y, x = np.mgrid[: rng.randint(9, 40), : rng.randint(9, 40)]
    return np.uint8(np.stack([5 * x, 6 * y, 255 - 3 * x - 3 * y], axis=-1).clip(0, 255))


def saved(rng: random.Random, kind: str) -> tuple[bytes, np.ndarray]:
    """Returns a file of a kind, and what is in it."""
    array, file = pixels(rng), io.BytesIO()
    if kind == 'npy':
        np.save(file, array)
        return file.getvalue(), array
    options = {
        'jpeg': {'quality': 95, 'progressive': rng.random() < 0.5},
        'webp': {'lossless': True},
        'tiff': {'compression': rng.choice([None, 'tiff_lzw', 'tiff_deflate'])},
    }.get(kind, {})
    image = Image.fromarray(array)
    if kind == 'gif':
        image = image.quantize()
    image.save(file, kind, **options)
    with Image.open(io.BytesIO(file.getvalue())) as again:
        return file.getvalue(), np.asarray(again.convert('RGB'))


KINDS = ('jpeg', 'png', 'webp', 'gif', 'bmp', 'tiff', 'ppm', 'npy')


def truncate(content: bytearray, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def flip_bits(content: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.choice([1, 5, 50])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return content


def damage_header(content: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.choice([1, 3, 10])):
        content[rng.randrange(min(60, len(content)))] = rng.randrange(256)
    return content


def drop(content: bytearray, rng: random.Random) -> bytes:
    start = rng.randrange(len(content))
    return content[:start] + content[start + rng.randint(1, 300) :]


def repeat(content: bytearray, rng: random.Random) -> bytes:
    start = rng.randrange(len(content))
    return content[: start + rng.randint(1, 300)] + content[start:]


def splice(content: bytearray, rng: random.Random) -> bytes:
    """The beginning of one file and the end of another."""
    other, _ = saved(rng, rng.choice(KINDS))
    return content[: rng.randrange(len(content))] + other[rng.randrange(len(other)) :]


DAMAGES = (truncate, flip_bits, damage_header, drop, repeat, splice)


@pytest.mark.filterwarnings('ignore')  # of Pillow, about the damage
@pytest.mark.parametrize('kind', KINDS)
def test_damaged_images(kind):
    """1,600 files: pixels of the right type and shape, or a reason with the name."""
    preprocess = data.Preprocess((16, 16))
    decoded, said = 0, {}
    for seed in range(200):
        rng = random.Random(f'{kind} {seed}')
        content, _ = saved(rng, kind)
        damaged = bytes(rng.choice(DAMAGES)(bytearray(content), rng))
        begin = time.monotonic()
        try:
            found = preprocess(damaged, f'photo {seed}')
        except ValueError as error:
            said[f'photo {seed}'] = str(error)
        else:
            decoded += 1
            assert found.shape == (16, 16, 3)
            assert found.dtype == np.float32
            assert np.isfinite(found).all()
            assert abs(found).max() <= 1
        assert time.monotonic() - begin < _PATIENCE
    assert decoded + len(said) == 200
    assert decoded
    assert_clear(said)


def assert_clear(said: dict[str, str]) -> None:
    """Requires that errors are one line each, with the name of what is wrong."""
    assert said
    for name, message in said.items():
        assert name in message
        assert '\n' not in message


def png_with(content: bytes, rng: random.Random) -> bytes:
    """Adds a chunk of nonsense that a reader may pass over, in front of the pixels."""
    kind = rng.choice([b'tEXt', b'zTXt', b'iTXt', b'iCCP', b'eXIf', b'gAMA', b'vpAg'])
    body = rng.randbytes(rng.randrange(80))
    chunk = struct.pack('>I', len(body)) + kind + body
    chunk += struct.pack('>I', zlib.crc32(kind + body))
    return content[:33] + chunk + content[33:]


def jpeg_with(content: bytes, rng: random.Random) -> bytes:
    """Adds a segment of an application, after the first one."""
    segment = bytes([0xFF, rng.choice([0xE2, 0xE3, 0xED, 0xEE, 0xFE])])
    body = rng.randbytes(rng.randrange(80))
    return (
        content[:20] + segment + struct.pack('>H', len(body) + 2) + body + content[20:]
    )


def webp_with(content: bytes, rng: random.Random) -> bytes:
    """Adds a chunk after the pixels."""
    body = rng.randbytes(2 * rng.randrange(40))
    chunk = (
        rng.choice([b'EXIF', b'XMP ', b'abcd']) + struct.pack('<I', len(body)) + body
    )
    return (
        b'RIFF' + struct.pack('<I', len(content) - 8 + len(chunk)) + content[8:] + chunk
    )


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(
    ('kind', 'add'), [('png', png_with), ('jpeg', jpeg_with), ('webp', webp_with)]
)
def test_odd_metadata(kind, add):
    """400 whole images with nonsense beside their pixels: the pixels are read."""
    for seed in range(134):
        rng = random.Random(f'{kind} metadata {seed}')
        content, expected = saved(rng, kind)
        read = data.images.decoding.pixels
        found = read(add(content, rng), f'photo {seed}', 3)
        if kind == 'jpeg':  # decoders differ by a few, and the same does not
            expected = read(content, f'photo {seed}', 3)
        np.testing.assert_array_equal(found, expected, err_msg=str(seed))


SPLITS = (
    'train',
    'Training',
    'val',
    'valid',
    'test',
    'dev',
    'seg_test',
    'extra',
    'Test',
)
CLASSES = ('cat', 'dog', 'Eel', 'fox fox', '\u732b', "o'neill", 'a,b', 'train')


def make_layout(root, rng: random.Random) -> None:
    """Makes a folder as somebody may have it."""
    photo, names = photo_files.jpeg(), []
    has_splits = rng.random() < 0.6
    splits = rng.sample(SPLITS, rng.randint(1, 3)) if has_splits else ['']
    if has_splits and rng.random() < 0.8 and 'train' not in splits:
        splits[0] = 'train'
    classes = rng.sample(CLASSES, rng.randint(1, 4))
    for split in splits:
        inside = list(classes)
        if rng.random() < 0.1:
            inside.append('only here')
        for label in inside:
            (root / split / label).mkdir(parents=True, exist_ok=True)
            for i in range(rng.choice([0, 1, 2, 3, 5]) if rng.random() < 0.2 else 4):
                below = rng.choice(['', '', '', 'deeper', 'a/b'])
                suffix = rng.choice(['.jpg', '.jpg', '.JPEG', '.Jpg'])
                names.append(os.path.join(split, label, below, f'{i}{suffix}'))
    for _ in range(rng.randrange(6)):
        place = rng.choice([os.path.dirname(name) for name in names] or [''])
        above = rng.choice([place, os.path.dirname(place), ''])
        kinds = [
            '.DS_Store',
            'notes.txt',
            'Thumbs.db',
            'a.jpg',
            'b.pdf',
            'c.xmp',
            'noext',
        ]
        names.append(os.path.join(above, rng.choice(kinds)))
    for name in dict.fromkeys(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo)


@pytest.mark.parametrize('part', range(3))
def test_folders(part, tmp_path, caplog):
    """300 folders: each file is used or counted, or the error names the folder."""
    opened, said = 0, {}
    for seed in range(100 * part, 100 * (part + 1)):
        root = tmp_path / f'photos {seed}'
        root.mkdir()
        make_layout(root, random.Random(seed))
        everything = sum(len(files) for _, _, files in os.walk(root))
        caplog.clear()
        try:
            with caplog.at_level(logging.WARNING):
                dataset = folder_lib.open_folder(root)
        except ValueError as error:
            said[str(root)] = str(error)
            continue
        opened += 1
        used = [
            path for name in dataset.splits for path in dataset.source(name).paths()
        ]
        assert len(used) == len(set(used))
        told = ' '.join(record.getMessage() for record in caplog.records)
        left_out = sum(map(int, re.findall(r'(?:left out: |; )(\d+) ', told)))
        assert len(used) + left_out == everything, told
        for name, count in dataset.splits.items():
            source = dataset.source(name)
            assert len(source) == count
            if count:
                assert source[0]['label'] < len(dataset.class_names)
    assert 20 < opened < 100
    assert_clear(said)


def make_manifest(path, rng: random.Random, photos: list[str]) -> None:
    """Writes a CSV file as somebody may have it."""
    columns = rng.choice(
        [
            ['path', 'label'],
            ['path', 'label', 'split'],
            ['id', 'Path', 'LABEL ', 'split'],
        ]
    )
    text = io.StringIO()
    separator = rng.choice([',', ',', ';', '\t'])
    writer = csv.writer(
        text,
        delimiter=separator,
        quoting=rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
        lineterminator=rng.choice(['\n', '\r\n']),
    )
    writer.writerow(columns)
    for i in range(rng.randint(1, 12)):
        row = {
            'id': str(i),
            'path': rng.choice(photos) if rng.random() < 0.97 else 'gone.jpg',
            'label': rng.choice(['cat', 'dog', 'caf\u00e9', '\u732b']),
            'split': rng.choice(['train', 'train', 'val', 'Test', 'dev']),
        }
        if rng.random() < 0.03:
            row[rng.choice(['label', 'split'])] = rng.choice(['', 'tset', ' '])
        values = [row[name.strip().lower()] for name in columns]
        writer.writerow(values[: len(values) - (rng.random() < 0.02)])
        if rng.random() < 0.1:
            text.write('\n')
    content = text.getvalue()
    if rng.random() < 0.1:
        place = rng.randrange(len(content))
        content = content[:place] + rng.choice('"\x00,') + content[place:]
    encoding = rng.choice(['utf-8', 'utf-8', 'utf-8-sig', 'utf-16', 'latin-1'])
    path.write_bytes(content.encode(encoding, 'replace'))


@pytest.mark.parametrize('part', range(2))
def test_manifests(part, tmp_path):
    """200 manifests: each row is an example, or the error names the file."""
    for name in ('a.jpg', 'b c.jpg', 'd,e.jpg'):
        (tmp_path / name).write_bytes(photo_files.jpeg())
    photos = [path.name for path in tmp_path.iterdir()]
    opened, said = 0, {}
    for seed in range(100 * part, 100 * (part + 1)):
        path = tmp_path / f'{seed}.csv'
        make_manifest(path, random.Random(seed), photos)
        try:
            dataset = data.open_dataset(str(path), holdout=0)
        except ValueError as error:
            said[path.name] = str(error)
            continue
        opened += 1
        assert set(dataset.class_names) <= {'cat', 'dog', 'caf\u00e9', '\u732b'} | (
            {'caf?', '?'}
        )
        for name in dataset.splits:
            source = dataset.source(name)
            for i in range(len(source)):
                assert source[i]['image']
    assert 20 < opened < 100
    assert_clear(said)


@pytest.mark.filterwarnings('ignore')
def test_a_folder_of_damaged_photos_through_the_command(tmp_path, capsys):
    """The broken ones are named with their reason, the others are answered."""
    model = models.get_model('testing', 3)
    variables = model.init(jax.random.key(0), np.zeros((1, 16, 16, 3)))
    card = checkpoint.ModelCard(
        model=models.get_config('testing').to_dict(),
        num_classes=3,
        image_size=(16, 16),
        class_names=['cat', 'dog', 'eel'],
    )
    checkpoint.save(tmp_path / 'model.npz', variables['params'])
    card.save(tmp_path / 'model.json')
    photos = tmp_path / 'photos'
    photos.mkdir()
    for seed in range(100):
        rng = random.Random(seed)
        content, _ = saved(rng, 'jpeg')
        damaged = rng.choice(DAMAGES)(bytearray(content), rng)
        (photos / f'{seed}.jpg').write_bytes(damaged)
    assert predict.main([str(tmp_path / 'model.npz'), str(photos)]) == 1
    out, error = capsys.readouterr()
    named = set(re.findall(r'(\d+)\.jpg', out)) | set(re.findall(r'(\d+)\.jpg', error))
    assert named == {str(seed) for seed in range(100)}
    assert 'Traceback' not in error
