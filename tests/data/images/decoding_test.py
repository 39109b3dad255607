"""From files, PIL images and arrays to pixels."""

import io
import pickle
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from vit_jax.data.images import decoding


def encode(image: np.ndarray | Image.Image, file_format: str, **options) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


class TestDecode:
    def test_jpeg_is_bit_identical_to_tensorflow(self, golden):
        arrays = golden('eval_preprocess.npz')
        for i in range(3):
            decoded = decoding.decode(arrays[f'{i}/jpeg'].tobytes())
            np.testing.assert_array_equal(decoded, arrays[f'{i}/decoded'])

    @pytest.mark.parametrize('file_format', ['PNG', 'BMP', 'TIFF', 'PPM'])
    def test_lossless_formats(self, photo, file_format):
        np.testing.assert_array_equal(
            decoding.decode(encode(photo, file_format)), photo
        )

    @pytest.mark.parametrize('file_format', ['WEBP', 'JPEG'])
    def test_lossy_formats(self, photo, file_format):
        decoded = decoding.decode(encode(photo, file_format, quality=95)).astype(float)
        assert np.abs(decoded - photo).mean() < 4

    @pytest.mark.parametrize('file_format', ['PNG', 'JPEG'])
    def test_grey(self, photo, file_format):
        grey = photo[:, :, 0]
        decoded = decoding.decode(encode(grey, file_format, quality=100))
        assert decoded.shape == (53, 71, 3)
        assert np.abs(decoded[:, :, 1].astype(float) - grey).mean() < 2
        np.testing.assert_array_equal(decoded[:, :, 0], decoded[:, :, 2])

    def test_one_bit(self, photo):
        bits = Image.fromarray(photo[:, :, 0] > 100)
        decoded = decoding.decode(encode(bits, 'PNG'))
        np.testing.assert_array_equal(
            decoded, (photo[:, :, :1] > 100).repeat(3, 2) * np.uint8(255)
        )

    @pytest.mark.parametrize('file_format', ['PNG', 'GIF'])
    def test_palette(self, file_format):
        colours = np.array([[10, 20, 30], [200, 100, 50]], np.uint8)
        index = np.arange(35).reshape(5, 7) % 2
        image = Image.fromarray(index.astype(np.uint8), 'P')
        image.putpalette(colours.tobytes())
        np.testing.assert_array_equal(
            decoding.decode(encode(image, file_format)), colours[index]
        )

    def test_cmyk_jpeg(self, photo):
        data = encode(Image.fromarray(photo).convert('CMYK'), 'JPEG', quality=100)
        expected = np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))
        assert np.abs(decoding.decode(data).astype(float) - expected).mean() < 2

    @pytest.mark.parametrize('file_format', ['PNG', 'TIFF', 'WEBP'])
    def test_alpha_is_dropped(self, photo, file_format):
        alpha = np.full((53, 71, 1), 7, np.uint8)
        image = np.concatenate([photo, alpha], axis=2)
        options = {'lossless': True, 'exact': True} if file_format == 'WEBP' else {}
        decoded = decoding.decode(encode(image, file_format, **options))
        np.testing.assert_array_equal(decoded, photo)

    def test_grey_alpha_is_dropped(self, photo):
        image = Image.fromarray(photo[:, :, :2].copy(), 'LA')
        decoded = decoding.decode(encode(image, 'PNG'))
        np.testing.assert_array_equal(decoded, photo[:, :, :1].repeat(3, 2))

    @pytest.mark.parametrize('file_format', ['PNG', 'TIFF'])
    def test_sixteen_bits_keep_the_upper_eight(self, photo, file_format):
        grey = photo[:, :, 0].astype(np.uint16) * 256 + 255
        decoded = decoding.decode(encode(grey, file_format))
        np.testing.assert_array_equal(decoded, photo[:, :, :1].repeat(3, 2))

    def test_animation_gives_its_first_frame(self):
        frames = [Image.new('RGB', (7, 5), colour) for colour in ('red', 'blue')]
        data = encode(frames[0], 'PNG', save_all=True, append_images=frames[1:])
        np.testing.assert_array_equal(decoding.decode(data)[0, 0], [255, 0, 0])
        data = encode(frames[0], 'GIF', save_all=True, append_images=frames[1:])
        np.testing.assert_array_equal(decoding.decode(data)[0, 0], [255, 0, 0])

    @pytest.mark.parametrize('orientation', range(10))
    @pytest.mark.parametrize('endian', ['<', '>'])
    @pytest.mark.parametrize('file_format', ['JPEG', 'PNG', 'WEBP', 'TIFF'])
    def test_exif_orientation(self, photo, orientation, endian, file_format):
        exif = Image.Exif()
        exif.endian = endian
        exif[0x010F] = 'maker'
        exif[0x0112] = orientation
        data = encode(photo, file_format, exif=exif.tobytes())
        with Image.open(io.BytesIO(data)) as image:
            expected = ImageOps.exif_transpose(image)
        expected = np.asarray(expected).astype(int)
        decoded = decoding.decode(data)
        assert decoded.flags.c_contiguous
        np.testing.assert_allclose(decoded, expected, atol=8)

    def test_damaged_exif_is_ignored(self, photo):
        plain = encode(photo, 'JPEG')
        for exif in [b'II*\0\xff\xff\xff\xff', b'MM', b'nothing', b'']:
            payload = b'Exif\0\0' + exif
            segment = b'\xff\xe1' + (len(payload) + 2).to_bytes(2, 'big') + payload
            data = plain[:2] + segment + plain[2:]
            np.testing.assert_array_equal(decoding.decode(data), decoding.decode(plain))

    def test_jpeg_with_bytes_between_segments(self, photo):
        plain = encode(photo, 'JPEG', quality=95)
        for marker in (b'\xff\xdb', b'\xff\xda', b'\xff\xd9'):
            at = plain.rindex(marker)
            decoded = decoding.decode(plain[:at] + b'\1\2\3' + plain[at:])
            np.testing.assert_allclose(
                decoded.astype(int), decoding.decode(plain), atol=8
            )

    @pytest.mark.parametrize('file_format', ['JPEG', 'PNG'])
    def test_too_large_to_be_decoded(self, file_format):
        """Told by the header alone: nothing is allocated for the pixels."""
        file = io.BytesIO()
        Image.new('L', (20_000, 10)).save(file, file_format)
        whole = file.getvalue()
        if file_format == 'PNG':  # width and height, in the chunk after the signature
            broken = whole[:20] + (20_000).to_bytes(4, 'big') + whole[24:]
            header = broken[12:29]
            crc = zlib.crc32(header).to_bytes(4, 'big')
            broken = broken[:29] + crc + broken[33:]
        else:  # height and width in the start of frame
            at = whole.index(b'\xff\xc0') + 5
            broken = whole[:at] + (20_000).to_bytes(2, 'big') + whole[at + 2 :]
        assert decoding.decode(whole).shape == (10, 20_000, 3)
        tracemalloc.start()
        with pytest.raises(decoding.UndecodableImage, match=r'wall.*make it smaller'):
            decoding.decode(broken, 'wall')
        assert tracemalloc.get_traced_memory()[1] < 10e6
        tracemalloc.stop()

    def test_one_pixel(self):
        file = io.BytesIO()
        Image.new('RGB', (1, 1), (1, 2, 3)).save(file, 'PNG')
        assert decoding.decode(file.getvalue()).tolist() == [[[1, 2, 3]]]

    @pytest.mark.parametrize('file_format', ['JPEG', 'PNG', 'WEBP', 'GIF', 'TIFF'])
    def test_truncated(self, photo, file_format):
        data = encode(photo, file_format)
        with pytest.raises(
            decoding.UndecodableImage, match=r'^cat/1\.x does not decode: '
        ):
            decoding.decode(data[: len(data) // 2], 'cat/1.x')

    def test_jpeg_without_its_last_bytes(self, photo):
        data = encode(photo, 'JPEG')
        with pytest.raises(decoding.UndecodableImage, match='Premature end'):
            decoding.decode(data[:-40], 'a.jpg')

    @pytest.mark.parametrize(
        ('data', 'reason'),
        [
            (b'', 'empty'),
            (b'<html>not found', r'begins as a web page \(HTML\) does'),
            (b'\xff\xd8', 'JPEG'),
            (b'\xff\xd8\xff\xe0\0\x10JFIF', 'JPEG'),
            (b'\x89PNG\r\n\x1a\n', 'begins as a PNG does'),
        ],
    )
    def test_no_image(self, data, reason):
        with pytest.raises(decoding.UndecodableImage, match=reason):
            decoding.decode(data, 'a.jpg')

    def test_floating_point_pixels(self, photo):
        data = encode(photo[:, :, 0].astype(np.float32), 'TIFF')
        with pytest.raises(decoding.UndecodableImage, match='floating-point'):
            decoding.decode(data)

    def test_error_survives_pickling(self):
        error = decoding.UndecodableImage('a.jpg', 'the file is empty', 'Remove it')
        copy = pickle.loads(pickle.dumps(error))
        assert str(copy) == 'a.jpg does not decode: the file is empty. Remove it'
        assert isinstance(copy, ValueError)
        assert (copy.name, copy.reason, copy.hint) == error.args


class TestPixels:
    def test_accepts_files_and_arrays(self, photo):
        grey = photo[:, :, :1]
        np.testing.assert_array_equal(decoding.pixels(encode(photo, 'PNG')), photo)
        np.testing.assert_array_equal(decoding.pixels(photo), photo)
        np.testing.assert_array_equal(decoding.pixels(grey), grey.repeat(3, 2))
        np.testing.assert_array_equal(decoding.pixels(grey[:, :, 0]), grey.repeat(3, 2))

    @pytest.mark.parametrize(
        'array',
        [
            np.zeros((5, 7, 3), np.float32),
            np.zeros((1, 5, 7, 3), np.uint8),
            np.zeros(5, np.uint8),
        ],
    )
    def test_refuses_other_arrays(self, array):
        with pytest.raises(ValueError, match=r'id 3: found an array .* expected'):
            decoding.pixels(array, 'id 3')

    def test_grey(self, photo):
        found = decoding.pixels(encode(photo, 'PNG'), channels=1)
        weights = np.array([0.299, 0.587, 0.114])  # ITU-R 601
        assert found.shape == (*photo.shape[:2], 1)
        np.testing.assert_allclose(found[:, :, 0], photo @ weights, atol=0.51)
        grey = photo[:, :, :1]
        # Grey stays what it is, also through a file in red, green and blue.
        for image in (grey, grey.repeat(3, 2), encode(grey.repeat(3, 2), 'PNG')):
            np.testing.assert_array_equal(decoding.pixels(image, channels=1), grey)

    def test_other_channels(self, photo):
        many = np.concatenate([photo, photo[:, :, :2]], axis=2)
        file = io.BytesIO()
        np.save(file, many)
        for image in (many, file.getvalue()):
            np.testing.assert_array_equal(decoding.pixels(image, channels=5), many)
            with pytest.raises(
                ValueError, match=r'id 3 .*has 5 channels, expected 3: --'
            ):
                decoding.pixels(image, 'id 3')
        # One bad file among others, which skip_corrupt passes over.
        with pytest.raises(
            decoding.UndecodableImage, match='has 3 channels, expected 5'
        ):
            decoding.pixels(encode(photo, 'PNG'), channels=5)
        with pytest.raises(decoding.UndecodableImage):
            decoding.pixels(file.getvalue()[:200], channels=5)

    def test_no_pickles(self):
        file = io.BytesIO()
        np.save(file, np.array([{}]), allow_pickle=True)
        with pytest.raises(decoding.UndecodableImage, match='pickle'):
            decoding.pixels(file.getvalue())
