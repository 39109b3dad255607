"""Configurations: the default one, and what is done to any of them."""

from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from vit_jax.config.gone import GONE, GONE_WHAT
from vit_jax.config.keys import KEYS
from vit_jax.words.suggest import did_you_mean

# Keys of models that may be None; those of keys.py say it themselves.
_MODEL_KEYS_WITH_NONE = frozenset(
    {
        'model.gelu',
        'model.norm_epsilon',
        'model.representation_size',
        'model.resnet',
    }
)


def default() -> ConfigDict:
    """Returns the configuration that every recipe starts from: see keys.py."""
    config = ConfigDict()
    for name, key in KEYS.items():
        scope = config
        *scopes, leaf = name.split('.')
        for part in scopes:
            if part not in scope:
                scope[part] = ConfigDict()
            scope = scope[part]
        scope[leaf] = key.initial()
    return config


def complete(config: ConfigDict) -> None:
    """Gives groups of keys that a recipe has replaced, such as `pp`, what they lack."""
    for name, key in KEYS.items():
        scope, _, leaf = name.rpartition('.')
        group = config.get(scope) if scope else None
        if isinstance(group, ConfigDict) and leaf not in group:
            with group.unlocked():
                group[leaf] = key.initial()


def flatten(config: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration as plain values by dotted key.

    Tuples become lists, so that the result survives JSON unchanged.
    """

    def walk(prefix: str, value: Any) -> Iterable[tuple[str, Any]]:
        if isinstance(value, Mapping | ConfigDict):
            for key in sorted(value.keys()):
                yield from walk(f'{prefix}.{key}' if prefix else key, value[key])
        else:
            yield prefix, list(value) if isinstance(value, tuple) else value

    return dict(walk('', config))


def get(config: ConfigDict, name: str) -> Any:
    """Returns the value of a dotted key."""
    for part in name.split('.'):
        config = config[part]
    return config


def image_size(config: ConfigDict) -> tuple[int, int]:
    """Returns (height, width) of the images that the network sees."""
    return tuple(config.pp.size or (config.pp.crop, config.pp.crop))


def is_what(name: str) -> bool:
    """Returns whether a dotted key decides the numbers of a run."""
    if name in GONE:
        return name in GONE_WHAT
    parts = name.split('.')
    above = ('.'.join(parts[:end]) for end in range(len(parts), 0, -1))
    return not any(KEYS[key].how for key in above if key in KEYS)


def keys_with_none() -> list[str]:
    """Returns the keys that may be None."""
    return sorted({*_MODEL_KEYS_WITH_NONE, *(n for n, key in KEYS.items() if key.none)})


def set_key(config: ConfigDict, name: str, value: Any) -> None:
    """Sets a dotted key, perhaps to None.

    Raises:
        ValueError: there is no such key, it cannot be None, or its values are of
            another type.
    """
    names = flatten(config)
    if name not in names:
        raise ValueError(f'There is no key config.{name}.{did_you_mean(name, names)}')
    if value is None and name not in keys_with_none():
        raise ValueError(
            f'config.{name} cannot be None; only {", ".join(keys_with_none())} can.'
        )
    try:
        if value is None:
            with config.ignore_type():
                config.update_from_flattened_dict({name: None})
        else:
            config.update_from_flattened_dict({name: value})
    except TypeError as error:
        raise ValueError(f'config.{name}: {error}') from error
