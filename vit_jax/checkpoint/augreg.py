"""The 50,000 checkpoints of "How to train your ViT?" (Steiner et al. 2021).

A file's name tells how it was trained:

    B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0
    …--imagenet2012-steps_20k-lr_0.03-res_384                    and fine-tuned

The authors' bucket lists all of them in `index.csv`, with their accuracies.
"""

import csv
import dataclasses
import functools
import logging
import os
import re
from typing import Any

from vit_jax import models
from vit_jax.checkpoint import class_names as imagenet
from vit_jax.checkpoint import references
from vit_jax.words.suggest import unknown

log = logging.getLogger(__name__)

BUCKET = 'gs://vit_models/augreg'
# The recommended pre-training for each model: the best on the validation split of
# ImageNet-21k, as printed in the original's notebook.
RECOMMENDED = {
    key: f'{key}-i21k-300ep-lr_0.001-{regularization}'
    for key, regularization in {
        'L_16': 'aug_strong1-wd_0.1-do_0.0-sd_0.0',
        'B_16': 'aug_medium1-wd_0.1-do_0.0-sd_0.0',
        'S_16': 'aug_light1-wd_0.03-do_0.0-sd_0.0',
        'R50_L_32': 'aug_medium1-wd_0.1-do_0.1-sd_0.1',
        'R26_S_32': 'aug_light1-wd_0.1-do_0.0-sd_0.0',
        'Ti_16': 'aug_none-wd_0.03-do_0.0-sd_0.0',
        'B_32': 'aug_light1-wd_0.1-do_0.0-sd_0.0',
        'S_32': 'aug_none-wd_0.1-do_0.0-sd_0.0',
        'R_Ti_16': 'aug_none-wd_0.03-do_0.0-sd_0.0',
        'B_8': 'aug_medium2-wd_0.1-do_0.0-sd_0.0',
    }.items()
}
AUGMENTATIONS = ('none', 'light0', 'light1', 'medium1', 'medium2', 'strong1', 'strong2')
_NUMBER = r'\d+(?:\.\d+)?(?:e-?\d+)?'
# Field -> what stands in the name, in order.
_PRETRAINING = {
    'data': r'i1k|i21k|i21k_30',
    'epochs': r'(\d+)ep',
    'lr': rf'lr_({_NUMBER})',
    'augmentation': rf'aug_({"|".join(AUGMENTATIONS)})',
    'weight_decay': rf'wd_({_NUMBER})',
    'dropout': rf'do_({_NUMBER})',
    'stochastic_depth': rf'sd_({_NUMBER})',
}
_FINE_TUNING = {
    'dataset': r'\w+',
    'steps': r'steps_(\d+)k',
    'lr': rf'lr_({_NUMBER})',
    'resolution': r'res_(\d+)',
}


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """How a file was fine-tuned.

    Attributes:
        dataset: its TFDS name.
        thousand_steps: rounded down: 500 steps are 0, 2,500 are 2.
        lr: base learning rate.
        resolution: side of the images.
    """

    dataset: str
    thousand_steps: int
    lr: float
    resolution: int


@dataclasses.dataclass(frozen=True)
class Training:
    """How a file was trained, as its name tells.

    Attributes:
        model: the architecture's name in the zoo.
        data: i1k, i21k (300 epochs of ImageNet-21k) or i21k_30.
        epochs: of pre-training.
        lr: base learning rate of it.
        augmentation: of AUGMENTATIONS.
        weight_decay: of it.
        dropout: of it.
        stochastic_depth: of it.
        fine_tuning: None for files that are pre-trained only.
    """

    model: str
    data: str
    epochs: int
    lr: float
    augmentation: str
    weight_decay: float
    dropout: float
    stochastic_depth: float
    fine_tuning: FineTuning | None = None


def parse(stem: str) -> Training:
    """Returns what a file's name tells.

    Raises:
        ValueError: it is no name of AugReg; the message says which part is wrong.
    """
    stem = stem.removesuffix('.npz')
    before, dashes, after = stem.partition('--')
    key, *words = before.split('-')
    if key not in models.AUGREG_NAMES:
        raise unknown('model of AugReg', key, models.AUGREG_NAMES)
    values = _fields(stem, words, _PRETRAINING)
    fine_tuning = None
    if dashes:
        found = _fields(stem, after.split('-'), _FINE_TUNING)
        fine_tuning = FineTuning(
            found['dataset'],
            int(found['steps']),
            float(found['lr']),
            int(found['resolution']),
        )
    return Training(
        model=models.AUGREG_NAMES[key],
        data=values['data'],
        epochs=int(values['epochs']),
        augmentation=values['augmentation'],
        fine_tuning=fine_tuning,
        **{
            name: float(values[name])
            for name in ('lr', 'weight_decay', 'dropout', 'stochastic_depth')
        },
    )


