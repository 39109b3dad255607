"""Steps on pixels, one per class: cut, resized, brought to the range of the model.

All but the last keep the dtype, so that the same `Resize` serves uint8 (training) and
float32 (evaluation). Random ones are in augment.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, Shaped

from vit_jax.data.images.jpeg import Box
from vit_jax.words.units import MID_GREY


def crop(
    image: Shaped[np.ndarray, 'h w c'], box: Box | None
) -> Shaped[np.ndarray, 'new_h new_w c']:
    """Returns the part of an image as a view; None: all of it."""
    if box is None:
        return image
    top, left, height, width = box
    return image[top : top + height, left : left + width]


def scaled_box(box: Box, size: tuple[int, int], other: tuple[int, int]) -> Box:
    """Returns (top, left, height, width) of the same part of an image of another size.

    Args:
      box: of an image of `size`, in pixels.
      size: (height, width).
      other: the same of the other image.
    """
    starts, lengths = [], []
    for start, length, side, other_side in zip(
        box[:2], box[2:], size, other, strict=True
    ):
        factor = other_side / side
        first = min(round(start * factor), other_side - 1)
        starts.append(first)
        lengths.append(max(1, round((start + length) * factor) - first))
    return *starts, *lengths


def with_axis(image: Shaped[np.ndarray, '...']) -> Shaped[np.ndarray, 'h w c']:
    """Returns what OpenCV gives back with the axis of one channel, which it drops."""
    return image[:, :, None] if image.ndim == 2 else image


@dataclass(frozen=True)
class Resize:
    """Bilinear, half-pixel centres, no antialiasing: `tf.image.resize`'s default.

    Aspect ratio is not kept. On float32, OpenCV agrees with TensorFlow to rounding.

    Attributes:
      size: (height, width) in pixels.
    """

    size: tuple[int, int]

    def __call__(
        self, image: Shaped[np.ndarray, 'h w c']
    ) -> Shaped[np.ndarray, 'new_h new_w c']:
        """Returns the image at `size`."""
        height, width = self.size
        resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        return with_axis(resized)


@dataclass(frozen=True)
class ResizeShorter:
    """Resizes so that the shorter side has `size` pixels; keeps the aspect ratio."""

    size: int

    def __call__(
        self, image: Shaped[np.ndarray, 'h w c']
    ) -> Shaped[np.ndarray, 'new_h new_w c']:
        """Returns the resized image; the longer side is rounded."""
        return Resize(self.size_of(*image.shape[:2]))(image)

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """Returns (height, width) of what an image of that size becomes."""
        shorter = min(height, width)
        return round(height * self.size / shorter), round(width * self.size / shorter)


@dataclass(frozen=True)
class CentreCrop:
    """The middle of an image.

    An image that is smaller than the crop on a side is first enlarged until it covers
    the crop; its aspect ratio is kept.

    Attributes:
      size: (height, width) in pixels.
    """

    size: tuple[int, int]

    def __call__(
        self, image: Shaped[np.ndarray, 'h w c']
    ) -> Shaped[np.ndarray, 'new_h new_w c']:
        """Returns a view of the image, or of the enlarged one."""
        height, width = self.size
        h, w = image.shape[:2]
        scale = max(height / h, width / w)
        if scale > 1:
            h, w = max(height, round(h * scale)), max(width, round(w * scale))
            image = Resize((h, w))(image)
        top, left = (h - height) // 2, (w - width) // 2
        return image[top : top + height, left : left + width]


@dataclass(frozen=True)
class ValueRange:
    """Pixels 0 … 255 to what the model was trained on: (x - mean) / std.

    Attributes:
      mean, std: one number, or one per channel.
    """

    mean: float | Sequence[float] = MID_GREY
    std: float | Sequence[float] = MID_GREY

    def __call__(
        self, image: Shaped[np.ndarray, '... c']
    ) -> Float32[np.ndarray, '... c']:
        """Returns a new float32 array."""
        out = np.subtract(image, np.float32(self.mean), dtype=np.float32)
        return np.divide(out, np.float32(self.std), out=out)
