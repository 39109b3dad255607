"""The configuration of a run: its keys, what follows from data and weights, its rules.

- keys.py: the one table of keys, each with its meaning; key.py: what a key has;
- defaults.py: `default()`, and what is done to any configuration;
- derived.py: the keys that depend on the data and on the weights;
- rules.py: `check`, which refuses before any work starts what could only fail later.
"""

from vit_jax.words import lazy

# Imported when asked for: rules know the networks, which takes JAX, and the help of the
# command line does not.
__getattr__, __dir__, __all__ = lazy.face(
    __name__,
    {
        'defaults': (
            'complete', 'default', 'flatten', 'image_size', 'is_what',
            'keys_with_none', 'set_key',
        ),
        'derived': (
            'NUMERICS', 'choose_splits', 'inherit_numerics', 'largest_crop', 'resolve',
            'set_model',
        ),
        'gone': ('GONE', 'GONE_WHAT'),
        'keys': ('KEYS',),
        'rules': ('check', 'check_fsdp', 'parameter_names'),
    },
)  # fmt: skip
