"""Augmentation: its operations, how they are named, and that batches stay the same."""

import dataclasses
import hashlib
import io
import itertools

import numpy as np
import pytest
from batches import Pictures
from conftest import tiny_config
from PIL import Image

from vit_jax import data
from vit_jax.data.images import augment, ops


def generator(position: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=1, counter=position))


class TestRandomCrop:
    @pytest.mark.parametrize('min_area', [0.05, 0.5])
    @pytest.mark.parametrize('size', [(375, 500), (211, 97), (32, 32)])
    def test_keeps_its_limits_and_uses_them(self, min_area, size):
        rng = generator()
        crop = augment.RandomCrop(min_area)
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
        boxes = np.array([augment.RandomCrop().box(*size, rng) for _ in range(20_000)])
        area = boxes[:, 2] * boxes[:, 3] / 200_000
        found = np.quantile(area, np.linspace(0.1, 0.9, 9))
        np.testing.assert_allclose(found, expected, atol=0.02)

    @pytest.mark.parametrize('size', [(1, 1), (1, 100), (400, 3), (2, 1)])
    def test_tiny_and_narrow_images(self, size):
        rng = generator()
        for _ in range(100):
            top, left, height, width = augment.RandomCrop(0.6).box(*size, rng)
            assert height > 0
            assert width > 0
            assert top + height <= size[0]
            assert left + width <= size[1]

    def test_whole_image_when_nothing_fits(self):
        assert augment.RandomCrop(1.0).box(10, 100, generator()) == (0, 0, 10, 100)

    def test_returns_the_box(self, photo):
        box = augment.RandomCrop().box(53, 71, generator(7))
        top, left, height, width = box
        np.testing.assert_array_equal(
            augment.RandomCrop()(photo, generator(7)),
            photo[top : top + height, left : left + width],
        )

    @pytest.mark.parametrize('min_area', [0.0, -1.0, 1.1])
    def test_refuses_other_areas(self, min_area):
        with pytest.raises(ValueError, match='min_area'):
            augment.RandomCrop(min_area)


def test_flip(photo):
    flipped = [augment.Flip()(photo, generator(i)) for i in range(200)]
    mirrored = [np.array_equal(image, photo[:, ::-1]) for image in flipped]
    unchanged = [np.array_equal(image, photo) for image in flipped]
    assert all(a != b for a, b in zip(mirrored, unchanged, strict=True))
    assert 70 < sum(mirrored) < 130


@pytest.mark.parametrize('channels', [1, 2, 5, 9])
def test_a_flip_keeps_the_channels(channels):
    image = np.random.default_rng(0).integers(0, 255, (9, 13, channels), np.uint8)
    flipped = augment.Flip()(image, type('R', (), {'random': lambda self: 0.0})())
    np.testing.assert_array_equal(flipped, image[:, ::-1])


@dataclasses.dataclass(frozen=True)
class Invert:
    """An operation of a user."""

    probability: float = 1.0

    def __call__(self, image, random):
        return 255 - image if random.random() < self.probability else image


class TestParse:
    @pytest.mark.parametrize(
        ('text', 'operation'),
        [
            ('flip', augment.Flip()),
            ('flip()', augment.Flip()),
            ('random_crop', augment.RandomCrop(0.05)),
            ('random_crop(0.3)', augment.RandomCrop(0.3)),
            (
                'random_crop(0.3, aspect=(1.0, 2))',
                augment.RandomCrop(0.3, aspect=(1.0, 2)),
            ),
            ('augment_test:Invert(probability=.5)', Invert(0.5)),
        ],
    )
    def test_names_with_arguments(self, text, operation):
        parsed = augment.parse(text)
        assert type(parsed).__name__ == type(operation).__name__
        assert dataclasses.asdict(parsed) == dataclasses.asdict(operation)

    @pytest.mark.parametrize(
        ('text', 'message'),
        [
            ('filp', r"config\.pp\.augment is 'filp'.* Did you mean flip"),
            ('random_crop(', r"'random_crop\('.* as in random_crop\(0\.5\)"),
            ('random_crop(0.5) + 1', 'follows the brackets'),
            ('random_crop(0.5)(3)', 'Expected a name'),
            ('random_crop(0)', 'found min_area=0, expected a part of the area'),
            ('random_crop(area=1)', "unexpected keyword argument 'area'"),
            ('random_crop(open("x"))', 'malformed node'),
            ('flip(3)', 'Expected a name'),
            ('no_such_module:Flip', 'there is no module no_such_module'),
            ('fractions:Fraction(1)', 'an operation is called with an image'),
        ],
    )
    def test_what_is_no_operation(self, text, message):
        with pytest.raises(ValueError, match=message):
            augment.parse(text)


