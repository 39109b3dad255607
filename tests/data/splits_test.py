"""Split strings agree with TFDS, and the complement is what is left."""

import random

import pytest
import tensorflow_datasets as tfds

from vit_jax.data import splits

SIZES = {'train': 997, 'test': 250, 'validation': 3, 'train-extra': 1}


def tfds_ranges(split: str, sizes: dict[str, int]) -> list[tuple[str, int, int]]:
    """What TFDS selects, empty ranges as (name, start, start)."""
    infos = {
        name: tfds.core.SplitInfo(
            name=name, shard_lengths=[size], num_bytes=0, filename_template=None
        )
        for name, size in sizes.items()
    }
    ranges = []
    for piece in tfds.core.ReadInstruction.from_spec(split).to_absolute(infos):
        start = piece.from_ or 0
        stop = sizes[piece.splitname] if piece.to is None else piece.to
        ranges.append((piece.splitname, start, max(start, stop)))
    return ranges


def random_boundary(rng: random.Random, size: int, percent: bool) -> str:
    if rng.random() < 0.2:
        return ''
    if percent:
        value = rng.choice([rng.randint(-100, 100), round(rng.uniform(-100, 100), 2)])
        return f'{value}%'
    return str(rng.randint(-size - 1, size + 1))


def random_split(rng: random.Random) -> str:
    pieces = []
    for _ in range(rng.choice([1, 1, 2, 3])):
        name = rng.choice(list(SIZES))
        if rng.random() < 0.2:
            pieces.append(name)
            continue
        percent = rng.random() < 0.6
        low, high = (random_boundary(rng, SIZES[name], percent) for _ in range(2))
        pieces.append(f'{name}[{low}:{high}]')
    return rng.choice(['+', ' + ']).join(pieces)


def test_parse_agrees_with_tfds():
    rng = random.Random(0)
    agreed = refused = 0
    for _ in range(4000):
        split = random_split(rng)
        try:
            expected = tfds_ranges(split, SIZES)
        except Exception:  # TFDS raises what it reraises
            with pytest.raises(ValueError):  # noqa: PT011
                splits.parse(split, SIZES)
            refused += 1
        else:
            assert splits.parse(split, SIZES) == expected, split
            agreed += 1
    assert agreed > 2000
    assert refused > 100


@pytest.mark.parametrize(
    ('split', 'expected'),
    [
        ('train[:98%]', [('train', 0, 977)]),
        ('train[98%:]', [('train', 977, 997)]),
        ('train[2000%:]', None),
        ('train[-10:]', [('train', 987, 997)]),
        ('train[:98%]+validation[10:20]', None),
        ('train[1_00:2_00]', [('train', 100, 200)]),
        ('train[10:20%]', [('train', 100, 199)]),
        ('all', [(name, 0, size) for name, size in SIZES.items()]),
        ('all[:50%]', None),
        ('train[1.5:]', None),
        ('train[:]', None),
        ('train[5]', None),
        ('train[1:2:3]', None),
        ('train[a:b]', None),
        ('train[', None),
        ('train[1shard:]', None),
        ('train+', None),
        ('', None),
    ],
)
def test_parse(split, expected):
    if expected is None:
        with pytest.raises(ValueError, match=r'split|slice|percent|number|only'):
            splits.parse(split, SIZES)
    else:
        assert splits.parse(split, SIZES) == expected


def test_unknown_split_lists_the_splits_and_the_nearest():
    with pytest.raises(ValueError, match=r'train \(997\), test \(250\).*validation'):
        splits.parse('validaton[:10%]', SIZES)


def test_other_names_of_a_split():
    assert splits.parse('val', SIZES) == [('validation', 0, 3)]
    assert splits.complement('dev[1:]', SIZES) == 'validation[:1]'


@pytest.mark.parametrize(
    ('split', 'names'),
    {
        'train': ['train', 'Training', 'training_set', 'seg_train', 'TRAIN-images'],
        'validation': ['val', 'valid', 'dev', 'Validation', 'val_set', 'eval'],
        'test': ['test', 'Testing', 'test set', 'seg_test', 'tst', 'test_data'],
    }.items(),
)
def test_names_in_the_wild(split, names):
    assert [splits.canonical(name) for name in names] == [split] * len(names)


@pytest.mark.parametrize(
    'name', ['trains', 'trainer', 'valley', 'testimony', 'extra', 'seg_pred', '', 'all']
)
def test_names_that_are_no_split(name):
    assert splits.canonical(name) is None


@pytest.mark.parametrize(
    ('split', 'expected'),
    [
        ('train[:98%]', 'train[98%:]'),
        ('train[98%:]', 'train[:98%]'),
        ('train[:-50]', 'train[-50:]'),
        ('train[10%:90%]', 'train[:10%]+train[90%:]'),
        ('train[:10]+train[50%:]', 'train[10:498]'),
        ('train[:10%]+train[20:50%]', 'train[10%:20%]+train[50%:]'),
        ('train[:60%]+train[40%:]', None),
        ('train[:50%]+test', 'train[50%:]'),
        ('train', None),
        ('train[:100%]', None),
        ('all', None),
    ],
)
def test_complement(split, expected):
    assert splits.complement(split, SIZES) == expected


def test_complement_is_the_rest_of_random_splits():
    rng = random.Random(1)
    checked = 0
    for _ in range(3000):
        split = random_split(rng)
        try:
            ranges = splits.parse(split, SIZES)
        except ValueError:
            continue
        chosen = {(name, i) for name, low, high in ranges for i in range(low, high)}
        names = {name for name, _, _ in ranges}
        whole = {(name, i) for name in names for i in range(SIZES[name])}
        rest = splits.complement(split, SIZES)
        left = [
            (name, i)
            for name, low, high in (splits.parse(rest, SIZES) if rest else [])
            for i in range(low, high)
        ]
        assert len(left) == len(set(left))
        assert set(left) == whole - chosen, (split, rest)
        checked += 1
    assert checked > 1000
