"""The pure functions that make weights fit another model."""

import numpy as np
import pytest
import scipy.ndimage

from vit_jax import checkpoint
from vit_jax.checkpoint import adapt


def random(*shape):
    return np.random.default_rng(0).normal(size=shape).astype('f')


@pytest.mark.parametrize('key', ['4_7_1', '14_24_1', '7_12_0'])
def test_interpolate_posembed_golden(golden, key):
    arrays = golden('posembed.npz')
    old, new = arrays[f'{key}/old'], arrays[f'{key}/new']
    found = checkpoint.interpolate_posembed(old, new.shape[1], key.endswith('1'))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, new, rtol=1e-5, atol=1e-6)


def test_grey_images_give_what_their_copies_in_rgb_gave():
    kernel, grey = random(4, 4, 3, 5), random(4, 4, 1)
    rgb = np.einsum('hwc,hwcd->d', np.repeat(grey, 3, axis=2), kernel)
    summed = adapt.input_channels(kernel, 1)
    assert summed.shape == (4, 4, 1, 5)
    np.testing.assert_allclose(np.einsum('hwc,hwcd->d', grey, summed), rgb, rtol=1e-5)


@pytest.mark.parametrize('channels', [2, 4, 7])
def test_other_channels_keep_the_size_of_the_response(channels):
    kernel = random(4, 4, 3, 5)
    found = adapt.input_channels(kernel, channels)
    assert found.shape == (4, 4, channels, 5)
    assert found.dtype == kernel.dtype
    for c in range(channels):
        np.testing.assert_allclose(
            found[:, :, c] * channels / 3, kernel[:, :, c % 3], 1e-6
        )
    np.testing.assert_allclose(
        adapt.input_channels(np.ones((4, 4, 3, 5)), channels).sum(axis=2), 3, 1e-6
    )


def test_interpolate_posembed_wants_squares():
    with pytest.raises(ValueError, match=r'12 position embeddings .* square'):
        checkpoint.interpolate_posembed(random(1, 13, 2), 17, True)
    with pytest.raises(ValueError, match='17 position embeddings'):
        checkpoint.interpolate_posembed(random(1, 16, 2), 17, False)


def test_every_pair_of_sides_up_to_40():
    for old in range(1, 41):
        grid = random(old, 1, 1)
        posemb = grid.reshape(1, old, 1)
        for new in range(1, 41):
            found = checkpoint.resize_posembed(posemb, (old, 1), (new, 1), 0)
            at = np.linspace(0, old - 1, new) if new > 1 else np.zeros(1)
            expected = np.interp(at, np.arange(old), grid[:, 0, 0])
            np.testing.assert_allclose(found[0, :, 0], expected, atol=1e-5)
            # Exactly the original's call, wherever that one does not lose the edge.
            original = scipy.ndimage.zoom(grid, (new / old, 1, 1), order=1)
            if original[-1] != 0:
                np.testing.assert_array_equal(found[0, :, 0], original[:, 0, 0])


def test_edge_that_scipy_would_lose():
    posemb = np.ones((1, 24 * 24, 1), 'f')
    zoomed = scipy.ndimage.zoom(
        posemb.reshape(24, 24, 1), (22 / 24, 22 / 24, 1), order=1
    )
    assert zoomed[-1, 0] == 0
    found = checkpoint.resize_posembed(posemb, (24, 24), (22, 22), 0)
    np.testing.assert_array_equal(found, np.ones((1, 22 * 22, 1), 'f'))


