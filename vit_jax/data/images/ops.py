"""Pixels: from a file's bytes to the array that a model sees, one step per class.

Training, evaluation and prediction share `decode`, so that a file looks the same to
all of them. Deterministic steps are called with an image, random ones with an image
and a source of numbers. All but the last keep the dtype, so that the same `Resize`
serves uint8 (training) and float32 (evaluation).
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
import simplejpeg
from jaxtyping import Float32, Shaped, UInt8
from PIL import ExifTags, Image

from vit_jax.data.images import jpeg

_NPY = b'\x93NUMPY'
# Larger images are refused: decoded they would take half a gigabyte and more in each
# thread. This is where Pillow refuses, too (twice its MAX_IMAGE_PIXELS).
MAX_PIXELS = 178_956_970


@runtime_checkable
class Random(Protocol):
    """Where random steps get their numbers, for example a numpy Generator."""

    def random(self) -> float:
        """Returns the next number, uniform in [0, 1)."""


class UndecodableImage(ValueError):  # noqa: N818 (a noun: the image, not the act)
    """A file that is not a whole image of a known format.

    Attributes:
      name: the file's path or the example's id.
      reason: what is wrong with it.
      hint: what the user can do; may be empty.
    """

    def __init__(self, name: str, reason: str, hint: str = ''):
        # All of them are `args`, so that the error survives the pickling between
        # processes.
        super().__init__(name, reason, hint)
        self.name, self.reason, self.hint = name, reason, hint

    def __str__(self) -> str:
        text = f'{self.name or "the image"} does not decode: {self.reason}'
        return f'{text}. {self.hint}' if self.hint else text


def decode(
    data: bytes,
    name: str = '',
    at_least: tuple[int, int] = (0, 0),
    box: jpeg.Box | None = None,
) -> UInt8[np.ndarray, 'h w 3']:
    """Decodes an image file to RGB.

    JPEG is decoded as by `tf.io.decode_jpeg`, bit for bit; all other formats by Pillow.
    What is not three channels of 8 bits becomes so:

    * grey and 1-bit images: the value in all three channels;
    * palettes: looked up;
    * CMYK: converted without colour profiles;
    * alpha: dropped, which shows the stored colours, as TensorFlow's decoders and
      Pillow's `convert('RGB')` do;
    * 16 bits: the upper 8;
    * animations: the first frame;
    * EXIF orientation: applied, so that the image stands as a viewer shows it (the
      original repository ignored it).

    Args:
      data: the file.
      name: what to call it in an error.
      at_least: (height, width); a JPEG that is larger may be decoded to a smaller
        image, of that size or more, which is several times as fast; (0, 0): it is not.
      box: (top, left, height, width) of the part that is returned, without `at_least`;
        None: all. The rest of a JPEG is decoded only as far as it must be, and damage
        in rows below the part is not found; a file that ends too early is.

    Raises:
      UndecodableImage: unknown format, truncated or damaged file, floating-point
        pixels, more than `MAX_PIXELS`.
    """
    if data.startswith(jpeg.MAGIC):
        return _decode_jpeg(data, name, at_least, box)
    return crop(_decode_other(data, name), box)


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Returns (height, width) of a JPEG file as it is seen; None of other files."""
    if not data.startswith(jpeg.MAGIC):
        return None
    size = jpeg.read_header(data).seen
    return size if all(size) else None


def pixels(
    image: bytes | Shaped[np.ndarray, '...'],
    name: str = '',
    channels: int = 3,
    at_least: tuple[int, int] = (0, 0),
    box: jpeg.Box | None = None,
) -> UInt8[np.ndarray, 'h w c']:
    """Returns the pixels of what a source calls an image.

    Grey becomes red, green and blue where three channels are wanted, and these become
    their luminance (ITU-R 601) where one is. Other numbers of channels must be there:
    in an array, or in a file of NumPy (.npy).

    Args:
      image: an encoded file, or uint8 pixels (h w) or (h w c).
      name: what to call it in an error.
      channels: how many are wanted.
      at_least: of a JPEG file, see `decode`.
      box: the part that is returned, see `decode`.

    Raises:
      UndecodableImage: a file that does not decode, or holds other than that.
      ValueError: an array of another dtype or shape, or other channels.
    """
    is_file = isinstance(image, bytes)
    if is_file:
        is_npy = image[:6] == _NPY
        if is_npy:
            image = _load_npy(image, name)
        else:
            image, box = decode(image, name, at_least, box), None
    if image.dtype == np.uint8 and image.ndim == 2:
        image = image[:, :, None]
    if image.dtype != np.uint8 or image.ndim != 3:
        found = f'found an array {image.dtype}{list(image.shape)}'
        if is_file:
            raise UndecodableImage(name, f'{found}, expected uint8 (h w) or (h w c)')
        raise ValueError(
            f'{name or "an image"}: {found}, expected an encoded file or uint8 pixels '
            '(h w) or (h w c)'
        )
    image = crop(image, box)
    found = image.shape[2]
    if found == channels:
        return image
    if (found, channels) == (1, 3):
        return np.repeat(image, 3, axis=2)
    if (found, channels) == (3, 1):
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None]
    reason = (
        f'{found} channels, expected {channels}: --config.pp.channels says how many '
        'the model sees'
    )
    if is_file:  # one bad file among others
        raise UndecodableImage(name, f'it has {reason}')
    raise ValueError(f'{name or "an image"} has {reason}')


def _load_npy(data: bytes, name: str) -> Shaped[np.ndarray, '...']:
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError) as error:
        raise UndecodableImage(name, str(error)) from error