def _fields(stem: str, words: list[str], grammar: dict[str, str]) -> dict[str, str]:
    # A negative exponent (1e-05) is cut at its dash.
    joined: list[str] = []
    for word in words:
        if joined and re.search(r'\de$', joined[-1]):
            joined[-1] += f'-{word}'
        else:
            joined.append(word)
    if len(joined) != len(grammar):
        raise ValueError(
            f'{stem}: found {len(joined)} fields ({", ".join(joined)}), expected '
            f'{len(grammar)}: {", ".join(grammar)}, as in {RECOMMENDED["B_16"]} and '
            '…--imagenet2012-steps_20k-lr_0.03-res_384'
        )
    values = {}
    for word, (name, pattern) in zip(joined, grammar.items(), strict=True):
        match = re.fullmatch(pattern, word)
        if not match:
            raise ValueError(
                f'{stem}: {word!r} is no {name.replace("_", " ")}; expected '
                f'{_example(pattern)}'
            )
        values[name] = match[match.lastindex or 0]
    return values


def _example(pattern: str) -> str:
    """Returns a pattern as a person would write it."""
    return (
        pattern.replace(_NUMBER, 'NUMBER').replace(r'\d+', 'NUMBER')
        .replace(r'\w+', 'NAME').replace('(', '').replace(')', '').replace('|', ' or ')
    )  # fmt: skip


def recommended(key: str, directory: str | os.PathLike = '') -> str:
    """Returns the name, without .npz, of the pre-training to take for a model.

    Args:
        key: of `models.AUGREG_CONFIGS`.
        directory: a folder or an address. Where an `index.csv` can be read there, the
            choice follows the original: the row on i21k with the highest `final_val`.
            Otherwise it is that of the published table, which is the same.

    Raises:
        ValueError: there is no recommendation for the model.
    """
    if chosen := _best_on_i21k(key, os.fspath(directory)):
        return chosen
    if key not in RECOMMENDED:
        raise unknown('model of AugReg', key, RECOMMENDED)
    return RECOMMENDED[key]


@functools.cache
def _best_on_i21k(key: str, directory: str) -> str | None:
    try:
        index = references.resolve(f'{directory or "."}/index.csv')
    except (ValueError, OSError) as error:
        if '://' in directory:
            log.info('Without an index.csv (%s): the published recommendation.', error)
        return None
    with index.open(newline='', encoding='utf-8') as file:
        rows = csv.DictReader(file)
        if not {'ds', 'filename', 'final_val'} <= set(rows.fieldnames or ()):
            log.warning('%s is not the index of AugReg; it is left aside.', index)
            return None
        found = [
            (float(row['final_val']), row['filename'])
            for row in rows
            if row['ds'] == 'i21k' and row['filename'].split('-')[0] == key
        ]
    # Of equal ones the last, as the original's sorting.
    best = max(reversed(found), key=lambda row: row[0], default=None)
    return best and best[1].removesuffix('.npz')


class Recommended:
    """A recommended file, once the folder is known: `folder + Recommended('B_16')`.

    The command line sets a recipe's folder (`pretrained_dir`) after the recipe has
    been read, and `+` is what a configuration computes later.
    """

    def __init__(self, key: str):
        self._key = key

    def __radd__(self, directory: str) -> str:
        return f'{directory}/{recommended(self._key, directory)}.npz'


def get_augreg_df(directory: str | os.PathLike = BUCKET) -> Any:
    """Returns the index of all checkpoints as a pandas DataFrame.

    One row for each fine-tuned file; columns as in the published `index.csv`: name, ds,
    epochs, lr, aug, wd, do, sd, best_val, final_val, final_test, adapt_ds, adapt_lr,
    adapt_steps, adapt_resolution, adapt_final_val, adapt_final_test, params,
    infer_samples_per_sec, filename, adapt_filename.

    Args:
        directory: a folder or an address with `index.csv`.

    Raises:
        ValueError: the index cannot be had, or pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ValueError(
            "get_augreg_df needs pandas: pip install 'vit_jax[augreg]'."
        ) from error
    return pandas.read_csv(references.resolve(f'{os.fspath(directory)}/index.csv'))


def source(stem: str) -> dict[str, Any]:
    """Returns what a card can say of a published file's training; {} of others."""
    try:
        return {'training': dataclasses.asdict(parse(stem))}
    except ValueError:
        return {}


def class_names(stem: str, num_classes: int) -> tuple[str, ...] | None:
    """Returns the names of the classes of a published file, or None.

    Those of ImageNet come with the package, those of other datasets with TFDS, where it
    knows them without the data.
    """
    try:
        fine_tuning = parse(stem).fine_tuning
    except ValueError:
        fine_tuning = None
    if fine_tuning is None or fine_tuning.dataset == 'imagenet2012':
        known = num_classes in (imagenet.I1K, imagenet.I21K)
        return imagenet.imagenet(num_classes) if known else None
    import tensorflow_datasets as tfds

    try:
        info = tfds.builder(fine_tuning.dataset, try_gcs=False).info
        names = tuple(info.features['label'].names)
    except Exception:
        # Whatever TFDS raises for a dataset that it cannot describe: a name less.
        return None
    # Names that only the download tells are numbers until then.
    known = len(names) == num_classes and not all(name.isdigit() for name in names)
    return names if known else None
