r"""Fine-tune a checkpoint of "How to train your ViT?" (Steiner et al., 2021).

    python -m vit_jax.main --config=configs/augreg.py:R_Ti_16 \
        --config.dataset=oxford_iiit_pet --config.pretrained_dir=/path/to/augreg \
        --workdir=runs/pets

The argument is a model (R_Ti_16, Ti_16, S_16, B_16, … of `models.AUGREG_CONFIGS`),
for which the recommended checkpoint is taken, or the whole name of one of the
published files, with or without .npz, whose parts are checked. `pretrained_dir` is the
folder with the files, or an address; an `index.csv` there decides what is recommended.

500 steps at 384 pixels; one GPU takes minutes for the small models.
"""

from ml_collections import ConfigDict

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax.checkpoint import augreg
from vit_jax.words.suggest import unknown


def get_config(model_or_filename: str) -> ConfigDict:
    """Returns the recipe for a model, or for the name of a published file."""
    filename = model_or_filename.removesuffix('.npz')
    config = config_lib.default()
    folder = config.get_ref('pretrained_dir')
    if filename in augreg.RECOMMENDED:
        model = models.AUGREG_NAMES[filename]
        config.pretrained = folder + augreg.Recommended(filename)
    elif '-' in filename:
        model = augreg.parse(filename).model
        config.pretrained = folder + f'/{filename}.npz'
    else:
        raise unknown('model of AugReg', filename, augreg.RECOMMENDED)
    config_lib.set_model(config, model)
    config.model.transformer.dropout_rate = 0.0
    config.base_lr = 0.03
    config.total_steps = 500
    config.warmup_steps = 100
    config.pp.crop = 384
    return config
