"""What evaluation does to pixels, in JAX, for models that run without this library.

Here the images are arrays on the device and their height and width may be symbols; the
one that evaluation itself uses, on the host, is data/images/preprocess.py.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from vit_jax.data.images.preprocess import Preprocess


def normalize(
    images: UInt8[Array, 'b h w c'], preprocess: Preprocess
) -> Float[Array, 'b h w c']:
    """Returns pixels as the model takes them, to the bit what evaluation makes of them.

    Looked up, because compilers divide by multiplying.
    """
    channels = images.shape[-1]
    values = np.repeat(np.arange(256, dtype=np.uint8)[:, None], channels, axis=1)
    table = jnp.asarray(preprocess.normalize(values))
    return table[images.astype(jnp.int32), jnp.arange(channels)]


def prepare(
    images: UInt8[Array, 'b h w c'], preprocess: Preprocess
) -> Float[Array, 'b new_h new_w c']:
    """Returns pixels of any size as the model takes them."""
    images = resize(images, preprocess.size, preprocess.resize)
    return (images - jnp.float32(preprocess.mean)) / jnp.float32(preprocess.std)


def resizes_like_evaluation(preprocess: Preprocess) -> bool:
    """Returns whether `resize` does what evaluation does.

    A crop that is larger than the image after the resize is enlarged once more there.
    """
    return preprocess.resize is None or preprocess.resize >= max(preprocess.size)


def check_resize(preprocess: Preprocess) -> None:
    """Raises a ValueError if `resize` does not do what evaluation does."""
    if not resizes_like_evaluation(preprocess):
        raise ValueError(
            f'the card resizes to {preprocess.resize} pixels and then enlarges that to '
            f'{preprocess.size}: --preprocessing resize does not'
        )


def resize(
    images: UInt8[Array, 'b h w c'], size: tuple[int, int], shorter: int | None
) -> Float[Array, 'b new_h new_w c']:
    """Returns images as evaluation resizes and crops them; see `Preprocess`.

    Bilinear, half-pixel centres, no antialiasing. The positions are exact fractions, so
    that height and width may be symbolic. OpenCV, which evaluation uses, rounds them
    and the sums in its own ways: measured on x86 it differs by at most 5e-5 where white
    is 255, and not at all where sizes are doubled or halved.

    Args:
        images: pixels.
        size: (height, width) of the result.
        shorter: resize the shorter side to this many pixels, then crop the centre;
            None: resize height and width to `size`.

    Returns:
        float32 from 0 to 255.
    """
    old = [jnp.asarray(n, jnp.int32) for n in images.shape[1:3]]
    new = list(size)
    if shorter is not None:
        new = [_round(n * shorter, jnp.minimum(*old)) for n in old]
    top, bottom, down = _neighbours(old[0], new[0], size[0])
    left, right, along = _neighbours(old[1], new[1], size[1])
    down, along = down[:, None, None], along[:, None]

    def row(y: Int[Array, ' new_h']) -> Float[Array, 'b new_h new_w c']:
        x = images[:, y]
        return (1 - along) * x[:, :, left] + along * x[:, :, right]

    return (1 - down) * row(top) + down * row(bottom)


def _neighbours(
    old: Int[Array, ''], new: Int[Array, ''] | int, size: int
) -> tuple[Int[Array, ' n'], Int[Array, ' n'], Float[Array, ' n']]:
    """Returns what is mixed along one axis, resized from old to new and cropped.

    Two indices for each of `size` pixels, and the weight of the second.
    """
    # Pixel i of the new ones has its centre at (i + 1/2) old / new - 1/2 of the old.
    # From the middle it is offset / 2 old / new away, and small enough for int32.
    offset = 2 * (jnp.arange(size, dtype=jnp.int32) + (new - size) // 2) + 1 - new
    whole, rest = jnp.divmod(offset * old, new)
    twice = old - 1 + whole
    first = twice // 2
    weight = ((twice % 2) * new + rest).astype(jnp.float32) / (2 * jnp.float32(new))
    return jnp.clip(first, 0, old - 1), jnp.clip(first + 1, 0, old - 1), weight


def _round(above: Int[Array, ''], below: Int[Array, '']) -> Int[Array, '']:
    """Returns above / below rounded, halves to even, as Python does."""
    whole = above // below
    rest = 2 * (above - whole * below)
    up = (rest > below) | ((rest == below) & (whole % 2 == 1))
    return jnp.where(up, whole + 1, whole)
