"""Cut, resized, brought to the range of the model."""

import numpy as np
import pytest

from vit_jax.data.images import ops


@pytest.mark.parametrize('channels', [1, 2, 5, 9])
def test_steps_keep_the_channels(channels):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (9, 13, channels), np.uint8)
    each = [image[:, :, c : c + 1] for c in range(channels)]
    for step in (ops.Resize((5, 6)), ops.ResizeShorter(7), ops.CentreCrop((4, 20))):
        found = step(image.astype(np.float32))
        expected = [step(x.astype(np.float32)) for x in each]
        np.testing.assert_allclose(found, np.concatenate(expected, 2), atol=1e-3)


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