def configured(**settings) -> data.Augment:
    settings = {f'pp.{key}': value for key, value in settings.items()}
    return data.Augment.from_config(tiny_config('photos', **settings))


class TestFromConfig:
    def test_default_is_what_was_published(self):
        crop, flip = augment.RandomCrop(0.05), augment.Flip()
        assert configured() == data.Augment((16, 16), (crop, flip))
        assert configured(augment=('random_crop', 'flip')) == configured()
        assert configured(flip=False, min_area=0.5).operations == (
            augment.RandomCrop(0.5),
        )
        found = configured(size=(8, 9), resize=20, channels=1, augment=())
        assert found == data.Augment((8, 9), (), 20, 1)

    @pytest.mark.parametrize('other', [{'flip': False}, {'min_area': 0.5}])
    def test_it_is_said_once(self, other):
        with pytest.raises(ValueError, match=r'leaves no place for config\.pp\.min_'):
            configured(augment=('flip',), **other)


class Always:
    """Random numbers that are 0."""

    def random(self):
        return 0.0


class TestAugment:
    def test_without_operations_it_is_the_resize(self, photo):
        found = data.Augment((13, 17), ())(photo, Always())
        np.testing.assert_array_equal(found, ops.Resize((13, 17))(photo))

    def test_operations_come_in_their_order_after_the_cut(self, photo):
        steps = (augment.RandomCrop(0.3), Invert(), augment.Flip())
        found = data.Augment((13, 17), steps)(photo, generator())
        random = generator()
        expected = ops.Resize((13, 17))(augment.RandomCrop(0.3)(photo, random))
        expected = augment.Flip()(Invert()(expected, random), random)
        np.testing.assert_array_equal(found, expected)

    def test_a_cut_that_does_not_come_first_is_resized_again(self, photo):
        steps = (augment.Flip(), augment.RandomCrop(0.1))
        assert data.Augment((13, 17), steps)(photo, generator()).shape == (13, 17, 3)

    @pytest.mark.parametrize('file_format', ['JPEG', 'PNG'])
    @pytest.mark.parametrize('resize', [None, 29])
    def test_of_a_file_and_of_its_pixels_it_is_the_same(
        self, photo, file_format, resize
    ):
        """A JPEG is decoded only as far as the crop needs."""
        file = io.BytesIO()
        Image.fromarray(photo).save(file, file_format)
        whole = data.decode(file.getvalue())
        for position in range(20):
            one, other = (
                data.Augment((13, 17), resize=resize)(image, generator(position))
                for image in (file.getvalue(), whole)
            )
            np.testing.assert_array_equal(one, other)


@dataclasses.dataclass(frozen=True)
class Formats(Pictures):
    """Every other picture is a PNG file, of the pixels of the JPEG."""

    def __getitem__(self, index):
        example = super().__getitem__(index)
        if index % 2:
            file = io.BytesIO()
            Image.fromarray(data.decode(example['image'])).save(file, 'PNG')
            example['image'] = file.getvalue()
        return example


@pytest.mark.parametrize(
    ('settings', 'sha256'),
    [
        ({}, '892c1b48399441d70d7d68261de11fbc'),
        ({'flip': False, 'seed': 7}, '4cdaa0383609ed1ff6707e12cd1c7abb'),
        ({'resize': 19, 'seed': 3}, '00d43e0010926303ec49f0163de89a68'),
        ({'min_area': 0.5, 'seed': 4294967295}, 'aa96a6ba09ab18c9442519cedd308287'),
        (
            {'channels': 1, 'resize': 29, 'flip': False},
            '3db719dc9718d8661c968a95a36d0146',
        ),
    ],
)
def test_batches_are_those_of_older_versions(settings, sha256):
    """Written by commit f96a5e1: runs of then go on as if nothing had happened."""
    settings = dict(settings)
    batch, seed = 6, settings.pop('seed', 0)
    augmentation = configured(size=(13, 17), **settings)
    digest = hashlib.sha256()
    with data.train_batches(
        Formats(20), augmentation, batch=batch, seed=seed, start=3
    ) as batches:
        for made in itertools.islice(batches, 4):
            for name in ('image', 'label', 'skipped'):
                digest.update(made[name].tobytes())
    assert digest.hexdigest()[:32] == sha256
