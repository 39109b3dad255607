r"""A small Vision Transformer, trained from scratch on real handwritten digits.

    python -m vit_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

The digits are the 1,797 images of scikit-learn's `load_digits` (8×8 pixels, grey),
so nothing is downloaded. Two CPU cores take about 40 seconds; test accuracy is
above 97 % (docs/benchmarks.md has the figures).

    python -m vit_jax.main --config=configs/quickstart.py:finetune \
        --workdir=runs/quickstart-finetune

fine-tunes that run's model.npz at twice the resolution: position embeddings are
resized, the head is new. It takes about as long.

    python -m vit_jax.main --config=configs/quickstart.py:probe \
        --workdir=runs/quickstart-probe

trains nothing but a new head on that run's features, which is a matter of seconds.
"""

from ml_collections import ConfigDict

from vit_jax import config as config_lib
from vit_jax.configs import linear_probe


def get_config(stage: str = 'scratch') -> ConfigDict:
    """Returns the recipe.

    Args:
        stage: 'scratch'; 'finetune' for the continuation at twice the resolution; or
            'probe' for a new head on its features.
    """
    config = config_lib.default()
    config.dataset = 'digits'
    config.pp.train = 'train[:90%]'
    config.pp.val = 'train[90%:]'
    config.pp.test = 'test'
    # Digits are neither mirrored nor found in corners of a picture.
    config.pp.flip = False
    config.pp.min_area = 0.8

    config.model = ConfigDict(
        {
            'model_name': 'digits',
            'patches': {'size': (4, 4)},
            'hidden_size': 64,
            'transformer': {
                'mlp_dim': 128,
                'num_heads': 4,
                'num_layers': 4,
                'attention_dropout_rate': 0.0,
                'dropout_rate': 0.0,
            },
            'classifier': 'token',
            'representation_size': None,
            'head_init': 'zeros',
        }
    )
    config.optimizer = 'adamw'
    config.optim_dtype = 'float32'
    config.weight_decay = 0.05
    config.batch = 64
    config.accum_steps = 1
    if stage == 'scratch':
        config.pp.crop = 16
        config.total_steps = 700
        config.warmup_steps = 100
        config.base_lr = 3e-3
    elif stage == 'finetune':
        config.pretrained = 'runs/quickstart/model.npz'
        config.pp.crop = 32
        config.total_steps = 300
        config.warmup_steps = 30
        config.base_lr = 5e-4
    elif stage == 'probe':
        config.pretrained = 'runs/quickstart/model.npz'
        config.pp.crop = 16
        config.total_steps = 300
        config.warmup_steps = 30
        linear_probe.probe(config)
    else:
        raise ValueError(
            f'quickstart.py:{stage}: the stage is scratch (the default), finetune or '
            'probe.'
        )
    config.checkpoint_every = 500
    config.progress_every = 50
    return config
