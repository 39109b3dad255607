import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from batches import (
    EVAL,
    TRAIN,
    Pictures,
    assert_equal,
    concatenate_hosts,
    eval_batches,
    take,
    train_batches,
)

from vit_jax.data import draws as draws_lib
from vit_jax.data.images import decoding, ops
from vit_jax.data.images.augment import Flip, RandomCrop


class TestTrain:
    def test_shapes_and_types(self):
        (batch,) = take(train_batches(Pictures(20), **TRAIN), 1)
        assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
            'image': ((6, 13, 17, 3), 'uint8'),
            'label': ((6,), 'int32'),
            'skipped': ((6,), 'int32'),
        }

    def test_each_epoch_shows_everything_once_in_another_order(self):
        """Labels alone tell the examples apart here."""

        class Numbered(Pictures):
            def __getitem__(self, index):
                image = np.full((5, 5), index, np.uint8)
                return {'image': image, 'label': index, 'name': str(index)}

        # 20 examples, batches of 6: epochs do not end with a batch.
        batches = take(train_batches(Numbered(20), **TRAIN), 10)
        labels = np.concatenate([batch['label'] for batch in batches]).reshape(3, 20)
        for epoch in labels:
            assert sorted(epoch) == [*range(20)]
        assert not np.array_equal(labels[0], labels[1])
        assert not np.array_equal(labels[1], labels[2])
        assert not np.array_equal(labels[0], np.arange(20))
        images = np.concatenate([batch['image'] for batch in batches])
        np.testing.assert_array_equal(images[:, 3, 2, 1], labels.reshape(-1))

    @pytest.mark.parametrize('num_threads', [None, 1, 7])
    @pytest.mark.parametrize('start', [0, 5])
    def test_threads_and_start_change_nothing(self, num_threads, start):
        expected = take(train_batches(Pictures(20), **TRAIN), 9)
        batches = train_batches(
            Pictures(20), **TRAIN, start=start, num_threads=num_threads
        )
        assert_equal(take(batches, 4), expected[start : start + 4])

    @pytest.mark.parametrize('num_workers', [1, 2, 4])
    def test_workers_change_nothing(self, num_workers):
        expected = take(train_batches(Pictures(20), **TRAIN), 12)
        batches = train_batches(Pictures(20), **TRAIN, start=3, num_workers=num_workers)
        assert_equal(take(batches, 9), expected[3:])

    @pytest.mark.parametrize(
        ('num_hosts', 'num_workers'), [(2, 0), (3, 0), (6, 0), (2, 2)]
    )
    def test_hosts_share_the_batch(self, num_hosts, num_workers):
        expected = take(train_batches(Pictures(20), **TRAIN), 5)
        hosts = [
            take(
                train_batches(
                    Pictures(20),
                    **TRAIN,
                    start=1,
                    host=host,
                    num_hosts=num_hosts,
                    num_workers=num_workers,
                ),
                4,
            )
            for host in range(num_hosts)
        ]
        assert_equal(concatenate_hosts(hosts), expected[1:])

    def test_seed_decides_order_and_crops(self):
        first, again, other = (
            take(train_batches(Pictures(20), **TRAIN | {'seed': seed}), 2)
            for seed in (3, 3, 4)
        )
        assert_equal(first, again)
        assert not np.array_equal(first[0]['image'], other[0]['image'])

    def test_pixels_are_those_of_the_steps(self):
        """One row by hand, from its global position."""
        source = Pictures(20)
        batches = take(train_batches(source, **TRAIN, resize=19), 3)
        step, row = 2, 4
        position = step * 6 + row
        matches = []
        for example in source:
            (rng,) = draws_lib.draws(3, np.array([position]))
            image = ops.ResizeShorter(19)(decoding.decode(example['image']))
            image = ops.Resize((13, 17))(RandomCrop()(image, rng))
            image = Flip()(image, rng)
            matches.append(np.array_equal(image, batches[step]['image'][row]))
        assert sum(matches) == 1
        assert matches.index(True) % 2 == batches[step]['label'][row]

    def test_min_area_and_flip(self):
        """The whole image, unflipped, is the plain resize."""

        class Square(Pictures):
            def __getitem__(self, index):
                image = np.random.default_rng(index).integers(0, 256, (40, 40, 3))
                image = image.astype(np.uint8)
                return {'image': image, 'label': index, 'name': ''}

        source = Square(6)
        options = TRAIN | {'min_area': 0.999, 'flip': False}
        (batch,) = take(train_batches(source, **options), 1)
        for image, label in zip(batch['image'], batch['label'], strict=True):
            expected = ops.Resize((13, 17))(source[label]['image'])
            np.testing.assert_array_equal(image, expected)
        (flipped,) = take(train_batches(source, **options | {'flip': True}), 1)
        mirrored = [
            np.abs(a - b[:, ::-1].astype(float)).mean() < 3
            for a, b in zip(flipped['image'], batch['image'], strict=True)
        ]
        assert 0 < sum(mirrored) < 6

    def test_random_numbers_are_a_function_of_seed_and_position(self):
        """And no two positions share any, also beyond those drawn at once."""

        def numbers(seed: int, positions: list[int]) -> np.ndarray:
            rngs = draws_lib.draws(seed, np.array(positions))
            return np.array([[rng.random() for _ in range(40)] for rng in rngs])

        first = numbers(3, [*range(200)])
        assert len(np.unique(first)) == first.size
        assert abs(first.mean() - 0.5) < 0.02
        assert 0 <= first.min() < first.max() < 1
        np.testing.assert_array_equal(numbers(3, [77, 78, 79]), first[77:80])
        np.testing.assert_array_equal(numbers(3, [199]), first[199:])
        assert not np.isin(first, numbers(4, [*range(200)])).any()
        late = numbers(3, [2**40, 2**40 + 1])
        assert len(np.unique(late)) == late.size
        assert not np.isin(first, late).any()

    def test_fewer_examples_than_the_batch(self):
        with pytest.raises(ValueError, match=r'found 5 training .* batch of 6'):
            train_batches(Pictures(5), **TRAIN)

    @pytest.mark.parametrize('num_hosts', [4, 5])
    def test_batch_not_divisible_by_hosts(self, num_hosts):
        with pytest.raises(ValueError, match=f'batch of 6 for {num_hosts} hosts'):
            train_batches(Pictures(20), **TRAIN, num_hosts=num_hosts)

    @pytest.mark.parametrize('num_workers', [0, 2])
    def test_skip_corrupt_takes_the_next_good_one(self, num_workers):
        """The batches are those of a source whose bad examples repeat the next one."""

        @dataclasses.dataclass(frozen=True)
        class Repaired(Pictures):
            def __getitem__(self, index):
                return Pictures(8)[{2: 4, 3: 4, 7: 0}.get(index, index)]

        source = Pictures(8, corrupt=frozenset({2, 3, 7}))
        options = TRAIN | {'batch': 8}
        batches = train_batches(
            source, **options, num_workers=num_workers, skip_corrupt=True
        )
        found = take(batches, 3)
        skipped = [sorted(batch.pop('skipped')) for batch in found]
        assert skipped == [[0, 0, 0, 0, 0, 1, 1, 2]] * 3
        expected = take(train_batches(Repaired(8), **options), 3)
        for batch in expected:
            batch.pop('skipped')
        assert_equal(found, expected)

    @pytest.mark.parametrize('num_workers', [0, 1, 2])
    def test_corrupt_example_is_named(self, num_workers):
        source = Pictures(8, corrupt=frozenset({5}))
        batches = train_batches(source, **TRAIN | {'batch': 8}, num_workers=num_workers)
        with pytest.raises(decoding.UndecodableImage) as error:
            take(batches, 1)
        assert str(error.value).startswith('picture/5.jpg does not decode: Premature')
        assert '--config.skip_corrupt=True' in str(error.value)

    def test_everything_corrupt(self):
        source = Pictures(8, corrupt=frozenset(range(8)))
        batches = train_batches(source, **TRAIN, skip_corrupt=True)
        with pytest.raises(decoding.UndecodableImage, match='Nor do the 7 examples'):
            next(batches)

    def test_error_of_the_source_arrives(self):
        class Broken(Pictures):
            def __getitem__(self, index):
                raise FileNotFoundError(f'no file {index}')

        with pytest.raises(FileNotFoundError, match='no file'):
            take(train_batches(Broken(20), **TRAIN), 1)


