"""The networks, by class and by published name.

Imported when asked for: JAX takes seconds, and the help of a command does not need it.
"""

from vit_jax.words import lazy

__getattr__, __dir__, __all__ = lazy.face(
    __name__,
    {
        'arrays': ('variables', 'weight_shapes', 'weights'),
        'families': (
            'FAMILIES', 'family_of', 'input_kernel', 'known_families', 'patch_grid',
        ),
        'family': ('Family',),
        'fields': ('NORM_EPSILON',),
        'grid': ('num_prefix_tokens',),
        'mixer': ('MlpMixer',),
        'parameters': ('num_parameters', 'parameter_shapes'),
        'stacking': ('stack', 'unstack'),
        'vit': ('VisionTransformer',),
        'zoo.google': ('AUGREG_NAMES', 'SHORT_NAMES'),
        'zoo.registry': (
            'AUGREG_CONFIGS', 'MODEL_CONFIGS', 'for_run', 'from_config', 'get_config',
            'get_model', 'list_models',
        ),
    },
)  # fmt: skip
