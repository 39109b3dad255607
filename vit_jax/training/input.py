"""The batches of a run, from a source to the devices."""

import collections
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vit_jax import data
from vit_jax.evaluation import accuracy
from vit_jax.runtime import hosts, sharding
from vit_jax.training.step import Batch


def cached_source(config: ConfigDict, source: data.Source) -> data.Source:
    """Returns the training images decoded, where the run keeps them so."""
    where = config.cache.where
    if where is None:
        return source

    def decoded() -> data.Source:
        return data.cached(
            source,
            where,
            shrink=config.cache.shrink,
            channels=config.pp.channels,
            num_threads=config.num_threads,
        )

    if where == 'memory':
        with hosts.raise_on_all():
            return decoded()
    return hosts.first_host_first(decoded)  # the others find them, or have another disk


def train_batches(
    config: ConfigDict,
    source: data.Source,
    start: int,
    on_skip: data.OnSkip | None = None,
) -> Iterator[Mapping[str, Any]]:
    """Returns batch `start` and all that follow, on this host."""
    return data.train_batches(
        source,
        data.Augment.from_config(config),
        batch=config.batch,
        seed=config.seed,
        start=start,
        reading=_reading(config, config.num_workers),
        on_skip=on_skip,
    )


def eval_batches(
    config: ConfigDict,
    source: data.Source,
    num_devices: int,
    on_skip: data.OnSkip | None = None,
) -> Iterator[Mapping[str, Any]]:
    """Returns every example of a source once, on this host."""
    return data.eval_batches(
        source,
        data.Preprocess.from_config(config),
        batch=accuracy.batch_size(config.batch_eval, len(source), num_devices),
        reading=_reading(config),
        on_skip=on_skip,
    )


def _reading(config: ConfigDict, num_workers: int = 0) -> data.Reading:
    """Returns how this host reads its part of each batch."""
    return data.Reading(
        config.num_threads,
        num_workers,
        config.skip_corrupt,
        jax.process_index(),
        jax.process_count(),
    )


def on_devices(
    batches: Iterator[Mapping[str, Any]], mesh: Mesh, ahead: int
) -> Iterator[Batch]:
    """Yields batches that are on the devices, with so many more on their way."""
    rows = sharding.batch_sharding(mesh)
    placed = (sharding.to_devices(batch, rows) for batch in batches)
    queue = collections.deque(itertools.islice(placed, ahead))
    for batch in placed:
        queue.append(batch)
        yield queue.popleft()
    yield from queue
