import subprocess
import sys

import pytest

import vit_jax
from vit_jax import models


def test_get_model_is_the_models_one():
    assert vit_jax.get_model is models.get_model
    assert {'get_model', 'load', '__version__'} <= set(dir(vit_jax))
    with pytest.raises(AttributeError, match="no attribute 'lood'"):
        vit_jax.lood  # noqa: B018


def test_version():
    assert vit_jax.__version__.startswith('0')


def test_importing_models_needs_only_jax_and_flax():
    code = (
        'import sys, vit_jax; assert "jax" not in sys.modules; import vit_jax.models; '
        'heavy = {"tensorflow", "torch", "grain", "orbax", "optax", "PIL", "cv2", '
        '"scipy", "tensorflow_datasets", "vit_jax.checkpoint", "vit_jax.data"}; '
        'print(sorted(heavy & set(sys.modules)))'
    )
    result = subprocess.run(
        [sys.executable, '-W', 'error', '-c', code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    # flax itself imports optax, orbax and scipy; they cost the user nothing extra.
    assert set(eval(result.stdout)) <= {'optax', 'orbax', 'scipy'}
