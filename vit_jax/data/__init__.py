"""Pixels and labels: where examples come from and how batches are made of them.

sources.py   one protocol for all datasets, open_dataset()
splits.py    split strings such as 'train[:98%]'
ops.py       decode, crop, flip, resize, value range
pipeline.py  train_batches(), eval_batches()
cache.py     cached(): images decoded once
workers.py   the life of worker processes
folder.py    folders of images and CSV manifests

Nothing is imported before it is used: Grain alone takes a second and defines absl
flags.
"""

import importlib

_HOMES = {
    'Dataset': 'sources',
    'Example': 'sources',
    'Picked': 'sources',
    'Source': 'sources',
    'UndecodableImage': 'ops',
    'cached': 'cache',
    'decode': 'ops',
    'eval_batches': 'pipeline',
    'open_dataset': 'sources',
    'open_folder': 'folder',
    'open_manifest': 'folder',
    'pixels': 'ops',
    'train_batches': 'pipeline',
}
_MODULES = ('folder', 'ops', 'pipeline', 'sources', 'splits')

__all__ = sorted([*_HOMES, *_MODULES])


def __getattr__(name: str):
    if name in _HOMES:
        module = importlib.import_module(f'{__name__}.{_HOMES[name]}')
        return getattr(module, name)
    if name in _MODULES:
        return importlib.import_module(f'{__name__}.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return __all__
