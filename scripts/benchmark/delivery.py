"""Training batches, and how fast they come."""

import argparse
import itertools
import time
from collections.abc import Iterator

# Seconds for batches to be made that nobody has asked for yet.
SETTLE = 1.0


def batches(
    args: argparse.Namespace, source: object, workers: int = 0
) -> Iterator[dict]:
    """Returns training batches of a source; to be closed."""
    from vit_jax import data

    return data.train_batches(
        source,
        data.Augment((args.size, args.size)),
        batch=args.batch,
        seed=0,
        reading=data.Reading(num_workers=workers),
    )


def kind(workers: int) -> str:
    """Returns what makes the batches."""
    return f'{workers} worker processes' if workers else 'threads'


def delivered(args: argparse.Namespace, made: Iterator, before: int = 4) -> float:
    """Returns images per second that batches come with.

    Args:
      args: of the part.
      made: batches.
      before: so many are drawn first, which were made while nobody drew any.
    """
    for _ in itertools.islice(made, before):
        pass
    count = -(-args.images // args.batch)
    start = time.perf_counter()
    for _ in itertools.islice(made, count):
        pass
    rate = count * args.batch / (time.perf_counter() - start)
    time.sleep(SETTLE)  # until as many have been made again
    return rate
