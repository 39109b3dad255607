"""Examples at global positions, as the rows of a batch."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np
from jaxtyping import Int64

from vit_jax.data import sources, workers
from vit_jax.data.draws import Draws, draws
from vit_jax.data.images.augment import Augment
from vit_jax.data.images.decoding import UndecodableImage
from vit_jax.data.images.preprocess import Preprocess

# A source of which so many examples in a row do not decode is not one of images.
MAX_SKIPPED = 1000
SKIP_HINT = '--config.skip_corrupt=True takes the next good image instead'


@runtime_checkable
class Examples(Protocol):
    """Global positions -> the rows of a batch.

    What is decided in Python is planned for the whole batch by one thread, so that the
    threads that decode seldom wait for each other's interpreter lock.
    """

    def layout(self, rows: int) -> workers.Layout:
        """Returns what a batch of so many rows consists of."""
        ...

    def plan(self, positions: Int64[np.ndarray, ' b']) -> list:
        """Returns what `read` needs, for each row."""
        ...

    def read(self, planned: Any) -> dict[str, Any]:
        """Returns a row."""
        ...

    def skipped_places(self, position: int, skipped: int) -> list[int]:
        """Returns the places in the source that were passed over for a position.

        Args:
            position: global.
            skipped: how many examples did not decode.
        """
        ...

    def why(self, place: int) -> UndecodableImage | None:
        """Returns why the example at a place does not decode; None: it does."""
        ...


@dataclass(frozen=True)
class TrainExamples:
    """Augmented examples in the order of a seed, which also decides the crops.

    Attributes:
      source: the examples.
      order: from a global position to a place in the source.
      augment: makes images of them.
      seed: of the random numbers.
      skip_corrupt: the next good one takes the place of one that does not decode.
    """

    source: sources.Source
    order: grain.MapDataset
    augment: Augment
    seed: int
    skip_corrupt: bool

    def layout(self, rows: int) -> workers.Layout:
        """Returns what a batch of so many rows consists of."""
        return {
            'image': ((rows, *self.augment.size, self.augment.channels), 'uint8'),
            'label': ((rows,), 'int32'),
            'skipped': ((rows,), 'int32'),
        }

    def plan(self, positions: Int64[np.ndarray, ' b']) -> list[tuple[int, Draws]]:
        """Returns the place and the random numbers of each row."""
        places = [self.order[position] for position in positions.tolist()]
        return list(zip(places, draws(self.seed, positions), strict=True))

    def read(self, planned: tuple[int, Draws]) -> dict[str, Any]:
        """Returns an example, or the next good one and how many were passed over."""
        place, random = planned
        if not self.skip_corrupt:
            try:
                return self._one(place, random) | {'skipped': 0}
            except UndecodableImage as error:
                raise UndecodableImage(error.name, error.reason, SKIP_HINT) from error
        for skipped in range(min(len(self.source), MAX_SKIPPED)):
            try:
                example = self._one(
                    (place + skipped) % len(self.source), random.again()
                )
            except UndecodableImage as error:
                last = error
            else:
                return example | {'skipped': skipped}
        raise UndecodableImage(
            last.name, last.reason, f'Nor do the {skipped} examples before it'
        )

    def skipped_places(self, position: int, skipped: int) -> list[int]:
        """Returns the places in the source that were passed over for a position."""
        place = self.order[position]
        return [(place + i) % len(self.source) for i in range(skipped)]

    def why(self, place: int) -> UndecodableImage | None:
        """Returns why the example at a place does not decode; None: it does."""
        (random,) = draws(self.seed, np.zeros(1, np.int64))
        try:
            self._one(place, random)
        except UndecodableImage as error:
            return error
        return None

    def _one(self, place: int, random: Draws) -> dict[str, Any]:
        example = self.source[place]
        image = self.augment(
            example['image'],
            random,
            name=example['name'],
            full_size=example.get('full_size'),
        )
        return {'image': image, 'label': example['label']}


@dataclass(frozen=True)
class EvalExamples:
    """Examples in their own order, then padding.

    Attributes:
      source: the examples.
      preprocess: makes images of them.
      skip_corrupt: an example that does not decode is masked.
    """

    source: sources.Source
    preprocess: Preprocess
    skip_corrupt: bool

    def layout(self, rows: int) -> workers.Layout:
        """Returns what a batch of so many rows consists of."""
        shape = (rows, *self.preprocess.size, self.preprocess.channels)
        return {
            'image': (shape, 'float32'),
            'label': ((rows,), 'int32'),
            'mask': ((rows,), 'float32'),
            'index': ((rows,), 'int32'),
            'skipped': ((rows,), 'int32'),
        }

    def plan(self, positions: Int64[np.ndarray, ' b']) -> list[int]:
        """Returns the place of each row."""
        return positions.tolist()

    def read(self, planned: int) -> dict[str, Any]:
        """Returns an example; zeros where there is none, or none that decodes."""
        padding = {'image': 0, 'label': 0, 'mask': 0, 'index': -1, 'skipped': 0}
        if planned >= len(self.source):
            return padding
        try:
            example = self.source[planned]
            image = self.preprocess(example['image'], example['name'])
        except UndecodableImage as error:
            if self.skip_corrupt:
                return padding | {'index': planned, 'skipped': 1}
            raise UndecodableImage(error.name, error.reason, SKIP_HINT) from error
        return {
            'image': image,
            'label': example['label'],
            'mask': 1,
            'index': planned,
            'skipped': 0,
        }

    def skipped_places(self, position: int, skipped: int) -> list[int]:
        """Returns the place of a row that is masked."""
        return [position] * skipped

    def why(self, place: int) -> UndecodableImage | None:
        """Returns why the example at a place does not decode; None: it does."""
        try:
            example = self.source[place]
            self.preprocess(example['image'], example['name'])
        except UndecodableImage as error:
            return error
        return None
