"""Training images that stay on the devices, where crops are cut, resized and mirrored.

For images of one size, CIFAR's say. The host draws what `pipeline.train_batches` would
draw, for the same seed and step, and sends but that: which examples, which boxes, which
of them mirrored. The batches are therefore the same, up to one level: OpenCV resizes
in whole numbers, the device in float32.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float32, Int, Int32, Int64, UInt8

from vit_jax.data import cache, pipeline, sources, workers
from vit_jax.data.images import ops

# Images that a device cuts at a time: before they are rounded they take four times the
# memory of a batch.
_AT_A_TIME = 64


@dataclass(frozen=True)
class Images:
    """All images of a source.

    Attributes:
      pixels: zeros where one does not decode.
      labels: of all.
      full_sizes: (height, width) before a cache shrank them; 0: it did not.
      bad: what is wrong with those that do not decode.
    """

    pixels: UInt8[np.ndarray, 'n h w c']
    labels: Int32[np.ndarray, ' n']
    full_sizes: Int32[np.ndarray, 'n 2']
    bad: Mapping[int, ops.UndecodableImage]

    @classmethod
    def read(
        cls,
        source: sources.Source,
        *,
        most: int,
        resize: int | None = None,
        shrink: int | None = None,
        channels: int = 3,
        num_threads: int | None = None,
    ) -> 'Images':
        """Decodes all images of a source.

        Args:
          source: the examples.
          most: bytes that they may take.
          resize: shorter side in pixels that all get; None: they stay as they are.
          shrink: see `cache.cached`.
          channels: of the images; see `ops.pixels`.
          num_threads: that decode; None is one per available core.

        Raises:
          ValueError: images of different sizes, or more than fit.
          UndecodableImage: none of them decodes.
        """
        pixels, first, bad = None, '', {}
        labels = np.zeros(len(source), np.int32)
        full_sizes = np.zeros((len(source), 2), np.int32)
        decoder = cache.Decoder(channels, shrink)
        for place, (image, full_size, label, name) in enumerate(
            cache.decoded(source, decoder, num_threads)
        ):
            labels[place] = label
            if isinstance(image, ops.UndecodableImage):
                bad[place] = image
                continue
            full_sizes[place] = full_size or (0, 0)
            size = _size(image.shape, resize)
            if pixels is None:
                _require_room(len(source), (*size, channels), most)
                pixels, first = np.zeros((len(source), *size, channels), np.uint8), name
            if size != pixels.shape[1:3]:
                raise ValueError(
                    'config.cache.on_device needs images of one size, but '
                    f'{first} has {_text(pixels.shape[1:3])} pixels and {name} '
                    f'{_text(size)}. --config.cache.where=memory keeps images of any '
                    'sizes, decoded, on the host.'
                )
            if size != image.shape[:2]:
                image = ops.ResizeShorter(resize)(image)
            pixels[place] = image
        if pixels is None:
            error = bad[len(source) - 1]
            hint = f'Nor do the {len(source) - 1} examples before it'
            raise ops.UndecodableImage(error.name, error.reason, hint)
        return cls(pixels, labels, full_sizes, bad)


def _size(shape: tuple[int, ...], resize: int | None) -> tuple[int, int]:
    height, width = shape[:2]
    if resize is None:
        return height, width
    return ops.ResizeShorter(resize).size_of(height, width)


def _text(size: tuple[int, ...]) -> str:
    """Returns a size as people say it."""
    return f'{size[1]} x {size[0]}'


def _require_room(number: int, shape: tuple[int, int, int], most: int) -> None:
    needed = number * int(np.prod(shape))
    if needed > most:
        raise ValueError(
            f'The {number:,} training images take {cache.readable(needed)} '
            f'({_text(shape)} pixels each) on each device, more than the '
            f'{cache.readable(most)} that config.cache.device_mb allows. Raise it, or '
            'leave config.cache.on_device out: --config.cache.where=memory keeps them, '
            'decoded, on the host.'
        )


@dataclass(frozen=True)
class _Drawn:
    """Global positions -> what is drawn for the rows of a batch."""

    images: Images
    order: grain.MapDataset  # position -> index
    seed: int
    min_area: float
    flip: bool
    skip_corrupt: bool
    in_place: bool  # boxes are those of images before a cache shrank them

    def layout(self, rows: int) -> workers.Layout:
        return {
            'index': ((rows,), 'int32'),
            'box': ((rows, 4), 'int32'),
            'mirrored': ((rows,), 'bool'),
            'label': ((rows,), 'int32'),
            'skipped': ((rows,), 'int32'),
        }

    def plan(self, positions: Int64[np.ndarray, ' b']) -> list:
        indices = [self.order[position] for position in positions.tolist()]
        randoms = pipeline.draws(self.seed, positions)
        return list(zip(indices, randoms, strict=True))

    def read(self, planned: tuple[int, pipeline.Draws]) -> dict[str, Any]:
        index, rng = planned
        index, skipped = self._good(index)
        size = shape = self.images.pixels.shape[1:3]
        if self.in_place and self.images.full_sizes[index].any():
            size = tuple(self.images.full_sizes[index].tolist())
        box = ops.RandomCrop(self.min_area).box(*size, rng)
        return {
            'index': index,
            'box': box if size == shape else ops.scaled_box(box, size, shape),
            'mirrored': self.flip and rng.random() < 0.5,
            'label': self.images.labels[index],
            'skipped': skipped,
        }

    def _good(self, index: int) -> tuple[int, int]:
        """Returns the next example that decodes, and how many were passed over."""
        bad, number = self.images.bad, len(self.images.labels)
        tries = min(number, pipeline.MAX_SKIPPED) if self.skip_corrupt else 1
        for skipped in range(tries):
            place = (index + skipped) % number
            if place not in bad:
                return place, skipped
        hint = f'Nor do the {tries - 1} examples before it'
        raise ops.UndecodableImage(
            bad[place].name,
            bad[place].reason,
            hint if self.skip_corrupt else pipeline.SKIP_HINT,
        )


class OnDevice:
    """Makes training batches of images that every device holds.

    `batches` gives what the host draws; a batch of that, on the devices, is turned
    into images by calling this object.
    """

    def __init__(
        self,
        source: sources.Source,
        size: tuple[int, int],
        rows: NamedSharding,
        *,
        most: int,
        resize: int | None = None,
        shrink: int | None = None,
        channels: int = 3,
        num_threads: int | None = None,
    ):
        """Decodes all images and copies them to each device.

        Args:
          source: the examples.
          size: (height, width) of the batches' images.
          rows: how batches are split over the devices.
          most: bytes that all images may take on a device.
          resize: see `pipeline.train_batches`.
          shrink: see `cache.cached`.
          channels: see `pipeline.train_batches`.
          num_threads: that decode; None is one per available core.

        Raises:
          ValueError: images of different sizes, or more than fit.
          UndecodableImage: none of them decodes.
        """
        self._images = Images.read(
            source,
            most=most,
            resize=resize,
            shrink=shrink,
            channels=channels,
            num_threads=num_threads,
        )
        self._resized = resize is not None
        pixels = self._images.pixels
        everywhere = NamedSharding(rows.mesh, PartitionSpec())
        self._pixels = jax.make_array_from_process_local_data(
            everywhere, pixels, pixels.shape
        )
        # Each device cuts its own rows: nothing is for the compiler to move.
        self._cut = jax.jit(
            jax.shard_map(
                functools.partial(cut, size=tuple(size)),
                mesh=rows.mesh,
                in_specs=(everywhere.spec, rows.spec, rows.spec, rows.spec),
                out_specs=rows.spec,
            )
        )

    def batches(
        self,
        *,
        batch: int,
        seed: int,
        start: int = 0,
        min_area: float = 0.05,
        flip: bool = True,
        num_threads: int | None = None,
        host: int = 0,
        num_hosts: int = 1,
        skip_corrupt: bool = False,
    ) -> workers.Batches:
        """Returns an endless iterator of what is drawn for each batch, on this host.

        For the arguments, and what is raised, see `pipeline.train_batches`.

        Returns:
          An iterator of dicts: index int32 (b,), box int32 (b 4) (top, left, height,
          width), mirrored bool (b,), label int32 (b,), skipped int32 (b,).
        """
        number = len(self._images.labels)
        drawn = _Drawn(
            self._images, pipeline.shuffled(number, seed), seed, min_area, flip,
            skip_corrupt, not self._resized,
        )  # fmt: skip
        return pipeline.endless(
            drawn,
            batch=batch,
            start=start,
            num_threads=num_threads,
            host=host,
            num_hosts=num_hosts,
        )

    def __call__(self, drawn: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns a batch as `pipeline.train_batches` gives it, on the devices."""
        parts = (drawn[name] for name in ('index', 'box', 'mirrored'))
        return {
            'image': self._cut(self._pixels, *parts),
            'label': drawn['label'],
            'skipped': drawn['skipped'],
        }


