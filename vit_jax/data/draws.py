"""The random numbers of a position in the stream of training examples."""

import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64

# Random numbers that are drawn at once per example: three attempts at a crop and a flip
# are 13. A multiple of 4.
_DRAWS = 16


class Draws:
    """The random numbers of one position, as many as are asked for."""

    def __init__(self, seed: int, position: int, first: list[float]):
        self._known = seed, position, first
        self.random = itertools.chain(first, _more(seed, position)).__next__

    def again(self) -> 'Draws':
        """Returns the same numbers from the start."""
        return Draws(*self._known)


def draws(seed: int, positions: Int64[np.ndarray, ' b']) -> list[Draws]:
    """Returns the randomness of examples at consecutive global positions.

    The numbers of a position are a pure function of seed and position. All numbers are
    parts of one long stream, of which a few of each position are drawn at once: making
    a generator takes longer than drawing a thousand numbers, and asks the system for
    entropy that is not used.
    """
    # Philox counts blocks of four numbers.
    start = int(positions[0]) * _DRAWS // 4
    rng = np.random.Generator(np.random.Philox(key=seed, counter=start))
    numbers = rng.random((len(positions), _DRAWS)).tolist()
    return [
        Draws(seed, int(position), first)
        for position, first in zip(positions, numbers, strict=True)
    ]


def _more(seed: int, position: int) -> Iterator[float]:
    # Far from the numbers that all positions have, and 2⁶⁴ blocks for each.
    start = (1 << 192) + (position << 64)
    rng = np.random.Generator(np.random.Philox(key=seed, counter=start))
    while True:
        yield rng.random()
