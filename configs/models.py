"""Configurations of the published models, under the original's names.

`MODEL_CONFIGS['ViT-B_16']`, `AUGREG_CONFIGS['B_16']` and `get_b16_config()` are views
of the table in `vit_jax.models.zoo.google`; this is no recipe to run.
"""

import functools
from collections.abc import Callable

from ml_collections import ConfigDict

from vit_jax.models import AUGREG_CONFIGS, MODEL_CONFIGS, SHORT_NAMES, get_config

# get_ti16_config(), get_b16_config(), get_r50_b16_config(), … one for every model.
_FUNCTIONS = {f'get_{short}_config': name for short, name in SHORT_NAMES.items()}

__all__ = ['AUGREG_CONFIGS', 'MODEL_CONFIGS', *_FUNCTIONS]


def __getattr__(name: str) -> Callable[[], ConfigDict]:
    if name not in _FUNCTIONS:
        raise AttributeError(f'module {__name__} has no attribute {name}')
    return functools.partial(get_config, _FUNCTIONS[name])


def __dir__() -> list[str]:
    return [*globals(), *_FUNCTIONS]
