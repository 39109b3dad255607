"""Decodes all images of a source once, in many threads; for a cache of them."""

import collections
import concurrent.futures
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

from vit_jax.data import pipeline, sources
from vit_jax.data.images import decoding, ops

# Examples decoded at a time by each thread, and parts under way for each.
_PART, _PARTS = 16, 4


@dataclass(frozen=True)
class Decoder:
    """What makes of an example the pixels that are kept.

    Attributes:
      channels: of the images; see `decoding.pixels`.
      shrink: pixels of the shorter side of what is larger; None: nothing is shrunk.
    """

    channels: int = 3
    shrink: int | None = None

    def __call__(
        self, example: sources.Example
    ) -> tuple[UInt8[np.ndarray, 'h w c'], tuple[int, int] | None]:
        """Returns the image and, if it was shrunk, its (height, width) before.

        Pixels of a shrunk image are averages by area. A JPEG of several times that size
        is decoded to a smaller one, of twice the size or more, which averages as well.

        Raises:
          UndecodableImage: see `decoding.pixels`.
        """
        image, name, size = example['image'], example['name'], None
        if self.shrink is None:
            return decoding.pixels(image, name, self.channels), example.get('full_size')
        smaller = ops.ResizeShorter(self.shrink)
        if isinstance(image, bytes):
            size = decoding.jpeg_size(image)
        at_least = (0, 0)
        if size is not None and min(size) > self.shrink:
            # Twice the size: what the decoder rounds up at the border is then half a
            # pixel at most.
            at_least = tuple(2 * side for side in smaller.size_of(*size))
        image = decoding.pixels(image, name, self.channels, at_least)
        size = size or image.shape[:2]
        if min(size) <= self.shrink:
            return image, example.get('full_size')
        height, width = smaller.size_of(*size)
        averages = [  # OpenCV knows this for up to four channels
            cv2.resize(
                image[..., first : first + 4],
                (width, height),
                interpolation=cv2.INTER_AREA,
            ).reshape(height, width, -1)
            for first in range(0, self.channels, 4)
        ]
        return np.concatenate(averages, axis=2), size


def decoded(
    source: sources.Source, decoder: Decoder, num_threads: int | None
) -> Iterator[tuple]:
    """Yields (image, size before, label, name) of all examples, in their order.

    In place of an image that does not decode there is the `decoding.UndecodableImage`.
    """

    def decode(places: range) -> list[tuple]:
        found = []
        for place in places:
            example = source[place]
            try:
                image, full_size = decoder(example)
            except decoding.UndecodableImage as error:
                image, full_size = error, None
            found.append((image, full_size, example['label'], example['name']))
        return found

    threads = num_threads or pipeline.available_cores()
    cv2.setNumThreads(0)  # as many threads as cores decode already
    parts = iter(
        range(start, min(start + _PART, len(source)))
        for start in range(0, len(source), _PART)
    )
    with concurrent.futures.ThreadPoolExecutor(threads, 'vit_jax-cache') as pool:
        # No more is under way than is soon written.
        ahead = collections.deque(
            pool.submit(decode, part)
            for part in itertools.islice(parts, _PARTS * threads)
        )
        try:
            while ahead:
                yield from ahead.popleft().result()
                for part in itertools.islice(parts, 1):
                    ahead.append(pool.submit(decode, part))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
