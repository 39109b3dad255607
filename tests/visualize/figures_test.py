"""Drawing: that figures show their arrays, whatever their shapes."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from vit_jax.visualize import curves, drawing, figures
from vit_jax.visualize.positions import similarity
from vit_jax.visualize.views import Attention, Filters

RNG = np.random.default_rng(0)


def shown(figure) -> list[np.ndarray]:
    """Returns the arrays of all images in a figure."""
    return [np.asarray(im.get_array()) for ax in figure.axes for im in ax.get_images()]


def pixels_of(figure) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(drawing.png(figure))).convert('RGB'))


@pytest.mark.parametrize(('count', 'channels'), [(28, 3), (10, 3), (1, 1), (5, 4)])
def test_filters_are_tiles_with_grey_for_zero(count, channels):
    components = RNG.normal(size=(count, 4, 6, channels))
    found = Filters(components, np.full(count, 1 / count), 'embedding')
    tiles = shown(figures.filters(found, 'ViT'))
    assert len(tiles) == count
    mean = components if channels == 3 else components.mean(axis=-1, keepdims=True)
    expected = 0.5 + 0.5 * mean[0] / np.abs(mean[0]).max()
    np.testing.assert_allclose(tiles[0], np.broadcast_to(expected, (4, 6, 3)))


@pytest.mark.parametrize('grid', [(1, 1), (2, 5), (20, 3)])
@pytest.mark.parametrize('prefix', [0, 1, 2])
def test_positions_are_tiles_laid_out_as_the_grid(grid, prefix):
    embedding = RNG.normal(size=(prefix + grid[0] * grid[1], 4))
    found = similarity(embedding, grid)
    figure = figures.positions(found)
    mosaic, *others = shown(figure)[: 1 + prefix]
    for tile, expected in zip(others, found.prefix, strict=True):
        np.testing.assert_array_equal(tile, expected)
    rows, columns = grid
    down, across = rows + max(1, round(rows / 8)), columns + max(1, round(columns / 8))
    # The last tile stands at the lower right, whichever are left out between.
    last = mosaic[-rows:, -columns:]
    np.testing.assert_allclose(np.ma.getdata(last), found.patches[-1, -1])
    assert mosaic.shape[0] == min(rows, 16) * down - (down - rows)
    assert mosaic.shape[1] == min(columns, 16) * across - (across - columns)
    assert len(np.unique(pixels_of(figure))) > 10


def attention(num_images: int) -> Attention:
    maps = RNG.random((num_images, 3, 5)).astype(np.float32)
    maps /= maps.sum(axis=(1, 2), keepdims=True)
    distance = RNG.random((num_images, 4, 2)).astype(np.float32) * 9
    return Attention(np.arange(num_images), distance, maps, (4, 4))


def test_attention_distance_shows_the_mean_over_images():
    found = attention(6)
    (ax,) = figures.attention_distance(found, 'ViT').axes
    points = np.concatenate([c.get_offsets() for c in ax.collections])
    mean = found.distance.mean(axis=0)
    np.testing.assert_allclose(points[:, 0], [1, 2, 3, 4, 1, 2, 3, 4])
    np.testing.assert_allclose(points[:, 1], mean.T.ravel(), rtol=1e-6)
    assert ax.get_ylim()[1] > mean.max()


@pytest.mark.parametrize('num_images', [1, 2, 3, 8])
def test_rollout_lies_over_its_photo(num_images):
    maps = attention(num_images).rollout
    photos = [
        RNG.integers(0, 255, (30 + 9 * i, 50, 3)).astype(np.uint8)
        for i in range(num_images)
    ]
    names = ['$x$_照片.jpg', 'a' * 100, *map(str, range(6))][:num_images]
    figure = figures.rollout(maps, photos, names)
    images = shown(figure)[: 3 * num_images]
    for i in range(num_images):
        np.testing.assert_array_equal(images[3 * i], photos[i])
        np.testing.assert_allclose(images[3 * i + 2], maps[i] * 15, rtol=1e-6)
    heat = figure.axes[1].get_images()[1]
    assert heat.get_extent() == [-0.5, 49.5, 29.5, -0.5]
    assert len(np.unique(pixels_of(figure))) > 100


def test_large_photos_become_smaller():
    photo = np.zeros((3000, 1500, 3), np.uint8)
    assert shown(figures.rollout(attention(1).rollout, [photo]))[0].shape == (
        640,
        320,
        3,
    )


def test_learning_curves_share_panels():
    records = [
        {'step': s, 'loss': 1 / s, 'val_loss': 2 / s, 'val_accuracy': 0.1 * s,
         'skipped': 0, 'temperature': -s}
        for s in range(1, 9)
    ]  # fmt: skip
    figure = figures.learning_curves(curves.curves(records), 'run')
    drawn = {ax.get_title(loc='left'): ax for ax in figure.axes if ax.has_data()}
    assert list(drawn) == ['Loss', 'Accuracy', 'temperature']
    train, val = drawn['Loss'].get_lines()
    np.testing.assert_allclose(train.get_ydata(), [1 / s for s in range(1, 9)])
    np.testing.assert_allclose(val.get_ydata(), [2 / s for s in range(1, 9)])
    assert (train.get_label(), val.get_label()) == ('train', 'val')
    (accuracy,) = drawn['Accuracy'].get_lines()
    assert accuracy.get_color() == val.get_color()


def test_curves_of_one_point_and_of_what_is_not_finite():
    for value in (1.0, float('nan'), float('inf')):
        found = curves.curves([{'step': 3, 'loss': value}])
        assert drawing.png(figures.learning_curves(found))


def test_token_mixing_fills_a_square():
    units = {'MixerBlock_0': RNG.normal(size=(5, 2, 3))}
    (mosaic,) = shown(figures.token_mixing(units))
    assert mosaic.shape == (2 * 3 + 1 * 2, 3 * 3 + 1 * 2)


def test_png_is_small_and_the_same_every_time():
    found = curves.curves([{'step': s, 'loss': 1 / s} for s in range(1, 100)])
    first, second = (drawing.png(figures.learning_curves(found)) for _ in range(2))
    assert first == second
    assert len(first) < 60_000


def test_drawing_leaves_no_style_behind():
    import matplotlib

    before = dict(matplotlib.rcParams)
    figures.learning_curves(curves.curves([{'step': 1, 'loss': 1.0}]))
    assert dict(matplotlib.rcParams) == before


def test_nothing_is_imported_before_something_is_drawn():
    code = 'import sys; import vit_jax.visualize.figures; print(*sys.modules)'
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    assert not {'matplotlib', 'PIL'} & set(done.stdout.split())


def test_without_matplotlib(monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'vit_jax\[plot\]'"):
        figures.learning_curves(curves.curves([{'step': 1, 'loss': 1.0}]))
