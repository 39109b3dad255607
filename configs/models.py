"""Configurations of the published models, under the original's names.

`MODEL_CONFIGS['ViT-B_16']`, `AUGREG_CONFIGS['B_16']` and `get_b16_config()` are views
of the table in `vit_jax.models.zoo.google`; this is no recipe to run.
"""

import functools

from vit_jax.models import AUGREG_CONFIGS, MODEL_CONFIGS, SHORT_NAMES, get_config

__all__ = ['AUGREG_CONFIGS', 'MODEL_CONFIGS']

# get_ti16_config(), get_b16_config(), get_r50_b16_config(), … one for every model.
for _short, _name in SHORT_NAMES.items():
    globals()[f'get_{_short}_config'] = functools.partial(get_config, _name)
    __all__ += [f'get_{_short}_config']
