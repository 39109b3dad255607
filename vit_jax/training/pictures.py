"""Images as the network sees them, drawn at the start of a run."""

import contextlib
import logging

import jax

from vit_jax import data
from vit_jax.runtime import hosts
from vit_jax.training import input as input_lib
from vit_jax.training.plan import Plan
from vit_jax.training.run_directory import RunDirectory

log = logging.getLogger(__name__)


def show_images(plan: Plan, run: RunDirectory) -> dict[str, bytes]:
    """Writes images as the network sees them to the run directory; returns the PNGs."""
    config = plan.config
    if not config.show_images or not hosts.is_first():
        return {}
    from vit_jax.visualize import drawing, image_grid

    shown = {}
    for role, source in plan.sources.items():
        with contextlib.closing(
            input_lib.train_batches(config, source, 0)
            if role == 'train'
            else input_lib.eval_batches(
                config, _for_each_host(source, config.show_images), jax.process_count()
            )
        ) as batches:
            figure = image_grid.seen(
                batches,
                plan.class_names,
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
