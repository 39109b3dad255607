"""The same picture gives the same numbers, whatever it comes as."""

import io

import numpy as np
import pytest
from batches import take
from conftest import tiny_config
from PIL import Image, ImageOps

from vit_jax import checkpoint, data, models
from vit_jax.data.images import ops

MODES = ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'I;16')
PREPROCESS = data.Preprocess((13, 17), 29, (1.0, 2.0, 3.0), 5.0)


def in_mode(photo: np.ndarray, mode: str) -> Image.Image:
    """Returns a picture in one of Pillow's modes."""
    if mode == 'I;16':
        return Image.fromarray(photo[..., 0].astype(np.uint16) * 257)
    image = Image.fromarray(photo)
    if mode in ('LA', 'RGBA'):
        alpha = np.random.default_rng(0).integers(0, 256, photo.shape[:2], np.uint8)
        image.putalpha(Image.fromarray(alpha))
    return image.convert(mode)


def evaluated(preprocess: data.Preprocess, image) -> np.ndarray:
    """Returns what evaluation makes of an image."""

    class One:
        class_names = ()

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return {'image': image, 'label': 0, 'name': ''}

        def fingerprint(self):
            return ''

    ((image, *_),) = (
        batch['image']
        for batch in take(data.eval_batches(One(), preprocess, batch=1), 9)
    )
    return image


class TestTheSamePicture:
    @pytest.mark.parametrize('orientation', [1, 2, 3, 4, 5, 6, 7, 8])
    @pytest.mark.parametrize('mode', MODES)
    def test_as_file_as_bytes_and_of_pillow(self, photo, tmp_path, mode, orientation):
        """In every mode and orientation; TIFF holds them all."""
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / 'image.tiff'
        in_mode(photo, mode).save(path, exif=exif)
        expected = PREPROCESS(path)
        assert expected.shape == (13, 17, 3)
        np.testing.assert_array_equal(PREPROCESS(str(path)), expected)
        np.testing.assert_array_equal(PREPROCESS(path.read_bytes()), expected)
        np.testing.assert_array_equal(
            evaluated(PREPROCESS, path.read_bytes()), expected
        )
        # Not by its path: Pillow 13 maps some TIFFs into memory and turns them wrongly.
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            np.testing.assert_array_equal(PREPROCESS(image), expected)
        if mode == 'RGB':
            with Image.open(path) as image:
                pixels = np.asarray(ImageOps.exif_transpose(image))
            np.testing.assert_array_equal(PREPROCESS(pixels), expected)

    @pytest.mark.parametrize('orientation', [1, 3, 6])
    @pytest.mark.parametrize('mode', ['L', 'RGB'])
    def test_that_pillow_has_not_turned(self, photo, mode, orientation):
        """PNG files keep their orientation to themselves."""
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = io.BytesIO()
        in_mode(photo, mode).save(file, 'PNG', exif=exif)
        expected = PREPROCESS(file.getvalue())
        with Image.open(file) as image:
            np.testing.assert_array_equal(PREPROCESS(image), expected)
            upright = np.asarray(ImageOps.exif_transpose(image))
        np.testing.assert_array_equal(PREPROCESS(upright), expected)

    @pytest.mark.parametrize('channels', [1, 3])
    def test_grey_as_rows_and_columns(self, photo, channels):
        preprocess = data.Preprocess((13, 17), channels=channels)
        grey = photo[..., 0]
        expected = preprocess(np.stack([grey] * 3, axis=-1))
        assert expected.shape == (13, 17, channels)
        for image in (grey, grey[..., None], Image.fromarray(grey)):
            np.testing.assert_array_equal(preprocess(image), expected)

    def test_what_is_no_image(self):
        for image in (np.zeros((5, 7, 3)), np.zeros(3, np.uint8)):
            with pytest.raises(ValueError, match=r'the image: found an array .* uint8'):
                PREPROCESS(image, 'the image')
        with pytest.raises(ValueError, match='floating-point'):
            PREPROCESS(Image.fromarray(np.zeros((5, 7), np.float32)))


def test_its_steps(photo):
    """Resize, crop, mean and std, by hand."""
    pixels = ops.ResizeShorter(29)(photo.astype(np.float32))
    pixels = ops.CentreCrop((13, 17))(pixels)
    expected = (pixels - np.float32([1, 2, 3])) / np.float32(5)
    np.testing.assert_array_equal(PREPROCESS(photo), expected)
    whole = data.Preprocess((13, 17))(photo)
    expected = ops.Resize((13, 17))(photo.astype(np.float32)) / np.float32(127.5) - 1
    np.testing.assert_allclose(whole, expected, atol=1e-6)


def test_a_card_says_what_the_configuration_said():
    settings = {'pp.size': (32, 48), 'pp.resize': 50, 'pp.channels': 1}
    settings |= {'pp.mean': (3.0,), 'pp.std': (4.0,)}
    of_run = data.Preprocess.from_config(tiny_config('photos', **settings))
    assert of_run == data.Preprocess((32, 48), 50, 3.0, 4.0, 1)
    card = checkpoint.ModelCard(
        models.get_config('testing').to_dict(), 3, of_run.size, resize=of_run.resize,
        mean=of_run.mean, std=of_run.std,
    )  # fmt: skip
    assert data.Preprocess.from_card(card, channels=1) == of_run
