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

from vit_jax.words import lazy

__getattr__, __dir__, __all__ = lazy.face(
    __name__,
    {
        'cache': ('cached',),
        'datasets.folder': ('open_folder', 'open_manifest'),
        'headers': ('broken',),
        'images.augment': ('Augment',),
        'images.decoding': ('UndecodableImage', 'decode', 'pixels'),
        'images.preprocess': ('Preprocess',),
        'open': ('open_dataset',),
        'pipeline': (
            'OnSkip', 'Reading', 'eval_batches', 'tell_skipped', 'train_batches',
        ),
        'sources': ('Dataset', 'Example', 'Picked', 'Source'),
    },
    modules=(
        'datasets.folder', 'images.augment', 'images.ops', 'pipeline', 'sources',
        'splits',
    ),
)  # fmt: skip
