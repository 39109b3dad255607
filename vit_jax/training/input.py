"""The batches of a run, from a source to the devices."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vit_jax import config as config_lib
from vit_jax import data
from vit_jax.runtime import hosts, sharding
from vit_jax.training import evaluators
from vit_jax.training.run_directory import RunDirectory
from vit_jax.training.step import Batch

log = logging.getLogger(__name__)


def kept(config: ConfigDict, source: data.Source) -> data.Source:
    """Returns the training images as the run reads them: decoded, if it keeps them."""
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
        with hosts.together():
            return decoded()
    return hosts.first_ahead(decoded)  # the others find them, or have another disk


def sent_batches(
    config: ConfigDict, source: data.Source, mesh: Mesh, start: int
) -> tuple[Iterator[Mapping[str, Any]], Callable[[Batch], Batch]]:
    """Returns what this host sends for batch `start` and all that follow.

    And what the devices make batches of that by: they may hold the images already.
    """
    if not config.cache.on_device:
        return train_batches(config, source, start), _as_it_is
    from vit_jax.data.on_device import OnDevice

    with hosts.together():
        held = OnDevice(
            source,
            config_lib.image_size(config),
            sharding.batch_sharding(mesh),
            most=config.cache.device_mb << 20,
            resize=config.pp.resize,
            shrink=config.cache.shrink,
            channels=config.pp.channels,
            num_threads=config.num_threads,
        )
    drawn = held.batches(
        batch=config.batch,
        seed=config.seed,
        start=start,
        min_area=config.pp.min_area,
        flip=config.pp.flip,
        num_threads=config.num_threads,
        host=jax.process_index(),
        num_hosts=jax.process_count(),
        skip_corrupt=config.skip_corrupt,
    )
    return drawn, held


def _as_it_is(batch: Batch) -> Batch:
    return batch


def train_batches(
    config: ConfigDict, source: data.Source, start: int
) -> Iterator[Mapping[str, Any]]:
    """Returns batch `start` and all that follow, on this host."""
    return data.train_batches(
        source,
        batch=config.batch,
        size=config_lib.image_size(config),
        seed=config.seed,
        start=start,
        resize=config.pp.resize,
        min_area=config.pp.min_area,
        flip=config.pp.flip,
        num_workers=config.num_workers,
        num_threads=config.num_threads,
        host=jax.process_index(),
        num_hosts=jax.process_count(),
        skip_corrupt=config.skip_corrupt,
        channels=config.pp.channels,
        scaled_decoding=config.pp.scaled_decoding,
    )


def _show_images(
    config: ConfigDict,
    dataset: data.Dataset,
    sources: Mapping[str, data.Source],
    run: RunDirectory,
) -> dict[str, bytes]:
    """Writes images as the network sees them to the run directory; returns the PNGs."""
    if not config.show_images:
        return {}
    from vit_jax.visualize import drawing, image_grid

    shown = {}
    for role, source in sources.items():
        with contextlib.closing(
            train_batches(config, source, 0)
            if role == 'train'
            else evaluators.eval_batches(
                config, _for_each_host(source, config.show_images), jax.process_count()
            )
        ) as batches:
            figure = image_grid.seen(
                batches,
                dataset.class_names,
                f'What the model sees: {role} ({config.pp[role]})',
                count=config.show_images,
                mean=0.0 if role == 'train' else config.pp.mean,
                std=1.0 if role == 'train' else config.pp.std,
            )
        shown[f'images/{role}'] = drawing.png(figure)
        run.save_picture(f'images/{role}.png', shown[f'images/{role}'])
    log.info('What the model sees: %s', run.path / 'images')
    return shown


def _for_each_host(source: data.Source, count: int) -> data.Source:
    """Returns examples from all over a source, the same ones for each host."""
    places = data.Picked.spread(source, count).places
    return data.Picked(source, places * jax.process_count())
