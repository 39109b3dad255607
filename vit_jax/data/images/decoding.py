"""From what a source calls an image to pixels: uint8 (h w c).

Training, evaluation and prediction share `pixels`, so that a picture looks the same to
all of them: as a file, as its bytes, as a PIL image and as an array.
"""

import contextlib
import functools
import io
import os
import pathlib
import tokenize

import cv2
import numpy as np
import simplejpeg
from jaxtyping import Shaped, UInt8
from PIL import ExifTags, Image

from vit_jax.data.images import containers, jpeg
from vit_jax.data.images.ops import crop
from vit_jax.files import kinds

_NPY = b'\x93NUMPY'
# Larger images are refused: decoded they would take half a gigabyte and more in each
# thread. This is where Pillow refuses, too (twice its MAX_IMAGE_PIXELS).
MAX_PIXELS = 178_956_970
# No side of an image is enlarged beyond this, where the shorter one is resized: a line
# of 1 × 20,000 pixels would take 16 GB.
_LONGEST = 1 << 15


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
    image: bytes | os.PathLike | str | Image.Image | Shaped[np.ndarray, '...'],
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
      image: an encoded file, as bytes or its path; an image of Pillow, which gives what
        its file would (of a JPEG that Pillow has decoded already, what Pillow made of
        it); or uint8 pixels (h w) or (h w c).
      name: what to call it in an error.
      channels: how many are wanted.
      at_least: of a JPEG file, see `decode`.
      box: the part that is returned, see `decode`.

    Raises:
      UndecodableImage: a file that does not decode, or holds other than that.
      ValueError: an array of another dtype or shape, or other channels.
    """
    if isinstance(image, str | os.PathLike):
        image, name = pathlib.Path(image).read_bytes(), name or os.fspath(image)
    if isinstance(image, Image.Image):
        image = _file_of(image) or _from_pillow(image, name)
    is_file = isinstance(image, bytes)
    if is_file:
        is_npy = image[:6] == _NPY
        if is_npy:
            image = _load_npy(image, name)
        else:
            image, box = decode(image, name, at_least, box), None
    image = np.asarray(image)
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


def _file_of(image: Image.Image) -> bytes | None:
    """The JPEG file that an image was opened from, if it is nothing but that yet."""
    file = getattr(image, 'fp', None)
    if image.format not in ('JPEG', 'MPO') or file is None or not image.tile:
        return None
    try:
        file.seek(0)
        data = file.read()
    except (OSError, ValueError):
        return None
    # After `draft` it is smaller than its file.
    header = jpeg.read_header(data)
    return data if (header.width, header.height) == image.size else None


def check_elongation(
    image: UInt8[np.ndarray, 'h w c'], resize: int, name: str = ''
) -> None:
    """Raises an UndecodableImage if `resize` pixels one way are too many the other."""
    height, width = image.shape[:2]
    if max(height, width) * resize > _LONGEST * min(height, width):
        raise UndecodableImage(
            name,
            f'with {width:,} x {height:,} pixels it is too elongated to get {resize} '
            'on its shorter side',
        )


# The header of a .npy is a Python expression, which NumPy parses in two ways.
_OF_HEADERS = (ValueError, SyntaxError, tokenize.TokenError, TypeError, KeyError)


def _load_npy(data: bytes, name: str) -> Shaped[np.ndarray, '...']:
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except (MemoryError, OSError, EOFError, *_OF_HEADERS) as error:
        raise UndecodableImage(name, ' '.join(str(error).split())) from error


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
        is_harmless = jpeg.HARMLESS.search(str(error)) is not None
        pixels = containers.without_metadata(data) or data
        try:
            image = simplejpeg.decode_jpeg(pixels, **options, strict=not is_harmless)
        except ValueError:
            if is_harmless:  # it does not forgive warnings in the header
                return crop(_decode_other(data, name), box)
            raise UndecodableImage(name, str(error)) from None
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
    kind = kinds.kind(data)
    if kind == 'HEIC' and not _has_heic():
        reason = "it is in Apple's format HEIC"
        raise UndecodableImage(name, reason, containers.HEIC_HINT)
    try:
        return _decode_by_pillow(data, name)
    except UndecodableImage:
        # Perhaps it is only what stands beside the pixels.
        if (pixels := containers.without_metadata(data)) is not None:
            with contextlib.suppress(UndecodableImage):
                return _decode_by_pillow(pixels, name)
        raise


def _decode_by_pillow(data: bytes, name: str) -> UInt8[np.ndarray, 'h w 3']:
    try:
        with Image.open(io.BytesIO(data)) as image:
            _check_size(image.height, image.width, name)
            return _from_pillow(image, name)
    except UndecodableImage:
        raise
    except Image.DecompressionBombError as error:  # before its size can be asked for
        raise UndecodableImage(name, f'{error}: make it smaller') from error
    except Image.UnidentifiedImageError:
        kind = kinds.kind(data)
        reason = f'no known image format begins with {data[:12]!r}'
        if kind is not None:
            reason = f'it begins as a {kind} does, and is not an image that is whole'
        raise UndecodableImage(name, reason, kinds.hint(kind)) from None
    except Exception as error:  # what Pillow raises on damaged files is not bounded
        reason = f'{type(error).__name__}: {error}'
        raise UndecodableImage(name, reason) from error


@functools.cache
def _has_heic() -> bool:
    """Lets Pillow read HEIC, if there is what reads it."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _from_pillow(image: Image.Image, name: str) -> UInt8[np.ndarray, 'h w 3']:
    image.load()  # a TIFF is turned by that
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow's errors about damaged EXIF data are not bounded
        orientation = 1
    if image.mode == 'F':
        raise UndecodableImage(name, 'floating-point pixels have no defined range')
    if image.mode == 'I' or image.mode.startswith('I;16'):
        array = _upper_byte(np.asarray(image), name)
    else:
        array = np.asarray(image.convert('RGB'))
    return jpeg.orient(array, orientation)


def _upper_byte(
    grey: Shaped[np.ndarray, 'h w'], name: str
) -> UInt8[np.ndarray, 'h w 3']:
    if grey.size and not 0 <= grey.min() <= grey.max() < 1 << 16:
        raise UndecodableImage(name, 'more than 16 bits per pixel')
    return np.repeat((grey >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
