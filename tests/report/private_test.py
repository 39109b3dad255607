"""What a page does not tell."""

import pytest

from vit_jax.report.private import without_paths

DOTS = '\N{HORIZONTAL ELLIPSIS}'


@pytest.mark.parametrize(
    ('told', 'shown'),
    [
        ('/home/ada/my photos/cats', f'{DOTS}/cats'),
        ('--config.dataset=/home/ada/photos', f'--config.dataset={DOTS}/photos'),
        (
            'finetune.py:/home/a/run,/home/a/photos',
            f'finetune.py:{DOTS}/run,{DOTS}/photos',
        ),
        ('hf:/home/ada/saved', f'hf:{DOTS}/saved'),
        ("--x='/home/ada/b c'", f"--x='{DOTS}/b c'"),
        ('https://host/a/b.npz', 'https://host/a/b.npz'),
        ('hf://owner/repo/file', 'hf://owner/repo/file'),
        ('gs://bucket/a/b', 'gs://bucket/a/b'),
        ('runs/flowers/model.npz', 'runs/flowers/model.npz'),
        ('configs/vit.py:b16,cifar10', 'configs/vit.py:b16,cifar10'),
        ('train[:90%]', 'train[:90%]'),
        ('1/2', '1/2'),
        (3, 3),
        (None, None),
    ],
)
def test_only_the_last_name_of_a_path_is_told(told, shown):
    assert without_paths(told) == shown
    assert without_paths({'a': [told], 'b': (told,)}) == {'a': [shown], 'b': (shown,)}
