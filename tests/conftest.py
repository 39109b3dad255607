"""What every test runs under: eight CPU devices, and nothing from the network."""

import os
import pathlib

# Before the first import of jax: how many devices the CPU pretends to be.
os.environ['XLA_FLAGS'] = (
    os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
)
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import numpy as np
import pytest
from absl import flags

GOLDEN = pathlib.Path(__file__).parent / 'golden'

# Importing grain defines absl flags, which refuse to be read before a parse.
if not flags.FLAGS.is_parsed():
    flags.FLAGS(['pytest'])


@pytest.fixture
def golden():
    """Returns a function from a file name in tests/golden to its arrays."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / name) as arrays:
            return dict(arrays)

    return load
