r"""Fine-tune a published MLP-Mixer.

    python -m vit_jax.main --config=configs/mixer.py:b16,cifar10 \
        --config.pretrained_dir=/path/to/checkpoints --workdir=runs/mixer-b16-cifar10

The argument is a Mixer (s8, s16, s32, b16, b32, l16, or Mixer-B_16) and a dataset, as
in vit.py. `<pretrained_dir>/<model name>.npz` is loaded. A Mixer is bound to the number
of its tokens, so to images of 224 pixels.

The presets are those of the original. Published accuracies on cifar10, from weights
pretrained on ImageNet / ImageNet-21k:

| model | cifar10 |
|---|---|
| b16 | 96.72 / 96.82 |
| l16 | 96.59 / 98.34 |
"""

from ml_collections import ConfigDict

from vit_jax import models
from vit_jax.configs import vit
from vit_jax.words.suggest import unknown

SHORT_NAMES = {
    short.removeprefix('mixer_'): name
    for short, name in models.SHORT_NAMES.items()
    if name.startswith('Mixer-')
}


def get_config(argument: str) -> ConfigDict:
    """Returns the recipe for 'MODEL,DATASET', such as 'b16,cifar10'."""
    name, _, dataset = argument.partition(',')
    name = SHORT_NAMES.get(name, name)
    if name not in SHORT_NAMES.values():
        raise unknown('Mixer', name, SHORT_NAMES)
    config = vit.get_config(f'{name},{dataset}')
    config.pp.crop = 224
    return config
