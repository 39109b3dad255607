import hashlib
from collections import Counter

import pytest

from vit_jax.checkpoint import class_names


@pytest.mark.parametrize('count', [1000, 21843])
def test_count_and_order(count):
    ids = class_names.wordnet_ids(count)
    assert len(class_names.imagenet(count)) == len(ids) == len(set(ids)) == count
    assert list(ids) == sorted(ids)
    assert all(len(x) == 9 and x[0] == 'n' and x[1:].isdigit() for x in ids)
    assert all(name and name == name.strip() for name in class_names.imagenet(count))


def test_imagenet_1k_is_the_published_list():
    names = class_names.imagenet(1000)
    # The file that the original's notebook reads, bit_models/ilsvrc2012_wordnet_lemmas.
    lines = [', '.join(x.replace(' ', '_') for x in name.split(', ')) for name in names]
    text = ''.join(f'{line}\n' for line in lines).encode()
    assert len(text) == 21675
    assert hashlib.md5(text).hexdigest() == 'ab7eb929c8fd0f3ba60910e61ce429a3'
    assert names[0] == 'tench, Tinca tinca'
    assert names[134] == names[517] == 'crane'
    assert len(set(names)) == 999


def test_imagenet_21k():
    ids = class_names.wordnet_ids(21843)
    # The two that are not among ImageNet's 21,841 synsets.
    assert ids[9205] == 'n03931044'
    assert ids[15027] == 'n09859684'
    names = class_names.imagenet(21843)
    assert 'picture' in names[9205]
    assert 'bleacher' in names[15027]
    assert len(set(names)) == 21240
    assert Counter(names)['ball'] == 3


def test_the_same_names_for_the_same_ids():
    of = dict(
        zip(class_names.wordnet_ids(21843), class_names.imagenet(21843), strict=True)
    )
    small = zip(class_names.wordnet_ids(1000), class_names.imagenet(1000), strict=True)
    shared = [(x, name) for x, name in small if x in of]
    assert len(shared) == 999  # all but the teddy bear's
    assert all(of[x] == name for x, name in shared)


def test_in_the_words_of_a_dataset():
    names, ids = class_names.imagenet(1000), class_names.wordnet_ids(1000)
    assert class_names.as_named_by(ids[:10], names) == ids
    assert class_names.as_named_by(['cat', 'dog'], names) == names
    assert class_names.as_named_by(ids[:2], ['cat', 'dog']) == ['cat', 'dog']
