r"""Train a linear classifier on the frozen features of a published model.

    python -m vit_jax.main --config=configs/linear_probe.py:b16,cifar10 \
        --config.pretrained_dir=/path/to/checkpoints --workdir=runs/b16-cifar10-probe

The argument is a model and a dataset, as in vit.py. All parameters but the head's are
frozen, so that a step costs about a third of one that trains them all, and the accuracy
says how well the features tell the classes apart. Images are those of vit.py: crops of
at least 5 % of the area, mirrored; the BiT hyper-rule gives the steps.

The authors of these models published few-shot results (python -m vit_jax.few_shot) but
no linear probes. This is the usual recipe of others (Chen, Xie & He, 2021, appendix;
He et al., 2022, appendix A.1): SGD with momentum, no weight decay, a rate 0.1 · batch /
256, 10 % of warm-up, cosine decay; the gradient is not clipped.
"""

from ml_collections import ConfigDict
from vit_jax.configs import vit

# All but the head.
FROZEN = '^(?!head/)'


def get_config(argument: str) -> ConfigDict:
    """Returns the recipe for 'MODEL,DATASET', such as 'b16,cifar10'."""
    config = vit.get_config(argument)
    probe(config)
    return config


def probe(config: ConfigDict) -> None:
    """Makes a linear probe of a recipe."""
    config.frozen = FROZEN
    config.optimizer = 'sgd'
    config.optim_dtype = 'float32'
    config.weight_decay = 0.0
    config.grad_norm_clip = 1e6
    config.base_lr = 0.1 * (config.batch or 512) / 256