@pytest.mark.parametrize('method', ['official', 'bilinear', 'bicubic'])
@pytest.mark.parametrize('prefix', [0, 1, 2])
def test_rectangles_keep_axes_and_prefix(method, prefix):
    rows, columns = np.mgrid[:5, :7].astype('f')
    grid = np.stack([rows, columns, 0 * rows + 3], -1).reshape(1, 35, 3)
    head = random(1, prefix, 3)
    posemb = np.concatenate([head, grid], 1)
    found = checkpoint.resize_posembed(posemb, (5, 7), (9, 4), prefix, method)
    assert found.shape == (1, prefix + 36, 3)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:, :prefix], head)
    new = found[0, prefix:].reshape(9, 4, 3)
    np.testing.assert_allclose(new[..., 2], 3, atol=1e-5)
    np.testing.assert_allclose(new[:, :1, 0] + 0 * new[..., 0], new[..., 0], atol=1e-5)
    assert (np.diff(new[..., 0], axis=0) > 0).all()
    assert (np.diff(new[..., 1], axis=1) > 0).all()
    if method == 'official':
        np.testing.assert_allclose(new[-1, -1, :2], [4, 6], atol=1e-5)
        np.testing.assert_allclose(new[0, 0, :2], 0, atol=1e-5)


def test_only_the_same_grid_is_left_alone():
    posemb = random(1, 17, 2)
    same = checkpoint.resize_posembed(posemb, (4, 4), (4, 4), 1)
    np.testing.assert_array_equal(same, posemb)
    # As many tokens, in another arrangement.
    other = checkpoint.resize_posembed(posemb, (4, 4), (2, 8), 1)
    assert other.shape == posemb.shape
    assert np.abs(other - posemb).max() > 0.1


def test_methods_differ():
    posemb = random(1, 16, 2)
    results = [
        checkpoint.resize_posembed(posemb, (4, 4), (7, 7), 0, method)
        for method in ('official', 'bilinear', 'bicubic')
    ]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(results[i] - results[j]).max() > 1e-3


@pytest.mark.parametrize('old', [(4, 5), (17, 1), (0, 0), (-4, -4)])
def test_grid_that_does_not_account_for_the_tokens(old):
    with pytest.raises(ValueError, match=f'grid of {old[0]}x{old[1]} .*16 positions'):
        checkpoint.resize_posembed(random(1, 17, 2), old, (3, 3), 1)
    with pytest.raises(ValueError, match='sides must be positive'):
        checkpoint.resize_posembed(random(1, 17, 2), (4, 4), (0, 3), 1)


def test_compare_lists_everything():
    found = {
        'cls': (1, 1, 4),
        'head/bias': (3,),
        **{f'T/encoderblock_{i}/scale': (4,) for i in range(12)},
    }
    wanted = {
        'head/bias': (5,),
        'posemb': (1, 9, 4),
        **{f'T/encoderblock_{i}/scale': (4,) for i in (1, 2, 12, 13, 14, 20)},
    }
    assert adapt.compare(found, wanted) == [
        '- missing: posemb (1, 9, 4)',
        '- missing: T/encoderblock_{12,13,14,20}/scale (4,)',
        '+ unexpected: cls (1, 1, 4)',
        '+ unexpected: T/encoderblock_{0,3,4,5,6,7,8,9,10,11}/scale (4,)',
        '! misshapen: head/bias is (3,) in the file, (5,) in the model',
    ]
    assert adapt.compare(found, found) == []


def test_compare_puts_blocks_together():
    found = {f'T/encoderblock_{i}/scale': (4,) for i in range(24)}
    wanted = {f'T/encoderblock_{i}/scale': (4,) for i in range(12)}
    assert adapt.compare(found, wanted) == [
        '+ unexpected: T/encoderblock_{12..23}/scale (4,)'
    ]


def test_class_order():
    assert adapt.class_order(['a', 'b'], ['a', 'b']) is None
    assert adapt.class_order(['a', 'b', 'c'], ['c', 'a', 'b']) == [2, 0, 1]
    # ImageNet has two cranes: fine as long as nothing has to be moved.
    assert adapt.class_order(['crane', 'crane'], ['crane', 'crane']) is None
    with pytest.raises(ValueError, match='one name stands for several'):
        adapt.class_order(['crane', 'a', 'crane'], ['a', 'crane', 'crane'])
    with pytest.raises(ValueError, match='dataset: dog') as e:
        adapt.class_order(['cat', 'cow'], ['dog', 'cat'])
    assert '+ only in the weights: cow' in str(e.value)
    assert 'cat' not in str(e.value)
