"""Drawing what a model has learned: from arrays to matplotlib figures."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from vit_jax.visualize.attention_maps import patch_distances
from vit_jax.visualize.curves import Curve, panels
from vit_jax.visualize.drawing import (
    LINES,
    POSITIVE,
    SIGNED,
    Figure,
    canvas,
    headline,
    shortened,
    smaller,
)
from vit_jax.visualize.positions import Similarity
from vit_jax.visualize.views import Attention, Filters

# So many tiles beside each other can be told apart.
_MAX_TILES = 16
_LAYERS = {
    'embedding': 'patch embedding',
    'stem': 'patch embedding',
    'conv_root': 'ResNet root',
}
_TITLES = {
    'loss': 'Loss',
    'accuracy': 'Accuracy',
    'learning_rate': 'Learning rate',
    'grad_norm': 'Gradient norm',
    'images_per_second': 'Images per second',
    'data_wait': 'Part of the time spent waiting for data',
    'skipped': 'Examples skipped',
    'loss_scale': 'Scale of the loss',
    'skipped_steps': 'Steps skipped',
}


def filters(found: Filters, model: str = '') -> Figure:
    """Returns principal components of filters as tiles, in colour where they have it.

    In each tile grey is zero; of channels other than red, green and blue the mean is
    shown.
    """
    components = found.components
    if components.shape[-1] != 3:
        components = components.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    size = np.abs(components).max(axis=(1, 2, 3), keepdims=True)
    tiles = 0.5 + 0.5 * components / np.maximum(size, np.finfo(np.float64).tiny)
    columns = min(7, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    with canvas(1.05 * columns + 0.2, 1.2 * rows + 0.6) as figure:
        layer = _LAYERS.get(found.layer, found.layer)
        headline(figure, f'Principal components of the filters of the {layer}', model)
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for ax in axes:
            ax.set_axis_off()
        for ax, tile, part in zip(axes, tiles, found.variance, strict=False):
            ax.imshow(tile, interpolation='nearest')
            ax.set_title(f'{part:.1%}', fontsize=8, pad=2)
    return figure


def positions(found: Similarity, model: str = '') -> Figure:
    """Returns the similarity of positions to all others: tiles, laid out as the grid.

    Of large grids, evenly spaced positions.
    """
    patches = found.patches
    rows, columns = patches.shape[:2]
    down, across = _spaced(rows), _spaced(columns)
    tiles = _mosaic(patches[np.ix_(down, across)])
    panels = [('each patch', tiles)]
    panels += [
        ('class token' if len(found.prefix) == 1 else f'token {i}', tile)
        for i, tile in enumerate(found.prefix)
    ]
    height, width = 6.2 * np.array(tiles.shape) / max(tiles.shape)
    low = min(float(patches.min()), 0.99)  # the class token is often like none of them
    ratios = [4] + [1] * (len(panels) - 1)
    with canvas(width * sum(ratios) / 4 + 1.2, height + 0.9) as figure:
        headline(figure, 'Cosine similarity of position embeddings', model)
        all_axes = figure.subplots(1, len(panels), width_ratios=ratios, squeeze=False)
        for ax, (name, tile) in zip(all_axes[0], panels, strict=True):
            ax.set_axis_off()
            ax.set_title(name)
            scale = {'cmap': POSITIVE, 'vmin': low, 'vmax': 1}
            image = ax.imshow(tile, interpolation='nearest', **scale)
        left = all_axes[0][0]
        left.set_axis_on()
        left.grid(False)
        left.spines[:].set_visible(False)
        for axis, kept, side in (
            (left.yaxis, down, patches.shape[2]),
            (left.xaxis, across, patches.shape[3]),
        ):
            ticks = [i for i in range(len(kept)) if i % math.ceil(len(kept) / 8) == 0]
            centres = [i * (side + _gap(side)) + (side - 1) / 2 for i in ticks]
            axis.set_ticks(centres, [str(kept[i] + 1) for i in ticks])
        left.tick_params(length=0)
        left.set_xlabel('column of the patch')
        left.set_ylabel('row of the patch')
        figure.colorbar(image, ax=all_axes, shrink=0.8)
    return figure


def token_mixing(
    units: Mapping[str, Float[np.ndarray, 'i h w']], model: str = ''
) -> Figure:
    """Returns what hidden units gather from where, blocks side by side."""
    h, w = next(iter(units.values())).shape[1:]
    with canvas(3.8 * len(units), min(8, 3.5 * h / w) + 0.9) as figure:
        headline(figure, 'Input weights of token mixing, largest units', model)
        figure.get_layout_engine().set(wspace=0.08)
        all_axes = figure.subplots(1, len(units), squeeze=False)
        for ax, (block, tiles) in zip(all_axes[0], units.items(), strict=True):
            side = math.ceil(math.sqrt(len(tiles)))
            size = np.abs(tiles).max(axis=(1, 2), keepdims=True)
            scaled = tiles / np.maximum(size, np.finfo(np.float64).tiny)
            padding = np.full((side * side - len(tiles), *tiles.shape[1:]), np.nan)
            grid = np.concatenate([scaled, padding])
            mosaic = _mosaic(grid.reshape(side, side, *tiles.shape[1:]))
            ax.imshow(mosaic, cmap=SIGNED, vmin=-1, vmax=1, interpolation='nearest')
            ax.set_title(block)
            ax.set_axis_off()
    return figure


def attention_distance(found: Attention, model: str = '') -> Figure:
    """Mean attention distance of every head by layer, beside that of even attention."""
    mean = found.distance.mean(axis=0)
    even = patch_distances(found.rollout.shape[1:], found.patch).mean()
    num_images, num_layers, num_heads = found.distance.shape
    with canvas(6.4, 4.4) as figure:
        headline(figure, 'Mean attention distance by head', model)
        ax = figure.subplots()
        layers = np.arange(1, num_layers + 1)
        for head in range(num_heads):
            ax.scatter(layers, mean[:, head], s=18, color=LINES[0], alpha=0.7)
        ax.plot(layers, mean.mean(axis=1), color=LINES[1], label='mean of the heads')
        ax.set_xlabel('layer')
        ax.set_ylabel('mean attention distance (pixels)')
        images = 'image' if num_images == 1 else 'images'
        ax.set_title(f'{num_images} {images}', loc='left', color='0.5')
        ax.axhline(even, color='0.5', linestyle='--', label='even attention')
        # A single patch is no pixel away from itself.
        ax.set_ylim(0, 1.08 * max(even, mean.max()) or 1.0)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(loc='lower right')
    return figure


def rollout(
    maps: Float[np.ndarray, 'b h w'],
    photos: Sequence[UInt8[np.ndarray, '_ _ 3']],
    titles: Sequence[str] = (),
    model: str = '',
) -> Figure:
    """Returns photos, and over each where the model's attention comes from.

    The scale says how many times as much of the head's input comes from a patch as
    if all gave the same.

    Args:
        maps: of each photo, the part of the head's input that comes from each patch.
        photos: one for each map, the part that the model sees; see
            `views.visible_part`.
        titles: of each photo.
        model: its name.
    """
    relative = maps * math.prod(maps.shape[1:])
    pairs = 2 if len(photos) > 1 else 1  # photos beside each other
    rows = math.ceil(len(photos) / pairs)
    aspect = np.mean([min(2, p.shape[0] / p.shape[1]) for p in photos])
    with canvas(4.8 * pairs + 0.8, rows * (2.3 * aspect + 0.35) + 0.6) as figure:
        headline(figure, 'Attention rollout', model)
        grid = figure.subplots(rows, 2 * pairs, squeeze=False)
        for ax in grid.flat:
            ax.set_axis_off()
        axes = grid.reshape(-1, 2)
        top = max(float(relative.max()), 1.0)
        for i, (photo, heat) in enumerate(zip(photos, relative, strict=True)):
            left, right = axes[i]
            photo = smaller(photo)
            height, width = photo.shape[:2]
            left.imshow(photo)
            right.imshow(photo.mean(axis=-1), cmap='gray', vmin=0, vmax=255)
            image = right.imshow(
                heat, cmap=POSITIVE, vmin=0, vmax=top, alpha=0.65,
                extent=(-0.5, width - 0.5, height - 0.5, -0.5),
                interpolation='bilinear',
            )  # fmt: skip
            if i < len(titles):
                left.set_title(shortened(titles[i]), loc='left')
        bar = figure.colorbar(image, ax=grid, shrink=0.9 if rows == 1 else 0.5)
        bar.set_label('times an even share')
    return figure


def learning_curves(curves: Mapping[str, Curve], run: str = '') -> Figure:
    """Returns the metrics of a run over its steps; splits share a panel."""
    found = shown_panels(curves)
    columns = min(2, len(found))
    rows = math.ceil(len(found) / columns)
    with canvas(5 * columns, 2.9 * rows + 0.5) as figure:
        headline(figure, 'Learning curves', run)
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for ax in axes[len(found) :]:
            ax.set_axis_off()
        for ax, name in zip(axes, found, strict=False):
            _draw_panel(ax, name, found[name], curves)
        for ax in axes[max(0, len(found) - columns) : len(found)]:
            ax.set_xlabel('step')
    return figure


def learning_curve(curves: Mapping[str, Curve], name: str) -> Figure:
    """Returns one panel of the learning curves; `shown_panels` names them."""
    with canvas(5, 3) as figure:
        ax = figure.subplots()
        _draw_panel(ax, name, shown_panels(curves)[name], curves)
        ax.set_xlabel('step')
    return figure


def shown_panels(curves: Mapping[str, Curve]) -> dict[str, dict[str, str]]:
    """Returns the panels that say something, as `curves.panels`, what matters first."""
    found = panels(curves)
    # A run that skipped nothing has nothing to show there.
    if 'skipped' in curves and len(found) > 1 and not curves['skipped'][1].any():
        del found['skipped']
    first = [name for name in _TITLES if name in found]
    return {name: found[name] for name in (*first, *found)}


def _draw_panel(
    ax: Any, name: str, legends: Mapping[str, str], curves: Mapping[str, Curve]
) -> None:
    from matplotlib import ticker

    for legend, curve in legends.items():
        steps, values = curves[curve]
        # By its name, so that a split has one colour everywhere.
        color = LINES[{'train': 0, 'val': 1}.get(legend, 2)]
        marker = '.' if len(steps) < 40 else None
        ax.plot(steps, values, color=color, marker=marker, label=legend)
    ax.set_title(_TITLES.get(name, name), loc='left')
    values = np.concatenate([curves[c][1] for c in legends.values()])
    # Not so if it ends at zero, or is nowhere finite.
    if name == 'loss' and np.all(values[np.isfinite(values)] > 0):
        ax.set_yscale('log')
        # Plain numbers: those of matplotlib are formulas, which are switched off.
        ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f'{x:g}'))
        ax.yaxis.set_minor_formatter(ticker.NullFormatter())
    if name in ('loss', 'accuracy'):
        ax.legend()


def _spaced(number: int) -> Shaped[np.ndarray, ' m']:
    """Returns at most so many indices as tiles can be told apart, evenly spaced."""
    count = min(number, _MAX_TILES)
    return np.linspace(0, number - 1, count).round().astype(int)


def _gap(side: int) -> int:
    return max(1, round(side / 8))


def _mosaic(tiles: Float[np.ndarray, 'r c h w']) -> Float[np.ndarray, 'H W']:
    """Returns tiles beside each other as one image; the gaps are NaN."""
    rows, columns, h, w = tiles.shape
    pad = ((0, 0), (0, 0), (0, _gap(h)), (0, _gap(w)))
    padded = np.pad(tiles.astype(np.float32), pad, constant_values=np.nan)
    height, width = padded.shape[2:]
    image = padded.transpose(0, 2, 1, 3).reshape(rows * height, columns * width)
    return image[: -_gap(h), : -_gap(w)]
