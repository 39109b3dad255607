"""Vision Transformers in JAX/Flax: load published weights, fine-tune, use.

    predictor = vit_jax.finetune('photos', 'ViT-B_16')      # as the command does
    predictor = vit_jax.Predictor.load('runs/flowers')      # a run, or a checkpoint
    predictor.predict('rose.jpg')                           # [('rose', 0.98), …
    model, params, card = vit_jax.load('runs/flowers')      # what it is made of
    model = vit_jax.get_model('ViT-B_16', num_classes=10)   # without parameters

What can be run is a file at the root, `python -m vit_jax.<noun>`; what it is made of is
a folder, here in the order in which data flows:

    config, configs    every key, and recipes that set some (configs/ in a clone)
    models             the networks, and the zoo of those that were published
    data               images and labels: datasets, operations on pixels, batches
    checkpoint         weights in and out, whatever their format and their names
    tasks              what is learned: loss, metrics, what is best, the answer
    optim              learning rate schedules, optimizers, what they leave alone
    training           the parts of a run; train.py is its story
    inference          a model that can be asked; evaluation: how good it is
    forecast           what a run would take, before it is made
    export, visualize, report    a model elsewhere, what it has learned, a page on a run
    runtime, files, words, command_line    the machine, files, messages, arguments

docs/architecture.md has the whole map, file by file.
"""

import importlib
import importlib.metadata
from typing import Any

from vit_jax.command_line import terminal

terminal.started()

# Name -> where it is. Imported when asked for, so that `import vit_jax` is fast and
# `vit_jax.models` needs nothing that only training needs.
_LAZY = {
    'Predictor': ('vit_jax.inference.predictor', 'Predictor'),
    'finetune': ('vit_jax.fine_tuning', 'finetune'),
    'get_model': ('vit_jax.models', 'get_model'),
    'load': ('vit_jax.checkpoint', 'load_model'),
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module, attribute = _LAZY[name]
        return getattr(importlib.import_module(module), attribute)
    if name == '__version__':
        try:
            return importlib.metadata.version('vit_jax')
        except importlib.metadata.PackageNotFoundError:
            return '0+not.installed'
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY, '__version__'])