def _with_axis(image: Shaped[np.ndarray, '...']) -> Shaped[np.ndarray, 'h w c']:
    """Returns what OpenCV gives back with the axis of one channel, which it drops."""
    return image[:, :, None] if image.ndim == 2 else image


def crop(
    image: Shaped[np.ndarray, 'h w c'], box: jpeg.Box | None
) -> Shaped[np.ndarray, 'new_h new_w c']:
    """Returns the part of an image as a view; None: all of it."""
    if box is None:
        return image
    top, left, height, width = box
    return image[top : top + height, left : left + width]


def _decode_jpeg(
    data: bytes, name: str, at_least: tuple[int, int], box: jpeg.Box | None
) -> UInt8[np.ndarray, 'h w 3']:
    header = jpeg.read_header(data)
    _check_size(header.height, header.width, name)
    if box is not None:
        stored = top, _, height, _ = header.stored(box)
        image = jpeg.decode_top(data, header, top + height)
        if image is not None:
            return jpeg.orient(crop(image, stored), header.orientation)
    if header.orientation >= 5:
        at_least = at_least[::-1]
    options = jpeg.OPTIONS | {'min_height': at_least[0], 'min_width': at_least[1]}
    try:
        image = simplejpeg.decode_jpeg(data, **options)
    except ValueError as error:
        if not jpeg.HARMLESS.search(str(error)):
            raise UndecodableImage(name, str(error)) from None
        try:
            image = simplejpeg.decode_jpeg(data, **options, strict=False)
        except ValueError:  # it does not forgive warnings in the header
            return crop(_decode_other(data, name), box)
    return crop(jpeg.orient(image, header.orientation), box)


def _check_size(height: int, width: int, name: str) -> None:
    if height * width > MAX_PIXELS:
        raise UndecodableImage(
            name,
            f'it has {width:,} x {height:,} pixels, expected at most {MAX_PIXELS:,} in '
            'all: make it smaller',
        )


def _decode_other(data: bytes, name: str) -> UInt8[np.ndarray, 'h w 3']:
    if not data:
        raise UndecodableImage(name, 'the file is empty')
    try:
        with Image.open(io.BytesIO(data)) as image:
            _check_size(image.height, image.width, name)
            image.load()
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            if image.mode == 'I' or image.mode.startswith('I;16'):
                array = _upper_byte(np.asarray(image), name)
            elif image.mode == 'F':
                raise UndecodableImage(
                    name, 'floating-point pixels have no defined range'
                )
            else:
                array = np.asarray(image.convert('RGB'))
    except UndecodableImage:
        raise
    except Image.DecompressionBombError as error:  # before its size can be asked for
        raise UndecodableImage(name, f'{error}: make it smaller') from error
    except Image.UnidentifiedImageError:
        reason = f'no known image format begins with {data[:12]!r}'
        raise UndecodableImage(name, reason) from None
    except Exception as error:  # what Pillow raises on damaged files is not bounded
        reason = f'{type(error).__name__}: {error}'
        raise UndecodableImage(name, reason) from error
    return jpeg.orient(array, orientation)


def _upper_byte(
    grey: Shaped[np.ndarray, 'h w'], name: str
) -> UInt8[np.ndarray, 'h w 3']:
    if grey.size and not 0 <= grey.min() <= grey.max() < 1 << 16:
        raise UndecodableImage(name, 'more than 16 bits per pixel')
    return np.repeat((grey >> 8).astype(np.uint8)[:, :, None], 3, axis=2)


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
        self, image: Shaped[np.ndarray, 'h w c'], rng: Random
    ) -> Shaped[np.ndarray, 'new_h new_w c']:
        """Returns the part as a view."""
        return crop(image, self.box(*image.shape[:2], rng))

    def box(self, height: int, width: int, rng: Random) -> jpeg.Box:
        """Returns (top, left, height, width) of a part of a height × width image."""
        area = height * width
        narrowest, widest = self.aspect
        for _ in range(100):
            aspect = narrowest + (widest - narrowest) * rng.random()
            tallest = round(math.sqrt(area / aspect))
            tallest = min(tallest, height, int((width + 0.5) / aspect))
            shortest = min(tallest, round(math.sqrt(self.min_area * area / aspect)))
            h = shortest + int(rng.random() * (tallest - shortest + 1))
            w = round(h * aspect)
            if 0 < w <= width and h > 0 and h * w >= self.min_area * area:
                top = int(rng.random() * (height - h + 1))
                left = int(rng.random() * (width - w + 1))
                return top, left, h, w
        return 0, 0, height, width


def scaled_box(
    box: jpeg.Box, size: tuple[int, int], other: tuple[int, int]
) -> jpeg.Box:
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


@dataclass(frozen=True)
class Flip:
    """Left becomes right with probability ½."""

    def __call__(
        self, image: Shaped[np.ndarray, 'h w c'], rng: Random
    ) -> Shaped[np.ndarray, 'h w c']:
        """Returns the image or its mirror image."""
        return _with_axis(cv2.flip(image, 1)) if rng.random() < 0.5 else image


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
        return _with_axis(resized)


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

    mean: float | Sequence[float] = 127.5
    std: float | Sequence[float] = 127.5

    def __call__(
        self, image: Shaped[np.ndarray, '... c']
    ) -> Float32[np.ndarray, '... c']:
        """Returns a new float32 array."""
        out = np.subtract(image, np.float32(self.mean), dtype=np.float32)
        return np.divide(out, np.float32(self.std), out=out)
