"""The configuration of a run: its keys, what follows from data and weights, its rules.

- keys.py: the one table of keys, each with its meaning; key.py: what a key has;
- defaults.py: `default()`, and what is done to any configuration;
- derived.py: the keys that depend on the data and on the weights;
- rules.py: `check`, which refuses before any work starts what could only fail later.
"""

import importlib
from typing import Any

# Imported when asked for: rules know the networks, which takes JAX, and the help of the
# command line does not.
_HOMES = {
    'GONE': 'gone',
    'GONE_WHAT': 'gone',
    'KEYS': 'keys',
    'NUMERICS': 'derived',
    'check': 'rules',
    'check_fsdp': 'rules',
    'choose_splits': 'derived',
    'default': 'defaults',
    'flatten': 'defaults',
    'image_size': 'defaults',
    'inherit_numerics': 'derived',
    'is_what': 'defaults',
    'keys_with_none': 'defaults',
    'largest_crop': 'derived',
    'parameter_names': 'rules',
    'resolve': 'derived',
    'set_key': 'defaults',
    'set_model': 'derived',
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        module = importlib.import_module(f'{__name__}.{_HOMES[name]}')
        return getattr(module, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return __all__
