"""The models that have been published: one table, and views of it.

Sizes: Dosovitskiy et al. 2020, table 1 (B, L, H), Steiner et al. 2021, table 2 (Ti, S),
Tolstikhin et al. 2021, table 1 (Mixers; S as in the published files); dropout rates
as in the original repository's fine-tuning configurations.
"""

import dataclasses
import fnmatch
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
from ml_collections import ConfigDict

from vit_jax.models import families, fields
from vit_jax.models.zoo.google import AUGREG_NAMES, SHORT_NAMES, TABLE
from vit_jax.words.suggest import unknown


class _Configs(Mapping):
    """Name -> configuration, made new and locked every time it is asked for.

    So nobody can change a model for everybody else.
    """

    def __init__(self, names: Mapping[str, str]):
        self._names = names  # key -> name in the table

    def __getitem__(self, key: str) -> ConfigDict:
        name = self._names[key]
        return TABLE[name].config(name).lock()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f'{type(self).__name__}({", ".join(self)})'


MODEL_CONFIGS = _Configs({name: name for name in TABLE})
AUGREG_CONFIGS = _Configs(AUGREG_NAMES)


def list_models(pattern: str = '*') -> list[str]:
    """Returns the names that match a pattern with wildcards, for instance '*-B_*'."""
    return fnmatch.filter(TABLE, pattern)


def get_config(name: str) -> ConfigDict:
    """Returns the model's configuration, yours to change.

    Args:
        name: published ('ViT-B_16') or short ('b16').

    Raises:
        ValueError: if there is no such model; it suggests the nearest names.
    """
    name = SHORT_NAMES.get(name, name)
    if name not in TABLE:
        raise unknown('model', name, TABLE)
    return TABLE[name].config(name)


def get_model(name: str, num_classes: int | None = 1000, **overrides: Any) -> nn.Module:
    """Returns a published model.

    Args:
        name: published ('ViT-B_16') or short ('b16').
        num_classes: width of the head; 0 or None for no head.
        **overrides: fields of the module; a mapping changes the keys that it has:
            get_model('ViT-B_16', patches={'size': (8, 8)}, dtype='bfloat16').

    Raises:
        ValueError: if there is no such model or field; it suggests the nearest names.
    """
    config = get_config(name)
    for key, value in overrides.items():
        if isinstance(value, Mapping | ConfigDict) and config.get(key) is not None:
            overrides[key] = {**config[key], **value}
    return from_config(config, num_classes=num_classes, **overrides)


def from_config(
    model_config: ConfigDict | Mapping, *, num_classes: int | None, **overrides: Any
) -> nn.Module:
    """Returns the model of a configuration as in MODEL_CONFIGS, or of a model card.

    Args:
        model_config: the module's fields, and `family` for another network than a
            Vision Transformer: see `family_of`.
        num_classes: width of the head; 0 or None for no head.
        **overrides: more fields, such as dtype; they win over the configuration's.
            dtype, remat, scan_layers and attention may be given, as they are by
            default, to families that have no such field.

    Raises:
        ValueError: if fields are unknown or missing, or a value is not valid.
    """
    values = {**model_config, **overrides}
    family = families.family_of(values)
    values.pop('family', None)
    values = families.supported(family, values)
    known = family.fields()
    for key in values:
        fields.check_one_of('model field', key, known)
    required = [k for k, field in known.items() if field.default is dataclasses.MISSING]
    if missing := [key for key in required if key not in values]:
        raise ValueError(
            f'The model configuration lacks {", ".join(missing)}: it has '
            f'{", ".join(values) or "nothing"}.'
        )
    return family.module(num_classes=num_classes, **values)


def for_run(config: ConfigDict, num_classes: int | None) -> nn.Module:
    """Returns the network of a run, computing as the run says.

    Args:
        config: of the run; its key `model`, and dtype, remat, scan_layers, attention.
        num_classes: width of the head.

    Raises:
        ValueError: as `from_config`.
    """
    options = {key: config[key] for key in families.COMPUTING}
    return from_config(config.model, num_classes=num_classes, **options)
