"""The networks, by class and by published name.

Imported when asked for: JAX takes seconds, and the help of a command does not need it.
"""

import importlib
from typing import Any

_HOMES = {
    'AUGREG_CONFIGS': 'zoo.registry',
    'AUGREG_NAMES': 'zoo.google',
    'FAMILIES': 'families',
    'Family': 'family',
    'MODEL_CONFIGS': 'zoo.registry',
    'MlpMixer': 'mixer',
    'NORM_EPSILON': 'fields',
    'SHORT_NAMES': 'zoo.google',
    'VisionTransformer': 'vit',
    'family_of': 'families',
    'for_run': 'zoo.registry',
    'from_config': 'zoo.registry',
    'get_config': 'zoo.registry',
    'get_model': 'zoo.registry',
    'input_kernel': 'families',
    'known_families': 'families',
    'list_models': 'zoo.registry',
    'num_parameters': 'parameters',
    'num_prefix_tokens': 'grid',
    'parameter_shapes': 'parameters',
    'patch_grid': 'families',
    'stack': 'stacking',
    'unstack': 'stacking',
    'variables': 'arrays',
    'weight_shapes': 'arrays',
    'weights': 'arrays',
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        module = importlib.import_module(f'{__name__}.{_HOMES[name]}')
        return getattr(module, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return __all__
