"""The networks, by class and by published name."""

from vit_jax.models.families import (
    FAMILIES,
    family_of,
    input_kernel,
    known_families,
    patch_grid,
)
from vit_jax.models.family import Family
from vit_jax.models.fields import NORM_EPSILON
from vit_jax.models.grid import num_prefix_tokens
from vit_jax.models.mixer import MlpMixer
from vit_jax.models.parameters import num_parameters, parameter_shapes
from vit_jax.models.stacking import stack, unstack
from vit_jax.models.variables import variables, weight_shapes, weights
from vit_jax.models.vit import VisionTransformer
from vit_jax.models.zoo.google import AUGREG_NAMES, SHORT_NAMES
from vit_jax.models.zoo.registry import (
    AUGREG_CONFIGS,
    MODEL_CONFIGS,
    for_run,
    from_config,
    get_config,
    get_model,
    list_models,
)

__all__ = [
    'AUGREG_CONFIGS',
    'AUGREG_NAMES',
    'FAMILIES',
    'MODEL_CONFIGS',
    'NORM_EPSILON',
    'SHORT_NAMES',
    'Family',
    'MlpMixer',
    'VisionTransformer',
    'family_of',
    'for_run',
    'from_config',
    'get_config',
    'get_model',
    'input_kernel',
    'known_families',
    'list_models',
    'num_parameters',
    'num_prefix_tokens',
    'parameter_shapes',
    'patch_grid',
    'stack',
    'unstack',
    'variables',
    'weight_shapes',
    'weights',
]
