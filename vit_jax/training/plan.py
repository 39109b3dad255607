"""All that must be known before the first step of a run."""

import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from vit_jax import checkpoint, data, models
from vit_jax import config as config_lib

log = logging.getLogger(__name__)

# Keys that each host may have as it likes. What is at other paths is compared by
# fingerprint.
_OWN = frozenset(
    {
        *('dataset', 'tfds_data_dir', 'tfds_manual_dir', 'pretrained'),
        *('pretrained_dir', 'num_threads', 'num_workers', 'prefetch'),
    }
)


def open_splits(config: ConfigDict, dataset: data.Dataset) -> dict[str, data.Source]:
    """Returns the sources by role, and notes the splits in the configuration."""
    splits = config_lib.choose_splits(config.pp, dataset.splits, dataset.complement)
    with config.ignore_type():  # None, where the dataset has nothing for a role
        config.pp.update(splits)
    sources = {role: dataset.source(split) for role, split in splits.items() if split}
    for role, source in sources.items():
        if not len(source):
            raise ValueError(
                f'The split {splits[role]!r} ({role}) of {dataset.name} has no '
                f'examples; set --config.pp.{role}.'
            )
    for role, other in itertools.combinations(sources, 2):
        if shared := sources[role].num_shared(sources[other]):
            raise ValueError(
                f'{role} ({splits[role]}) and {other} ({splits[other]}) share {shared} '
                'examples, so that a result on them would not be honest. Name splits '
                'apart: --config.pp.train=…, --config.pp.val=…, --config.pp.test=…'
            )
    return sources


def fill_in(
    config: ConfigDict, num_examples: int, before: Mapping[str, Any] | None
) -> None:
    """Sets the keys that are None: as the run to go on has them, or from the data."""
    before = config_lib.flatten(before or {})
    found = config_lib.resolve(
        config, num_examples=num_examples, num_devices=jax.device_count()
    )
    for key in found:
        if before.get(key) is not None:
            found[key] = before[key]
    config.update_from_flattened_dict(found)
    if found:
        log.info(
            'Chosen for %d examples: %s',
            num_examples,
            ', '.join(f'{key} {value}' for key, value in found.items()),
        )


def follow_weights(config: ConfigDict, before: Mapping[str, Any] | None) -> None:
    """Sets what the configuration leaves to the weights: numerics, normalization.

    Weights that a port trained have another GELU, other epsilons, another mean.

    Args:
        config: of the run.
        before: of the run that goes on, which has found them already.
    """
    card = None
    if before is None and config.pretrained is not None:
        with checkpoint.open(config.pretrained) as weights:
            card = weights.card
    found = config_lib.follow(config, card, config_lib.flatten(before or {}))
    if card is not None and found:
        log.info(
            'As in the pretrained weights: %s',
            ', '.join(f'{key} {value}' for key, value in found.items()),
        )


def _common(config: ConfigDict) -> dict[str, Any]:
    """Returns the keys that all hosts must have the same."""
    return {
        f'config.{key}': value
        for key, value in config_lib.flatten(config).items()
        if key not in _OWN
    }


def check_filled_in(config: ConfigDict, sources: Mapping[str, data.Source]) -> None:
    """Raises a ValueError for what could not be run with this data."""
    config_lib.check(config, num_devices=jax.device_count())
    if config.batch > len(sources['train']):
        raise ValueError(
            f'There are {len(sources["train"])} training examples ({config.pp.train}), '
            f'fewer than one batch of {config.batch}; set a smaller --config.batch.'
        )


def create_model(config: ConfigDict, num_classes: int) -> nn.Module:
    """Returns the network as it is trained."""
    fields = {name: config[name] for name in ('dtype', 'remat', 'scan_layers')}
    if 'transformer' in config.model:  # a Mixer has no attention
        fields['attention'] = config.attention
    return models.from_config(config.model, num_classes=num_classes, **fields)


def _card(
    config: ConfigDict, dataset: data.Dataset, results: list[dict[str, Any]]
) -> checkpoint.ModelCard:
    """Returns what must be known to use the model that a run leaves."""
    return checkpoint.ModelCard(
        model=config.model.to_dict(),
        num_classes=len(dataset.class_names),
        image_size=config_lib.image_size(config),
        class_names=list(dataset.class_names),
        resize=config.pp.resize,
        mean=_one_or_each(config.pp.mean),
        std=_one_or_each(config.pp.std),
        source={
            'dataset': _absolute(config.dataset),
            'tfds_data_dir': _absolute(config.tfds_data_dir),
            'tfds_manual_dir': _absolute(config.tfds_manual_dir),
            'dtype': config.dtype,
            'holdout': config.pp.holdout,
            'train_split': config.pp.train,
            'test_split': config.pp.test,
            'pretrained': config.pretrained,
            'results': results,
        },
    )


def _one_or_each(values: Sequence[float]) -> float | tuple[float, ...]:
    return values[0] if len(values) == 1 else tuple(values)


def _absolute(path: str | None) -> str | None:
    """Returns a path that holds from other folders too; other names as they are."""
    return os.path.abspath(path) if path and os.path.exists(path) else path
