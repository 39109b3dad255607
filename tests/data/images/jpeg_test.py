"""A part of a JPEG file is that part of the whole picture, bit for bit."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from vit_jax.data.images import decoding, jpeg

HEIGHT, WIDTH = 101, 147
SUBSAMPLING = {'4:4:4': 0, '4:2:2': 1, '4:2:0': 2}


@pytest.fixture(scope='module')
def photo():
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    return Image.fromarray(cv2.resize(noise, (WIDTH, HEIGHT)))


def encode(image: Image.Image, orientation: int = 1, **options) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, 'JPEG', exif=exif, **options)
    return file.getvalue()


def boxes(height: int, width: int) -> list[jpeg.Box]:
    """Returns parts of every height, and some corners."""
    rng = np.random.default_rng(1)
    found = [(0, 0, height, width), (0, 0, 1, 1), (height - 1, width - 1, 1, 1)]
    for h in range(1, height):
        top = rng.integers(0, height - h + 1)
        left, w = sorted(rng.integers(0, width, 2))
        found.append((int(top), int(left), h, int(w - left + 1)))
    return found


def assert_parts_are_of_the_whole(data: bytes):
    whole = decoding.decode(data)
    assert decoding.jpeg_size(data) == whole.shape[:2]
    for box in boxes(*whole.shape[:2]):
        top, left, height, width = box
        np.testing.assert_array_equal(
            decoding.decode(data, box=box),
            whole[top : top + height, left : left + width],
        )


@pytest.mark.parametrize('subsampling', SUBSAMPLING)
@pytest.mark.parametrize(
    'options', [{}, {'restart_marker_rows': 1}, {'restart_marker_blocks': 3}]
)
def test_every_part_of_a_file(photo, subsampling, options):
    data = encode(photo, subsampling=SUBSAMPLING[subsampling], **options)
    assert jpeg.read_header(data).height_at
    assert_parts_are_of_the_whole(data)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientations(photo, orientation):
    assert_parts_are_of_the_whole(encode(photo, orientation))


@pytest.mark.parametrize('mode', ['L', 'CMYK'])
def test_other_colours(photo, mode):
    data = encode(photo.convert(mode))
    assert (jpeg.read_header(data).height_at > 0) == (mode == 'L')
    assert_parts_are_of_the_whole(data)


def test_progressive_files_are_decoded_whole(photo):
    data = encode(photo, progressive=True)
    header = jpeg.read_header(data)
    assert (header.height, header.width, header.height_at) == (HEIGHT, WIDTH, 0)
    assert_parts_are_of_the_whole(data)


def test_no_more_rows_are_decoded_than_needed(photo, monkeypatch):
    sizes = []
    real = jpeg.simplejpeg.decode_jpeg
    monkeypatch.setattr(
        jpeg.simplejpeg,
        'decode_jpeg',
        lambda *args, buffer=None, **kwargs: (
            sizes.append(None if buffer is None else len(buffer))
            or real(*args, buffer=buffer, **kwargs)
        ),
    )
    decoding.decode(encode(photo), box=(10, 20, 30, 40))
    decoding.decode(encode(photo, 3), box=(10, 20, 30, 40))
    decoding.decode(encode(photo, 6), box=(10, 20, 30, 40))
    decoding.decode(encode(photo), box=(10, 20, HEIGHT - 10, 40))
    assert sizes == [42, HEIGHT - 10 + 2, HEIGHT - 20 + 2, None]


@pytest.mark.parametrize('box', [None, (0, 0, 8, 8), (80, 0, 21, 8)])
@pytest.mark.parametrize('part', [0.0, 0.1, 0.5, 0.9, 1.0])
def test_a_file_that_ends_too_early_is_found_out(photo, box, part):
    data = encode(photo)
    start = data.index(b'\xff\xda')
    data = data[: start + int(part * (len(data) - 2 - start))]
    with pytest.raises(decoding.UndecodableImage, match=r'a\.jpg does not decode'):
        decoding.decode(data, 'a.jpg', box=box)


def test_damage_is_found_in_the_rows_that_are_needed(photo):
    data = encode(photo, restart_marker_rows=1)
    third = data.index(b'\xff\xd2')  # of the restart markers: behind row 48
    data = data[: third - 40] + bytes(40) + data[third:]
    for box in (None, (60, 0, 20, 20), (0, 0, 60, 20)):
        with pytest.raises(decoding.UndecodableImage, match='Corrupt JPEG data'):
            decoding.decode(data, box=box)
    assert decoding.decode(data, box=(0, 0, 20, 20)).shape == (20, 20, 3)


@pytest.mark.parametrize('orientation', [1, 6])
def test_bytes_between_segments_do_no_harm(photo, orientation):
    good = encode(photo, orientation)
    # Behind the segment with the orientation; libjpeg warns of it.
    at = 4 + int.from_bytes(good[4:6], 'big')
    data = good[:at] + b'\0\0\0' + good[at:]
    whole = decoding.decode(good)  # the other one by Pillow, with another DCT
    assert np.abs(decoding.decode(data).astype(int) - whole).mean() < 2
    assert decoding.decode(data, box=(3, 5, 10, 20)).shape == (10, 20, 3)


@pytest.mark.parametrize('header', [b'', b'\xff\xd8', b'\xff\xd8\xff\xe1', b'no'])
def test_headers_that_say_nothing(header):
    assert jpeg.read_header(header) == jpeg.Header()
    assert decoding.jpeg_size(header) is None