def cut(
    pixels: UInt8[Array, 'n h w c'],
    index: Int[Array, ' b'],
    box: Int[Array, 'b 4'],
    mirrored: Bool[Array, ' b'],
    *,
    size: tuple[int, int],
) -> UInt8[Array, 'b new_h new_w c']:
    """Returns parts of images at a size: bilinear, half-pixel centres, as `ops.Resize`.

    Args:
      pixels: all images.
      index: which of them.
      box: (top, left, height, width) of the part.
      mirrored: whether left becomes right.
      size: (height, width).
    """
    height, width = pixels.shape[1:3]

    def one(chosen: tuple) -> UInt8[Array, 'new_h new_w c']:
        index, (top, left, tall, wide), mirrored = chosen
        down = _weights(top, tall, height, size[0])
        along = _weights(left, wide, width, size[1])
        along = jnp.where(mirrored, along[::-1], along)
        image = pixels[index].astype(jnp.float32)
        # Few of the weights are not 0, but accelerators multiply matrices faster than
        # they fetch single pixels. Less precisely, levels would be lost.
        product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
        image = product('xw,yh,hwc->yxc', along, down, image)
        return jnp.clip(jnp.floor(image + 0.5), 0, 255).astype(jnp.uint8)

    chosen = (index, box, mirrored)
    return jax.lax.map(one, chosen, batch_size=min(_AT_A_TIME, len(index)))


def _weights(
    start: Int[Array, ''], length: Int[Array, ''], side: int, wanted: int
) -> Float32[Array, 'wanted side']:
    """Returns of what pixels each new one is made, along one side."""
    centres = (jnp.arange(wanted, dtype=jnp.float32) + 0.5) * (length / wanted) - 0.5
    centres = jnp.clip(centres, 0, length - 1)
    distances = centres[:, None] - (jnp.arange(side) - start)
    return jnp.maximum(0, 1 - jnp.abs(distances))
