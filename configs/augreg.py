r"""Fine-tune a checkpoint of "How to train your ViT?" (Steiner et al., 2021).

    python -m vit_jax.main --config=configs/augreg.py:R_Ti_16 \
        --config.dataset=oxford_iiit_pet --config.pretrained_dir=/path/to/augreg \
        --workdir=runs/pets

The argument is a model (R_Ti_16, Ti_16, S_16, B_16, … of `models.AUGREG_CONFIGS`),
for which the recommended checkpoint is taken, or the whole name of one of the
published files, without .npz. `pretrained_dir` is the folder with the files.

500 steps at 384 pixels; one GPU takes minutes for the small models.
"""

from ml_collections import ConfigDict

from vit_jax import config as config_lib
from vit_jax import models

# The recommended pre-training for each model: the best on the validation split of
# ImageNet-21k, as printed in the original's notebook.
RECOMMENDED = {
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
}


def get_config(model_or_filename: str) -> ConfigDict:
    """Returns the recipe for a model, or for the name of a published file."""
    model_or_filename = model_or_filename.removesuffix('.npz')
    key, dash, _ = model_or_filename.partition('-')
    if key not in models.AUGREG_CONFIGS or not (dash or key in RECOMMENDED):
        raise ValueError(
            f'augreg.py:{model_or_filename}: {key!r} is no model of AugReg; known are '
            f'{", ".join(RECOMMENDED)}.' + config_lib.nearest(key, RECOMMENDED)
        )
    config = config_lib.default()
    config_lib.set_model(config, models.AUGREG_NAMES[key])
    config.model.transformer.dropout_rate = 0.0
    filename = (
        model_or_filename if dash else f'{key}-i21k-300ep-lr_0.001-{RECOMMENDED[key]}'
    )
    config.pretrained = config.get_ref('pretrained_dir') + f'/{filename}.npz'
    config.base_lr = 0.03
    config.total_steps = 500
    config.warmup_steps = 100
    config.pp.crop = 384
    return config
