"""The networks, by class and by published name."""

from vit_jax.models.fields import NORM_EPSILON
from vit_jax.models.grid import num_prefix_tokens, patch_grid
from vit_jax.models.mixer import MlpMixer
from vit_jax.models.parameters import num_parameters, parameter_shapes
from vit_jax.models.stacking import stack, unstack
from vit_jax.models.variables import variables, weights
from vit_jax.models.vit import VisionTransformer
from vit_jax.models.zoo.google import AUGREG_NAMES, SHORT_NAMES
from vit_jax.models.zoo.registry import (
    AUGREG_CONFIGS,
    MODEL_CONFIGS,
    from_config,
    get_config,
    get_model,
    list_models,
)

__all__ = [
    'AUGREG_CONFIGS',
    'AUGREG_NAMES',
    'MODEL_CONFIGS',
    'NORM_EPSILON',
    'SHORT_NAMES',
    'MlpMixer',
    'VisionTransformer',
    'from_config',
    'get_config',
    'get_model',
    'list_models',
    'num_parameters',
    'num_prefix_tokens',
    'parameter_shapes',
    'patch_grid',
    'stack',
    'unstack',
    'variables',
    'weights',
]
