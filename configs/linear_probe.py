r"""Train a linear classifier on the frozen features of a published model.

    python -m vit_jax.main --config=configs/linear_probe.py:b16,cifar10 \
        --config.pretrained_dir=/path/to/checkpoints --workdir=runs/b16-cifar10-probe

The argument is a model and a dataset, as in vit.py. All parameters but the head's are
frozen and dropout is off, so that a step costs about a third of one that trains them
all, and the accuracy says how well the features tell the classes apart.

The authors of these models published few-shot results (python -m vit_jax.few_shot) but
no linear probes. This follows DINO (Caron et al., 2021; eval_linear.py of its authors),
whose linear layer also stands on features after LayerNorm: SGD with momentum 0.9,
no weight decay, cosine decay; images of 224 pixels, cropped at random and mirrored. Its
rate is 0.001 · batch / 256 for 100 epochs; ours is five times that, for runs that are
mostly shorter. (MAE's 0.1 · batch / 256 is for LARS, behind a BatchNorm.) The best rate
depends on the weights: try `--config.base_lr=0.002` and 0.05 as well.
"""

from ml_collections import ConfigDict

from vit_jax import config as config_lib
from vit_jax.configs import vit

# All but the head.
FROZEN = '^(?!head/)'


def get_config(argument: str) -> ConfigDict:
    """Returns the recipe for 'MODEL,DATASET', such as 'b16,cifar10'."""
    config = vit.get_config(argument)
    config.pp.crop = config_lib.largest_crop(config.model, 224)
    probe(config)
    return config


def probe(config: ConfigDict) -> None:
    """Makes a linear probe of a recipe."""
    config.frozen = FROZEN
    for scope in (config.model, *config.model.values()):
        for key in scope if isinstance(scope, ConfigDict) else ():
            if key.endswith('dropout_rate'):
                scope[key] = 0.0
    config.optimizer = 'sgd'
    config.optim_dtype = 'float32'
    config.weight_decay = 0.0
    config.base_lr = 0.005 * (config.batch or 512) / 256
