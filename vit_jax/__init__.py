"""Vision Transformers in JAX/Flax: load published weights, fine-tune, use.

    predictor = vit_jax.finetune('photos', 'ViT-B_16')      # as the command does
    predictor = vit_jax.Predictor.load('runs/flowers')      # a run, or a checkpoint
    predictor.predict('rose.jpg')                           # [('rose', 0.98), …
    model, params, card = vit_jax.load('runs/flowers')      # what it is made of
    model = vit_jax.get_model('ViT-B_16', num_classes=10)   # without parameters

The map of the package, in the order in which data flows:

    configs      what to run: one file, one recipe (configs/ in the repository)
    main         the command: python -m vit_jax.main --config=… --workdir=…
    config       the default configuration, every key explained
    models       the networks, and the table of those that were published
    data         images and labels: sources, image operations, batches
    checkpoint   weights in and out: published files, adaptation, a run's state
    hosts        several processes that train one model
    sharding     devices, and which array lives where
    optim        learning rate schedules, optimizers
    train_state  all that a step needs besides its batch, and how it begins
    train_step   one step, and the steps one after another
    evaluators   what is asked of the parameters on the way
    train        the story of a run; fine_tuning: the same in one call
    workdir      the run directory; metrics, interruption: what is told, and signals
    predictor    a model that can be asked; predict: the likeliest classes of photos
    evaluate     every example exactly once; judgement: what follows from it
    features     of a dataset, to a file; few_shot: what can be learned from them
    convert      weights in another format; export: an artifact that runs alone
    visualize    what a model has learned; summary, shapes: what it does, by layer
    report       one HTML file about a run
    dry_run      what a run would take; memory: where there is too little of it
    profiling    a trace of some steps; compilation_cache: what is compiled is kept
    commands     what the commands share
"""

import importlib
import importlib.metadata
from typing import Any

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
