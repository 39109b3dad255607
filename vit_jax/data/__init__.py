"""Pixels and labels: where examples come from and how batches are made of them.

open.py      open_dataset(): any dataset by its name; datasets/ holds the kinds
sources.py   one protocol for all datasets
splits.py    split strings such as 'train[:98%]'
images/      decoding, Augment for training, Preprocess for everything else
pipeline.py  train_batches(), eval_batches(), and Reading, how they are read
cache.py     cached(): images decoded once
workers.py   the life of worker processes

Nothing is imported before it is used: Grain alone takes a second and defines absl
flags.
"""

import importlib

_HOMES = {
    'Augment': 'images.augment',
    'Dataset': 'sources',
    'Example': 'sources',
    'Picked': 'sources',
    'Preprocess': 'images.preprocess',
    'Reading': 'pipeline',
    'Source': 'sources',
    'UndecodableImage': 'images.decoding',
    'cached': 'cache',
    'decode': 'images.decoding',
    'eval_batches': 'pipeline',
    'open_dataset': 'open',
    'open_folder': 'datasets.folder',
    'open_manifest': 'datasets.folder',
    'pixels': 'images.decoding',
    'train_batches': 'pipeline',
}
_MODULES = {
    'augment': 'images.augment',
    'folder': 'datasets.folder',
    'ops': 'images.ops',
    'pipeline': 'pipeline',
    'sources': 'sources',
    'splits': 'splits',
}

__all__ = sorted([*_HOMES, *_MODULES])


def __getattr__(name: str):
    if name in _HOMES:
        module = importlib.import_module(f'{__name__}.{_HOMES[name]}')
        return getattr(module, name)
    if name in _MODULES:
        return importlib.import_module(f'{__name__}.{_MODULES[name]}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return __all__
