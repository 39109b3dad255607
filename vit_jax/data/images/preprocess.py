"""What evaluation, prediction and everything after training do to an image.

It is one record: whoever has a `Preprocess` makes the same numbers of a file, its
bytes, a PIL image or an array. For models that run without this library the same is
written in JAX, in export/preprocessing.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from vit_jax.data.images import decoding, ops
from vit_jax.words.units import MID_GREY


@dataclass(frozen=True)
class Preprocess:
    """From an image to what the model takes: resize, crop, mean, std, channels.

    Attributes:
      size: (height, width) of the result in pixels.
      resize: shorter side in pixels before a centre crop of `size`; None resizes the
        whole image to `size`, as the original does.
      mean: of the pixels 0 … 255, one number or one per channel: (x - mean) / std.
      std: as `mean`.
      channels: of the result; see `decoding.pixels`.
    """

    size: tuple[int, int]
    resize: int | None = None
    mean: float | Sequence[float] = MID_GREY
    std: float | Sequence[float] = MID_GREY
    channels: int = 3

    @classmethod
    def from_config(cls, config: Any) -> 'Preprocess':
        """Returns the preprocessing of a run.

        Args:
          config: with size (or crop), resize, mean, std and channels in its `pp`.
        """
        pp = config.pp
        size = tuple(pp.size or (pp.crop, pp.crop))
        mean, std = (x[0] if len(x) == 1 else tuple(x) for x in (pp.mean, pp.std))
        return cls(size, pp.resize, mean, std, pp.channels)

    @classmethod
    def from_card(cls, card: Any, channels: int) -> 'Preprocess':
        """Returns the preprocessing that a model was evaluated with.

        Args:
          card: with image_size, resize, mean and std.
          channels: that the model sees.
        """
        return cls(tuple(card.image_size), card.resize, card.mean, card.std, channels)

    def __call__(self, image: Any, name: str = '') -> Float32[np.ndarray, 'h w c']:
        """Returns an image as the model takes it.

        Args:
          image: what `decoding.pixels` takes: a file, its bytes, a PIL image, an array.
          name: what to call it in an error.

        Raises:
          UndecodableImage: it does not decode, or is too elongated for `resize`.
          ValueError: an array of another dtype or shape, or other channels.
        """
        pixels = decoding.pixels(image, name, self.channels)
        if self.resize is not None:
            decoding.check_elongation(pixels, self.resize, name)
        return self.normalize(self.resized(pixels))

    def resized(
        self, pixels: UInt8[np.ndarray, 'h w c']
    ) -> Float32[np.ndarray, 'new_h new_w c']:
        """Returns pixels at `size`, still from 0 to 255."""
        pixels = pixels.astype(np.float32)
        if self.resize is None:
            return ops.Resize(self.size)(pixels)
        return ops.CentreCrop(self.size)(ops.ResizeShorter(self.resize)(pixels))

    def normalize(
        self, pixels: UInt8[np.ndarray, '... c'] | Float32[np.ndarray, '... c']
    ) -> Float32[np.ndarray, '... c']:
        """Returns pixels in the range of the model: (x - mean) / std."""
        return ops.ValueRange(self.mean, self.std)(pixels)
