"""Augmentation: random operations on training images, by name or from anywhere.

An operation is a frozen dataclass that is called with an image, uint8 (h w c), and a
source of random numbers, and returns an image. One that cuts a part out may come first;
it then also has a method `box`, which says where from the size alone, so that no more
of a JPEG is decoded than is seen.
"""

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8

from vit_jax.data.images import decoding, ops
from vit_jax.data.images.jpeg import Box
from vit_jax.words.lookup import lookup


@runtime_checkable
class Random(Protocol):
    """Where operations get their numbers, for example a numpy Generator."""

    def random(self) -> float:
        """Returns the next number, uniform in [0, 1)."""


@runtime_checkable
class Operation(Protocol):
    """What happens to a training image."""

    def __call__(
        self, image: UInt8[np.ndarray, 'h w c'], random: Random
    ) -> UInt8[np.ndarray, 'new_h new_w c']:
        """Returns another image; the numbers that it draws decide which."""


@dataclass(frozen=True)
class RandomCrop:
    """A random part of the image (Szegedy et al. 2015, section 6).

    The distribution is that of `tf.image.sample_distorted_bounding_box`: the aspect
    ratio is uniform, then the height is uniform among those that keep the area. After
    100 draws that do not fit, the whole image.

    Attributes:
      min_area: smallest part of the area, in (0, 1].
      aspect: smallest and largest width / height.
    """

    min_area: float = 0.05
    aspect: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self):
        if not 0 < self.min_area <= 1:
            raise ValueError(
                f'found min_area={self.min_area}, expected a part of the area: '
                'above 0, at most 1'
            )

    def __call__(
        self, image: Shaped[np.ndarray, 'h w c'], random: Random
    ) -> Shaped[np.ndarray, 'new_h new_w c']:
        """Returns the part as a view."""
        return ops.crop(image, self.box(*image.shape[:2], random))

    def box(self, height: int, width: int, random: Random) -> Box:
        """Returns (top, left, height, width) of a part of a height × width image."""
        area = height * width
        narrowest, widest = self.aspect
        for _ in range(100):
            aspect = narrowest + (widest - narrowest) * random.random()
            tallest = round(math.sqrt(area / aspect))
            tallest = min(tallest, height, int((width + 0.5) / aspect))
            shortest = min(tallest, round(math.sqrt(self.min_area * area / aspect)))
            h = shortest + int(random.random() * (tallest - shortest + 1))
            w = round(h * aspect)
            if 0 < w <= width and h > 0 and h * w >= self.min_area * area:
                top = int(random.random() * (height - h + 1))
                left = int(random.random() * (width - w + 1))
                return top, left, h, w
        return 0, 0, height, width


@dataclass(frozen=True)
class Flip:
    """Left becomes right with probability ½."""

    def __call__(
        self, image: Shaped[np.ndarray, 'h w c'], random: Random
    ) -> Shaped[np.ndarray, 'h w c']:
        """Returns the image or its mirror image."""
        return ops.with_axis(cv2.flip(image, 1)) if random.random() < 0.5 else image


OPERATIONS: Mapping[str, type] = {
    'random_crop': RandomCrop,
    'flip': Flip,
}


def parse(text: str) -> Operation:
    """Returns the operation that a text names, as 'flip' or 'random_crop(0.5)'.

    Args:
      text: a name in OPERATIONS, or your own `package.module:Name`; perhaps with
        arguments in brackets, which are literals of Python.

    Raises:
      ValueError: there is no such operation, or it does not take the arguments.
    """
    name, bracket, rest = str(text).partition('(')
    make = lookup(OPERATIONS, name.strip(), 'config.pp.augment')
    try:
        call = ast.parse(f'f({rest}' if bracket else 'f()', mode='eval').body
        if not isinstance(call, ast.Call) or ast.unparse(call.func) != 'f':
            raise SyntaxError('something follows the brackets')
        operation = make(
            *map(ast.literal_eval, call.args),
            **{
                keyword.arg: ast.literal_eval(keyword.value)
                for keyword in call.keywords
            },
        )
    except (SyntaxError, TypeError, ValueError) as error:
        raise ValueError(
            f'config.pp.augment has {text!r}: {error}. Expected a name, perhaps with '
            'arguments, as in random_crop(0.5).'
        ) from error
    if not callable(operation):
        raise ValueError(
            f'config.pp.augment has {text!r}, which makes {operation!r}; an operation '
            'is called with an image and a source of random numbers.'
        )
    return operation