class TestEval:
    def test_shapes_and_types(self):
        (batch,) = take(eval_batches(Pictures(5), **EVAL), 9)
        assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
            'image': ((6, 13, 17, 3), 'float32'),
            'label': ((6,), 'int32'),
            'mask': ((6,), 'float32'),
            'index': ((6,), 'int32'),
            'skipped': ((6,), 'int32'),
        }

    @pytest.mark.parametrize('count', [1, 5, 6, 7, 25])
    @pytest.mark.parametrize('num_hosts', [1, 2, 6])
    def test_every_example_exactly_once(self, count, num_hosts):
        hosts = [
            take(
                eval_batches(Pictures(count), **EVAL, host=host, num_hosts=num_hosts),
                99,
            )
            for host in range(num_hosts)
        ]
        batches = concatenate_hosts(hosts)
        assert len(batches) == -(-count // 6)
        index, mask, label, image = (
            np.concatenate([batch[name] for batch in batches])
            for name in ('index', 'mask', 'label', 'image')
        )
        assert [*mask] == [1] * count + [0] * (len(mask) - count)
        assert [*index] == [*range(count)] + [-1] * (len(mask) - count)
        assert [*label[:count]] == [i % 2 for i in range(count)]
        assert not image[count:].any()
        for i in range(count):
            pixels = decoding.decode(Pictures(count)[i]['image']).astype(np.float32)
            pixels = ops.ValueRange()(ops.Resize((13, 17))(pixels))
            np.testing.assert_array_equal(image[i], pixels)

    @pytest.mark.parametrize('num_workers', [2, 3])
    def test_workers_change_nothing(self, num_workers):
        expected = take(eval_batches(Pictures(15), **EVAL), 99)
        batches = eval_batches(Pictures(15), **EVAL, num_workers=num_workers)
        assert_equal(take(batches, 99), expected)

    def test_is_the_originals_preprocessing(self, golden):
        """From the JPEG bytes to the batch."""
        arrays = golden('eval_preprocess.npz')

        class Golden(Pictures):
            def __getitem__(self, index):
                data = arrays[f'{index}/jpeg'].tobytes()
                return {'image': data, 'label': 0, 'name': ''}

        for i in range(3):
            expected = arrays[f'{i}/eval']
            size = expected.shape[:2]
            (batch,) = take(eval_batches(Golden(3), batch=3, size=size), 1)
            np.testing.assert_allclose(batch['image'][i], expected, atol=1e-3)

    def test_resize_then_centre_crop(self):
        options = EVAL | {'resize': 19, 'mean': (1.0, 2.0, 3.0), 'std': 5.0}
        (batch,) = take(eval_batches(Pictures(6), **options), 1)
        pixels = decoding.decode(Pictures(6)[4]['image']).astype(np.float32)
        pixels = ops.CentreCrop((13, 17))(ops.ResizeShorter(19)(pixels))
        expected = (pixels - np.float32([1, 2, 3])) / np.float32(5)
        np.testing.assert_array_equal(batch['image'][4], expected)

    def test_corrupt_examples(self):
        source, options = Pictures(7, corrupt=frozenset({1, 6})), EVAL
        with pytest.raises(
            decoding.UndecodableImage, match=r'picture/1\.jpg .*skip_corr'
        ):
            take(eval_batches(source, **options), 99)
        batches = take(eval_batches(source, **options, skip_corrupt=True), 99)
        mask = np.concatenate([batch['mask'] for batch in batches])
        index = np.concatenate([batch['index'] for batch in batches])
        skipped = np.concatenate([batch['skipped'] for batch in batches])
        assert [*mask] == [1, 0, 1, 1, 1, 1] + [0] * 6
        assert [*index] == [0, 1, 2, 3, 4, 5, 6] + [-1] * 5
        assert [*skipped] == [0, 1, 0, 0, 0, 0, 1] + [0] * 5

    def test_no_examples(self):
        with pytest.raises(ValueError, match='no examples'):
            eval_batches(Pictures(0), **EVAL)


def test_works_where_nobody_parsed_flags_and_imports_lightly():
    """As a library: absl flags unparsed, and nothing heavy before it is needed."""
    code = """
import sys
from vit_jax import data
assert not {'grain', 'cv2', 'jax', 'PIL'} & {*sys.modules}, 'heavy import'
import batches as helper
batches = helper.eval_batches(helper.Pictures(5), **helper.EVAL)
print(sum(batch['mask'].sum() for batch in batches))
"""
    result = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        check=False,
        env={'PYTHONPATH': ':'.join(sys.path), 'JAX_PLATFORMS': 'cpu'},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == '5.0\n'


@pytest.mark.parametrize('shape', [(1, 20_000, 3), (20_000, 1, 3)])
def test_a_line_is_not_enlarged_to_a_wall(shape):
    """Its shorter side at 256 pixels would make the longer one five million."""

    class Line:
        class_names = ('line',)

        def __len__(self):
            return 2

        def __getitem__(self, index):
            image = np.zeros(shape if index else (9, 9, 3), np.uint8)
            return {'image': image, 'label': 0, 'name': 'the line'}

        def fingerprint(self):
            return ''

    options = {'batch': 2, 'size': (8, 8), 'resize': 256}
    with pytest.raises(decoding.UndecodableImage, match=r'the line.*too elongated'):
        list(eval_batches(Line(), **options))
    (batch,) = eval_batches(Line(), skip_corrupt=True, **options)
    assert batch['mask'].tolist() == [1, 0]
    assert batch['skipped'].tolist() == [0, 1]
    options['resize'] = None
    (batch,) = eval_batches(Line(), **options)
    assert batch['mask'].tolist() == [1, 1]
