"""What is learned: from labels to a loss, metrics and an answer; one record."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Array, Float, Shaped

Batch = Mapping[str, Any]  # of arrays (b …)
Outputs = Shaped[Array, 'b ...']  # of the network
Targets = Any


def labels(batch: Batch) -> Any:
    """Returns the labels of a batch (b), the targets of most tasks."""
    return batch['label']


@dataclasses.dataclass(frozen=True)
class Task:
    """What a network is trained for, and how its outputs are judged and read.

    All functions are traced: they take and give JAX arrays. Losses and metrics are
    those of each example by itself, so that padding can be left out and a mean over
    any number of batches, devices and hosts is exact.

    Attributes:
        loss: (outputs, targets) -> (b,), what training makes smaller.
        metrics: (outputs, targets) -> by name (b,), of which evaluation tells the mean;
            'loss' is among them.
        answer: outputs -> what a user is told, as probabilities (b y).
        rank: names of metrics, the most important first, each with 1 where more is
            better and -1 where less is: which parameters are the best on val.
        targets: batch -> what the outputs are compared with.
    """

    loss: Callable[[Outputs, Targets], Float[Array, ' b']]
    metrics: Callable[[Outputs, Targets], dict[str, Float[Array, ' b']]]
    answer: Callable[[Outputs], Shaped[Array, 'b ...']]
    rank: tuple[tuple[str, int], ...]
    targets: Callable[[Batch], Targets] = labels

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """Returns what orders metrics: the larger, the better."""
        return tuple(sign * metrics[name] for name, sign in self.rank)
