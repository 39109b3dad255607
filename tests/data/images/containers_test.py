"""Metadata never makes whole pixels unusable; what is no image is named."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vit_jax import data
from vit_jax.data.images import containers

PICTURE = Image.fromarray(
    np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
).resize((64, 48))


def encoded(kind: str, **options) -> bytes:
    file = io.BytesIO()
    PICTURE.save(file, kind, **options)
    return file.getvalue()


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x112] = value
    return exif


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack('>H', len(content) + 2) + content


def chunk(kind: bytes, content: bytes, error: int = 0) -> bytes:
    checksum = zlib.crc32(kind + content) ^ error
    return (
        struct.pack('>I', len(content)) + kind + content + struct.pack('>I', checksum)
    )


@pytest.mark.parametrize(
    'added',
    [
        b'\0\0\0',
        b'\xff' * 7,
        segment(0xE0, b''),
        segment(0xE1, b'Exif\0\0'),
        segment(0xE1, b'Exif\0\0II*\0\xff\xff\xff\x7f'),
        segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0' + b'<x' * 900),
        segment(0xE2, b'ICC_PROFILE\0\x02\x09' + b'?' * 99),
        segment(0xE2, b'MPF\0' + b'?' * 20),
        segment(0xED, b'Photoshop 3.0\x008BIM' + b'?' * 30),
        segment(0xEE, b'Adobe'),
        segment(0xFE, bytes(range(256)) * 200),
    ],
)
@pytest.mark.parametrize('turned', [1, 6])
def test_jpeg(added, turned):
    whole = encoded('JPEG', quality=90, exif=orientation(turned))
    expected = data.decode(whole)
    assert expected.shape == ((64, 48, 3) if turned == 6 else (48, 64, 3))
    np.testing.assert_array_equal(data.decode(whole[:2] + added + whole[2:]), expected)


@pytest.mark.parametrize(
    ('kind', 'value'),
    [(3, b'\0\6\0\0'), (4, b'\0\0\0\6'), (9, b'\0\0\0\6')],
)
def test_orientation_in_any_integer(kind, value):
    tiff = b'MM\0*' + struct.pack('>IHHHI', 8, 1, 0x112, kind, 1) + value + b'\0' * 4
    jpeg = encoded('JPEG')
    turned = jpeg[:2] + segment(0xE1, b'Exif\0\0' + tiff) + jpeg[2:]
    assert data.decode(turned).shape == (64, 48, 3)
    assert data.pixels(Image.open(io.BytesIO(turned))).shape == (64, 48, 3)


PNG_KINDS = [
    b'tEXt', b'zTXt', b'iTXt', b'iCCP', b'gAMA', b'cHRM', b'sRGB', b'pHYs', b'tIME',
    b'bKGD', b'hIST', b'sBIT', b'sPLT', b'eXIf', b'acTL', b'fcTL', b'vpAg', b'cICP',
]  # fmt: skip


@pytest.mark.filterwarnings('ignore:Invalid APNG')
@pytest.mark.parametrize('kind', PNG_KINDS)
def test_png(kind):
    whole = encoded('PNG')
    rng = random.Random(str(kind))
    for length in (0, 1, 4, 9, 26, 32, 100):
        for error in (0, 1):
            added = chunk(kind, rng.randbytes(length), error)
            for at in (33, len(whole) - 12):
                odd = whole[:at] + added + whole[at:]
                np.testing.assert_array_equal(data.decode(odd), np.asarray(PICTURE))


@pytest.mark.parametrize(
    'added',
    [
        chunk(b'zTXt', b'Comment\0\0' + zlib.compress(bytes(2_000_000))),
        chunk(b'iTXt', b'XML:com.adobe.xmp\0\1\0\0\0' + zlib.compress(bytes(2 << 20))),
        chunk(b'iCCP', b'p\0\0' + zlib.compress(random.Random(0).randbytes(1_500_000))),
    ],
)
def test_large_comments_of_png(added):
    whole = encoded('PNG')
    found = data.decode(whole[:33] + added + whole[33:])
    np.testing.assert_array_equal(found, np.asarray(PICTURE))


@pytest.mark.parametrize('lossless', [True, False])
@pytest.mark.parametrize('kind', [b'ICCP', b'EXIF', b'XMP '])
def test_webp(lossless, kind):
    options = {'icc_profile': b'x' * 200, 'exif': orientation(1), 'xmp': b'<x/>'}
    whole = encoded('WEBP', lossless=lossless, **options)
    expected = data.decode(whole)
    at = whole.index(kind) + 8
    for seed in range(20):
        odd = bytearray(whole)
        noise = random.Random(seed).randbytes(32)
        odd[at : at + 32] = noise[: len(odd) - at]
        np.testing.assert_array_equal(data.decode(bytes(odd)), expected)


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'WEBP'])
def test_pixels_alone_are_the_same_picture(kind):
    whole = encoded(kind, exif=orientation(1), icc_profile=b'x' * 200)
    alone = containers.without_metadata(whole)
    assert len(alone) < len(whole)
    np.testing.assert_array_equal(data.decode(alone), data.decode(whole))
    assert containers.without_metadata(alone) is None


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'version https://git-lfs.github.com/spec/v1\noid sha256:1', 'git lfs pull'),
        (
            b'<!DOCTYPE html><html><img src="cat.jpg">',
            'gives a page, not what the page shows',
        ),
        (b'%PDF-1.7 ...', 'begins as a PDF does'),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', 'SVG'),
        (b'\x89PNG\r\n\x1a\n' + b'?' * 40, 'begins as a PNG does'),
        (b'PK\x03\x04' + b'?' * 40, 'ZIP archive does.*Unpack it'),
        (b'\0\0\0\x18ftypmp42' + b'?' * 40, 'film'),
        (b'what is this', 'no known image format begins with'),
    ],
)
def test_what_is_no_image_is_called_by_its_name(content, message):
    with pytest.raises(data.UndecodableImage, match=message):
        data.decode(content, 'cat.jpg')


def test_heic():
    pillow_heif = pytest.importorskip('pillow_heif')
    pillow_heif.register_heif_opener()
    found = data.decode(encoded('HEIF', quality=95))
    assert np.abs(found.astype(int) - np.asarray(PICTURE)).mean() < 8


def test_heic_without_its_library(monkeypatch):
    from vit_jax.data.images import decoding

    monkeypatch.setattr(decoding, '_has_heic', lambda: False)
    with pytest.raises(data.UndecodableImage, match=r"install 'vit_jax\[heic\]'"):
        data.decode(b'\0\0\0\x18ftypheic' + b'?' * 40, 'IMG_1.HEIC')


@pytest.mark.parametrize('turned', range(1, 9))
def test_an_opened_jpeg_is_its_file(turned):
    whole = encoded('JPEG', quality=90, exif=orientation(turned))
    image = Image.open(io.BytesIO(whole))
    np.testing.assert_array_equal(data.pixels(image), data.pixels(whole))
    smaller = Image.open(io.BytesIO(whole))
    smaller.draft('RGB', (32, 24))
    assert {*data.pixels(smaller).shape} == {24, 32, 3}
    changed = Image.open(io.BytesIO(whole))
    changed.paste((0, 0, 0), (0, 0, 64, 48))
    assert not data.pixels(changed).any()