@dataclass(frozen=True)
class Augment:
    """From what a source calls an image to a training image, at random.

    The shorter side is resized, if it is; a first operation that has a `box` cuts; what
    it leaves is resized to `size`; the others follow.

    Attributes:
      size: (height, width) of the result in pixels.
      operations: in their order; the default is what the published models had.
      resize: shorter side in pixels before all else; None: that of the file.
      channels: of the result; see `decoding.pixels`.
    """

    size: tuple[int, int]
    operations: Sequence[Operation] = (RandomCrop(), Flip())
    resize: int | None = None
    channels: int = 3

    @classmethod
    def from_config(cls, config: Any) -> 'Augment':
        """Returns the augmentation of a run.

        Args:
          config: with size (or crop), resize, channels, augment, min_area and flip in
            its `pp`.

        Raises:
          ValueError: an operation that there is not; or both ways to say them.
        """
        pp = config.pp
        if pp.augment is None:
            operations = (RandomCrop(pp.min_area), *([Flip()] if pp.flip else []))
        else:
            operations = tuple(map(parse, pp.augment))
            if pp.min_area != RandomCrop.min_area or not pp.flip:
                raise ValueError(
                    f'config.pp.augment is {tuple(pp.augment)}, which leaves no place '
                    f'for config.pp.min_area = {pp.min_area} and config.pp.flip = '
                    f"{pp.flip}. Say it there: ('random_crop({pp.min_area})', …)."
                )
        size = tuple(pp.size or (pp.crop, pp.crop))
        return cls(size, operations, pp.resize, pp.channels)

    def __call__(
        self,
        image: Any,
        random: Random,
        *,
        name: str = '',
        full_size: tuple[int, int] | None = None,
    ) -> UInt8[np.ndarray, 'h w c']:
        """Returns a training image.

        Args:
          image: what `decoding.pixels` takes.
          random: where the numbers come from.
          name: what to call the image in an error.
          full_size: (height, width) of what a cache has shrunk. A part is cut as it
            would be from that.

        Raises:
          UndecodableImage: it does not decode, or is too elongated for `resize`.
        """
        first, *others = self.operations or [None]
        cut = getattr(first, 'box', None)
        if cut is None:
            others = [] if first is None else [first, *others]
        if self.resize is not None:
            pixels = decoding.pixels(image, name, self.channels)
            decoding.check_elongation(pixels, self.resize, name)
            pixels = ops.ResizeShorter(self.resize)(pixels)
            pixels = ops.crop(pixels, cut and cut(*pixels.shape[:2], random))
        elif cut is None:
            pixels = decoding.pixels(image, name, self.channels)
        else:
            is_file = isinstance(image, bytes)
            size = full_size or (decoding.jpeg_size(image) if is_file else None)
            if size and is_file:
                part = cut(*size, random)
                pixels = decoding.pixels(image, name, self.channels, box=part)
            else:
                pixels = decoding.pixels(image, name, self.channels)
                size = size or pixels.shape[:2]
                part = cut(*size, random)
                pixels = ops.crop(pixels, ops.scaled_box(part, size, pixels.shape[:2]))
        pixels = ops.Resize(self.size)(pixels)
        for operation in others:
            pixels = operation(pixels, random)
        if pixels.shape[:2] != self.size:
            pixels = ops.Resize(self.size)(pixels)
        return pixels
