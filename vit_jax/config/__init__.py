"""The configuration of a run: its keys, what follows from data and weights, its rules.

- keys.py: `default()`, every key with its meaning;
- derived.py: `resolve`, `follow`, what depends on the data and on the weights;
- rules.py: `check`, which refuses before any work starts what could only fail later.
"""

from vit_jax.config.derived import (
    NUMERICS,
    choose_splits,
    follow,
    largest_crop,
    resolve,
    set_model,
)
from vit_jax.config.keys import (
    ATTENTIONS,
    COMPUTE_DTYPES,
    DECAY_TYPES,
    GONE,
    GONE_WHAT,
    HOW,
    OPTIM_DTYPES,
    OPTIMIZERS,
    OPTIONAL,
    REMAT,
    TRAINERS,
    default,
    flatten,
    image_size,
    is_what,
    nearest,
)
from vit_jax.config.rules import check, check_fsdp, parameter_names

__all__ = [
    'ATTENTIONS',
    'COMPUTE_DTYPES',
    'DECAY_TYPES',
    'GONE',
    'GONE_WHAT',
    'HOW',
    'NUMERICS',
    'OPTIMIZERS',
    'OPTIM_DTYPES',
    'OPTIONAL',
    'REMAT',
    'TRAINERS',
    'check',
    'check_fsdp',
    'choose_splits',
    'default',
    'flatten',
    'follow',
    'image_size',
    'is_what',
    'largest_crop',
    'nearest',
    'parameter_names',
    'resolve',
    'set_model',
]
