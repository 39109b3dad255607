"""Fine-tuning in one call, for notebooks and scripts: the same run as the command."""

import logging
import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from vit_jax import config as config_lib

if TYPE_CHECKING:
    from vit_jax.inference.predictor import Predictor

log = logging.getLogger('vit_jax')


def finetune(
    dataset: str | os.PathLike,
    model: str | os.PathLike = 'ViT-B_16',
    *,
    workdir: str | os.PathLike | None = None,
    pretrained: str | os.PathLike | None = None,
    config: Mapping[str, Any] | None = None,
) -> 'Predictor':
    """Fine-tunes a model and returns it, ready to be asked.

    It is the run that `python -m vit_jax.main --config=configs/vit.py:MODEL,DATASET`
    makes: in a run directory, with checkpoints, and continued if it was stopped. The
    parameters returned are those that were best on the validation split, or the last
    ones where nothing is held out.

    Args:
        dataset: a folder of photos, or whatever else `--config.dataset` takes.
        model: the name of a published model (`vit_jax.models.list_models()`); or a
            reference to weights, as in `vit_jax.load`: a run directory, a file,
            hf://owner/repo. They tell what the model is, and the size of its images.
        workdir: the run directory; default: runs/<dataset>-<model>.
        pretrained: where the parameters of a named model start, as
            `--config.pretrained`; default: <pretrained_dir>/<model>.npz.
        config: further keys of the configuration, {'total_steps': 100, 'pp.crop': 32}.

    Raises:
        ValueError: there is no such key, dataset, model or file of weights, or they do
            not fit together.
    """
    _tell_progress()  # first: libraries of training give the program a handler
    from vit_jax import train
    from vit_jax.inference.predictor import Predictor

    recipe = _recipe(os.fspath(dataset), os.fspath(model), pretrained)
    for key, value in (config or {}).items():
        config_lib.set_key(recipe, key, value)
    if workdir is None:
        name = f'{_stem(os.fspath(dataset))}-{_stem(os.fspath(model))}'
        workdir = pathlib.Path('runs', name)
    _, summary = train.train_and_evaluate(recipe, workdir)
    return Predictor.load(workdir, best='best_step' in summary)


def _recipe(
    dataset: str, model: str, pretrained: str | os.PathLike | None
) -> ConfigDict:
    """The recipe finetune.py, with other weights for a named model if need be."""
    from vit_jax.configs import finetune

    recipe = finetune.get_config(f'{model},{dataset}')
    if pretrained is None:
        return recipe
    if recipe.pretrained == model:
        raise ValueError(
            f'two sets of weights are named, {model} and {pretrained}: name the model '
            'by its name, or leave one out'
        )
    recipe.pretrained = os.fspath(pretrained)
    return recipe


def _tell_progress() -> None:
    """Shows what a run tells, unless the program has decided that for itself."""
    if not logging.getLogger().handlers and not log.handlers:
        logging.basicConfig(format='%(message)s', level=logging.WARNING)
        log.setLevel(logging.INFO)


def _stem(reference: str) -> str:
    """Returns a short name for a folder of runs: the last part of a reference."""
    parts = reference.replace('\\', '/').rstrip('/').split('/')
    return parts[-1].partition(':')[0].removesuffix('.npz') or 'run'


if __name__ == '__main__':
    raise SystemExit(
        'vit_jax.fine_tuning is no command. To fine-tune: '
        'python -m vit_jax.main --config=RECIPE --workdir=DIR'
    )
