"""Images beside each other: what a model sees, and what it gets wrong."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Num, UInt8

from vit_jax.visualize.drawing import Figure, canvas, headline, shortened, smaller

_COLUMNS = 8
# Of one image with its title, in inches.
_WIDTH = 1.5


def draw(
    images: Sequence[UInt8[np.ndarray, '_ _ 3']], titles: Sequence[str], text: str
) -> Figure:
    """Returns images in rows, each with its title over it.

    Args:
        images: to be looked at, of any sizes.
        titles: one for each.
        text: what they are.
    """
    columns = min(_COLUMNS, len(images))
    rows = math.ceil(len(images) / columns)
    lines = 1 + max(title.count('\n') for title in titles)
    aspect = max(0.5, *(min(2, im.shape[0] / im.shape[1]) for im in images))
    height = rows * (_WIDTH * aspect + 0.16 * lines + 0.1) + 0.5
    with canvas(max(4.0, _WIDTH * columns), height) as figure:
        headline(figure, text)
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for ax in axes:
            ax.set_axis_off()
        for ax, image, title in zip(axes, images, titles, strict=False):
            ax.imshow(smaller(image))
            ax.set_title(title, fontsize=8, pad=3)
    return figure


def seen(
    batches: Iterator[Mapping[str, Any]],
    class_names: Sequence[str],
    text: str,
    *,
    count: int,
    mean: Sequence[float] | float = 0.0,
    std: Sequence[float] | float = 1.0,
) -> Figure:
    """Returns images as the model sees them, with the names of their classes.

    Args:
        batches: from `data.train_batches` or `data.eval_batches`.
        class_names: of the dataset.
        text: what they are.
        count: how many images, at most.
        mean: that the pixels were normalized with; 0 if they are 0…255 still.
        std: see `mean`.
    """
    images: list[np.ndarray] = []
    titles: list[str] = []
    for batch in batches:
        real = np.asarray(batch.get('mask', np.ones(len(batch['label'])))) > 0
        images += [_viewable(image, mean, std) for image in batch['image'][real]]
        titles += [shortened(class_names[label]) for label in batch['label'][real]]
        if len(images) >= count:
            break
    return draw(images[:count], titles[:count], text)


def _viewable(
    image: Num[np.ndarray, 'h w c'], mean: Any, std: Any
) -> UInt8[np.ndarray, 'h w 3']:
    """What a model sees, as a picture: of other channels than RGB the mean, in grey."""
    pixels = np.asarray(image, np.float32) * np.array(std) + np.array(mean)
    if pixels.shape[-1] != 3:
        pixels = pixels.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    return np.clip(pixels.round(), 0, 255).astype(np.uint8)
