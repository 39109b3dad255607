import io
import pickle
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from vit_jax.data.images import ops


@pytest.fixture(scope='module')
def photo() -> np.ndarray:
    """Smooth colours with an edge, no symmetry, prime sides."""
    y, x = np.mgrid[:53, :71].astype(np.float64)
    image = np.stack([3 * x, 4 * y, 255 - 2 * x - y], axis=-1)
    image[10:20, 30:40] = [255, 0, 0]
    return image.clip(0, 255).astype(np.uint8)


def encode(image: np.ndarray | Image.Image, file_format: str, **options) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def generator(position: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=1, counter=position))


class TestDecode:
    def test_jpeg_is_bit_identical_to_tensorflow(self, golden):
        arrays = golden('eval_preprocess.npz')
        for i in range(3):
            decoded = ops.decode(arrays[f'{i}/jpeg'].tobytes())
            np.testing.assert_array_equal(decoded, arrays[f'{i}/decoded'])

    @pytest.mark.parametrize('file_format', ['PNG', 'BMP', 'TIFF', 'PPM'])
    def test_lossless_formats(self, photo, file_format):
        np.testing.assert_array_equal(ops.decode(encode(photo, file_format)), photo)

    @pytest.mark.parametrize('file_format', ['WEBP', 'JPEG'])
    def test_lossy_formats(self, photo, file_format):
        decoded = ops.decode(encode(photo, file_format, quality=95)).astype(float)
        assert np.abs(decoded - photo).mean() < 4

    @pytest.mark.parametrize('file_format', ['PNG', 'JPEG'])
    def test_grey(self, photo, file_format):
        grey = photo[:, :, 0]
        decoded = ops.decode(encode(grey, file_format, quality=100))
        assert decoded.shape == (53, 71, 3)
        assert np.abs(decoded[:, :, 1].astype(float) - grey).mean() < 2
        np.testing.assert_array_equal(decoded[:, :, 0], decoded[:, :, 2])

    def test_one_bit(self, photo):
        bits = Image.fromarray(photo[:, :, 0] > 100)
        decoded = ops.decode(encode(bits, 'PNG'))
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
            ops.decode(encode(image, file_format)), colours[index]
        )

    def test_cmyk_jpeg(self, photo):
        data = encode(Image.fromarray(photo).convert('CMYK'), 'JPEG', quality=100)
        expected = np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))
        assert np.abs(ops.decode(data).astype(float) - expected).mean() < 2

    @pytest.mark.parametrize('file_format', ['PNG', 'TIFF', 'WEBP'])
    def test_alpha_is_dropped(self, photo, file_format):
        alpha = np.full((53, 71, 1), 7, np.uint8)
        image = np.concatenate([photo, alpha], axis=2)
        options = {'lossless': True, 'exact': True} if file_format == 'WEBP' else {}
        decoded = ops.decode(encode(image, file_format, **options))
        np.testing.assert_array_equal(decoded, photo)

    def test_grey_alpha_is_dropped(self, photo):
        image = Image.fromarray(photo[:, :, :2].copy(), 'LA')
        decoded = ops.decode(encode(image, 'PNG'))
        np.testing.assert_array_equal(decoded, photo[:, :, :1].repeat(3, 2))

    @pytest.mark.parametrize('file_format', ['PNG', 'TIFF'])
    def test_sixteen_bits_keep_the_upper_eight(self, photo, file_format):
        grey = photo[:, :, 0].astype(np.uint16) * 256 + 255
        decoded = ops.decode(encode(grey, file_format))
        np.testing.assert_array_equal(decoded, photo[:, :, :1].repeat(3, 2))

    def test_animation_gives_its_first_frame(self):
        frames = [Image.new('RGB', (7, 5), colour) for colour in ('red', 'blue')]
        data = encode(frames[0], 'PNG', save_all=True, append_images=frames[1:])
        np.testing.assert_array_equal(ops.decode(data)[0, 0], [255, 0, 0])
        data = encode(frames[0], 'GIF', save_all=True, append_images=frames[1:])
        np.testing.assert_array_equal(ops.decode(data)[0, 0], [255, 0, 0])

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
        decoded = ops.decode(data)
        assert decoded.flags.c_contiguous
        np.testing.assert_allclose(decoded, expected, atol=8)

    def test_damaged_exif_is_ignored(self, photo):
        plain = encode(photo, 'JPEG')
        for exif in [b'II*\0\xff\xff\xff\xff', b'MM', b'nothing', b'']:
            payload = b'Exif\0\0' + exif
            segment = b'\xff\xe1' + (len(payload) + 2).to_bytes(2, 'big') + payload
            data = plain[:2] + segment + plain[2:]
            np.testing.assert_array_equal(ops.decode(data), ops.decode(plain))

    def test_jpeg_with_bytes_between_segments(self, photo):
        plain = encode(photo, 'JPEG', quality=95)
        for marker in (b'\xff\xdb', b'\xff\xda', b'\xff\xd9'):
            at = plain.rindex(marker)
            decoded = ops.decode(plain[:at] + b'\1\2\3' + plain[at:])
            np.testing.assert_allclose(decoded.astype(int), ops.decode(plain), atol=8)

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
        assert ops.decode(whole).shape == (10, 20_000, 3)
        tracemalloc.start()
        with pytest.raises(ops.UndecodableImage, match=r'wall.*make it smaller'):
            ops.decode(broken, 'wall')
        assert tracemalloc.get_traced_memory()[1] < 10e6
        tracemalloc.stop()

    def test_one_pixel(self):
        file = io.BytesIO()
        Image.new('RGB', (1, 1), (1, 2, 3)).save(file, 'PNG')
        assert ops.decode(file.getvalue()).tolist() == [[[1, 2, 3]]]

    @pytest.mark.parametrize('file_format', ['JPEG', 'PNG', 'WEBP', 'GIF', 'TIFF'])
    def test_truncated(self, photo, file_format):
        data = encode(photo, file_format)
        with pytest.raises(ops.UndecodableImage, match=r'^cat/1\.x does not decode: '):
            ops.decode(data[: len(data) // 2], 'cat/1.x')

    def test_jpeg_without_its_last_bytes(self, photo):
        data = encode(photo, 'JPEG')
        with pytest.raises(ops.UndecodableImage, match='Premature end'):
            ops.decode(data[:-40], 'a.jpg')

    @pytest.mark.parametrize(
        ('data', 'reason'),
        [
            (b'', 'empty'),
            (b'<html>not found', r"begins with b'<html>not"),
            (b'\xff\xd8', 'JPEG'),
            (b'\xff\xd8\xff\xe0\0\x10JFIF', 'JPEG'),
            (b'\x89PNG\r\n\x1a\n', 'no known|Error'),
        ],
    )
    def test_no_image(self, data, reason):
        with pytest.raises(ops.UndecodableImage, match=reason):
            ops.decode(data, 'a.jpg')

    def test_floating_point_pixels(self, photo):
        data = encode(photo[:, :, 0].astype(np.float32), 'TIFF')
        with pytest.raises(ops.UndecodableImage, match='floating-point'):
            ops.decode(data)

    def test_error_survives_pickling(self):
        error = ops.UndecodableImage('a.jpg', 'the file is empty', 'Remove it')
        copy = pickle.loads(pickle.dumps(error))
        assert str(copy) == 'a.jpg does not decode: the file is empty. Remove it'
        assert isinstance(copy, ValueError)
        assert (copy.name, copy.reason, copy.hint) == error.args


class TestPixels:
    def test_accepts_files_and_arrays(self, photo):
        grey = photo[:, :, :1]
        np.testing.assert_array_equal(ops.pixels(encode(photo, 'PNG')), photo)
        np.testing.assert_array_equal(ops.pixels(photo), photo)
        np.testing.assert_array_equal(ops.pixels(grey), grey.repeat(3, 2))
        np.testing.assert_array_equal(ops.pixels(grey[:, :, 0]), grey.repeat(3, 2))

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
            ops.pixels(array, 'id 3')

    def test_grey(self, photo):
        found = ops.pixels(encode(photo, 'PNG'), channels=1)
        weights = np.array([0.299, 0.587, 0.114])  # ITU-R 601
        assert found.shape == (*photo.shape[:2], 1)
        np.testing.assert_allclose(found[:, :, 0], photo @ weights, atol=0.51)
        grey = photo[:, :, :1]
        # Grey stays what it is, also through a file in red, green and blue.
        for image in (grey, grey.repeat(3, 2), encode(grey.repeat(3, 2), 'PNG')):
            np.testing.assert_array_equal(ops.pixels(image, channels=1), grey)

    def test_other_channels(self, photo):
        many = np.concatenate([photo, photo[:, :, :2]], axis=2)
        file = io.BytesIO()
        np.save(file, many)
        for image in (many, file.getvalue()):
            np.testing.assert_array_equal(ops.pixels(image, channels=5), many)
            with pytest.raises(
                ValueError, match=r'id 3 .*has 5 channels, expected 3: --'
            ):
                ops.pixels(image, 'id 3')
        # One bad file among others, which skip_corrupt passes over.
        with pytest.raises(ops.UndecodableImage, match='has 3 channels, expected 5'):
            ops.pixels(encode(photo, 'PNG'), channels=5)
        with pytest.raises(ops.UndecodableImage):
            ops.pixels(file.getvalue()[:200], channels=5)

    def test_no_pickles(self):
        file = io.BytesIO()
        np.save(file, np.array([{}]), allow_pickle=True)
        with pytest.raises(ops.UndecodableImage, match='pickle'):
            ops.pixels(file.getvalue())

    @pytest.mark.parametrize('channels', [1, 2, 5, 9])
    def test_steps_keep_the_channels(self, channels):
        rng = np.random.default_rng(0)
        image = rng.integers(0, 255, (9, 13, channels), np.uint8)
        each = [image[:, :, c : c + 1] for c in range(channels)]
        for step in (ops.Resize((5, 6)), ops.ResizeShorter(7), ops.CentreCrop((4, 20))):
            found = step(image.astype(np.float32))
            expected = [step(x.astype(np.float32)) for x in each]
            np.testing.assert_allclose(found, np.concatenate(expected, 2), atol=1e-3)
        flipped = ops.Flip()(image, type('R', (), {'random': lambda self: 0.0})())
        np.testing.assert_array_equal(flipped, image[:, ::-1])


class TestRandomCrop:
    @pytest.mark.parametrize('min_area', [0.05, 0.5])
    @pytest.mark.parametrize('size', [(375, 500), (211, 97), (32, 32)])
    def test_keeps_its_limits_and_uses_them(self, min_area, size):
        rng = generator()
        crop = ops.RandomCrop(min_area)
        boxes = np.array([crop.box(*size, rng) for _ in range(3000)])
        top, left, height, width = boxes.T
        assert (boxes >= 0).all()
        assert (top + height <= size[0]).all()
        assert (left + width <= size[1]).all()
        area = height * width / (size[0] * size[1])
        assert area.min() >= min_area
        assert area.min() < min_area + 0.05
        assert area.max() > 0.9 * min(1, 4 / 3 * min(size) / max(size))
        # The width is rounded to a whole pixel.
        assert (width >= 3 / 4 * height - 0.51).all()
        assert (width <= 4 / 3 * height + 0.51).all()
        if min_area == 0.05:
            assert (width < 0.8 * height).any()
            assert (width > 1.25 * height).any()
        # Every place is reached: both edges, and the middle on average.
        assert {0, *(size[0] - height)} & {*top}
        free = left[width < size[1]] / (size[1] - width[width < size[1]])
        assert free.min() == 0
        assert free.max() == 1
        assert abs(free.mean() - 0.5) < 0.03

    def test_matches_the_distribution_of_the_original(self):
        """Mean area and its deciles against an independent simulation.

        Aspect ratio a uniform; height uniform between √(0.05·A/a) and the largest that
        fits.
        """
        size, rng = (400, 500), np.random.default_rng(0)
        aspect = rng.uniform(3 / 4, 4 / 3, 20_000)
        low = np.sqrt(0.05 * 200_000 / aspect)
        high = np.minimum(np.sqrt(200_000 / aspect), np.minimum(400, 500 / aspect))
        height = rng.uniform(low, high)
        expected = np.quantile(height**2 * aspect / 200_000, np.linspace(0.1, 0.9, 9))
        rng = generator()
        boxes = np.array([ops.RandomCrop().box(*size, rng) for _ in range(20_000)])
        area = boxes[:, 2] * boxes[:, 3] / 200_000
        found = np.quantile(area, np.linspace(0.1, 0.9, 9))
        np.testing.assert_allclose(found, expected, atol=0.02)

    @pytest.mark.parametrize('size', [(1, 1), (1, 100), (400, 3), (2, 1)])
    def test_tiny_and_narrow_images(self, size):
        rng = generator()
        for _ in range(100):
            top, left, height, width = ops.RandomCrop(0.6).box(*size, rng)
            assert height > 0
            assert width > 0
            assert top + height <= size[0]
            assert left + width <= size[1]

    def test_whole_image_when_nothing_fits(self):
        assert ops.RandomCrop(1.0).box(10, 100, generator()) == (0, 0, 10, 100)

    def test_returns_the_box(self, photo):
        box = ops.RandomCrop().box(53, 71, generator(7))
        top, left, height, width = box
        np.testing.assert_array_equal(
            ops.RandomCrop()(photo, generator(7)),
            photo[top : top + height, left : left + width],
        )

    @pytest.mark.parametrize('min_area', [0.0, -1.0, 1.1])
    def test_refuses_other_areas(self, min_area):
        with pytest.raises(ValueError, match='min_area'):
            ops.RandomCrop(min_area)


def test_flip(photo):
    flipped = [ops.Flip()(photo, generator(i)) for i in range(200)]
    mirrored = [np.array_equal(image, photo[:, ::-1]) for image in flipped]
    unchanged = [np.array_equal(image, photo) for image in flipped]
    assert all(a != b for a, b in zip(mirrored, unchanged, strict=True))
    assert 70 < sum(mirrored) < 130


class TestResize:
    def test_evaluation_pixels_are_tensorflows(self, golden):
        arrays = golden('eval_preprocess.npz')
        for i in range(3):
            expected = arrays[f'{i}/eval']
            image = arrays[f'{i}/decoded'].astype(np.float32)
            resized = ops.Resize(expected.shape[:2])(image)
            found = ops.ValueRange()(resized)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected, atol=1e-3)

    def test_height_comes_first(self, photo):
        resized = ops.Resize((11, 13))(photo)
        assert resized.shape == (11, 13, 3)
        assert resized.dtype == np.uint8

    @pytest.mark.parametrize(
        ('shape', 'expected'),
        [((53, 71), (20, 27)), ((71, 53), (27, 20)), ((7, 7), (20, 20))],
    )
    def test_shorter(self, shape, expected):
        image = np.zeros((*shape, 3), np.float32)
        assert ops.ResizeShorter(20)(image).shape == (*expected, 3)


class TestCentreCrop:
    def test_middle(self, photo):
        np.testing.assert_array_equal(
            ops.CentreCrop((13, 31))(photo), photo[20:33, 20:51]
        )

    @pytest.mark.parametrize('size', [(80, 80), (60, 11), (11, 90), (53, 72)])
    def test_smaller_images_are_enlarged(self, photo, size):
        """The crop is filled, and the picture keeps its proportions."""
        # Pixel values that say where they come from, as parts of the side.
        y, x = np.mgrid[:53, :71]
        image = np.stack([(y + 0.5) / 53, (x + 0.5) / 71, 0 * x], -1)
        crop = ops.CentreCrop(size)(image.astype(np.float32))
        assert crop.shape == (*size, 3)
        scale = max(size[0] / 53, size[1] / 71)
        rows, columns = np.diff(crop[:, 5, 0]), np.diff(crop[5, :, 1])
        np.testing.assert_allclose(np.median(rows) * 53 * scale, 1, rtol=0.05)
        np.testing.assert_allclose(np.median(columns) * 71 * scale, 1, rtol=0.05)
        np.testing.assert_allclose(crop[..., :2].mean((0, 1)), 0.5, atol=0.02)


def test_value_range_per_channel(photo):
    found = ops.ValueRange((1.0, 2.0, 3.0), (2.0, 4.0, 8.0))(photo)
    expected = (photo.astype(float) - [1, 2, 3]) / [2, 4, 8]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
