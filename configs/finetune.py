r"""Fine-tune any weights on any photos.

    python -m vit_jax.main --config=configs/finetune.py:runs/digits,/path/to/photos \
        --workdir=runs/photos
    python -m vit_jax.main --config=finetune.py:hf://owner/repo,/path/to/photos …

The argument is a model and a dataset, as in vit.py. The model is a reference to
weights, as `vit_jax.load` takes them: a run, a file, an address; the weights tell what
the network is, how it computes, how pixels are normalized and the size of the images.
Or it is the name of a published model, and this is vit.py.

The weights are looked for before the dataset is opened.
"""

import os

from ml_collections import ConfigDict

from vit_jax import config as config_lib
from vit_jax.configs import vit
from vit_jax.models.zoo import google
from vit_jax.words.suggest import did_you_mean


def get_config(argument: str) -> ConfigDict:
    """Returns the recipe for 'WEIGHTS,DATASET', such as 'runs/quickstart,photos'."""
    model, comma, dataset = argument.partition(',')
    if not comma or not dataset or not model:
        raise ValueError(
            f'finetune.py:{argument}: expected weights and a dataset, as in '
            'finetune.py:runs/quickstart,/path/to/photos or '
            'finetune.py:hf://owner/repo,cifar10.'
        )
    names = [*google.TABLE, *google.SHORT_NAMES]
    if model in names:
        return vit.get_config(argument)
    if not ('://' in model or os.path.exists(os.path.expanduser(model))):
        raise ValueError(
            f'finetune.py: {model} is no published model, and there is no such file or '
            f'run.{did_you_mean(model, names)} python -m vit_jax.models lists them.'
        )

    from vit_jax import checkpoint

    with checkpoint.open(model) as weights:
        card = checkpoint.card_of(weights)
    config = config_lib.default()
    config.model = ConfigDict({**card.model, 'head_init': 'zeros'})
    config.dataset, config.pretrained = dataset, model
    height, width = card.image_size
    if height == width:
        config.pp.crop = height
    else:
        config.pp.size = card.image_size
    return config
