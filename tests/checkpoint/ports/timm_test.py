"""Models of timm."""

import jax
import numpy as np
import pytest
from conftest import forward
from flax import traverse_util
from port_files import timm_arrays, timm_repository

from vit_jax import checkpoint, models
from vit_jax.checkpoint.formats import safetensors
from vit_jax.checkpoint.ports import translate
from vit_jax.checkpoint.weights import TreeWeights

PORTS = {port.name: port for port in translate.PORTS}


def logits(loaded, images):
    model, params, _ = loaded
    return forward(model, params, images)


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.fixture
def timm(tmp_path):
    """A repository of timm, and a function that changes its config.json."""
    folder = tmp_path / 'timm'
    return folder, timm_repository(folder)


def test_timm(golden, timm):
    loaded = checkpoint.load_model(timm[0])
    arrays = golden('timm_vit_io.npz')
    assert_close(logits(loaded, arrays['inputs/images']), arrays['outputs/logits'])
    _, _, card = loaded
    assert card.resize == int(64 / 0.9)
    assert card.mean == pytest.approx((123.675, 116.28, 103.53))
    assert card.std == pytest.approx((58.395, 57.12, 57.375))
    features = checkpoint.load_model(timm[0], num_classes=0)
    assert logits(features, arrays['inputs/images']).shape == (2, 24)


@pytest.mark.parametrize(
    ('tag', 'num_classes', 'gelu'),
    [
        ('augreg_in21k_ft_in1k', 1000, 'tanh'),
        ('augreg2_in21k_ft_in1k', 1000, 'exact'),
        # Somebody's fine-tuning, by timm, keeps the tag of what it began with.
        ('augreg_in21k_ft_in1k', 7, 'exact'),
    ],
)
def test_weights_that_google_trained_keep_its_numerics(timm, tag, num_classes, gelu):
    folder, write = timm
    write(pretrained_cfg={'tag': tag})
    head = {
        'head.weight': np.zeros((num_classes, 24), 'f'),
        'head.bias': np.zeros(num_classes, 'f'),
    }
    arrays = timm_arrays(**head)
    safetensors.save(folder / 'model.safetensors', arrays)
    model, _, card = checkpoint.load_model(folder)
    assert model.gelu == gelu
    told = 'weights that Google trained' in card.source['numerics']
    assert told == (gelu == 'tanh')
    assert (card.class_names is None) == (num_classes == 7)


def test_root_without_stages(tmp_path):
    model = models.get_model(
        'R+ViT-Ti_16', 5, hidden_size=12, transformer={'num_heads': 3, 'num_layers': 1}
    )
    images = np.zeros((1, 64, 64, 3), np.float32)
    params = jax.jit(model.init)(jax.random.key(0), images)['params']
    family = 'timm hybrid without stages'
    safetensors.save(
        tmp_path / 'x.safetensors', translate.arrays(TreeWeights(params), PORTS[family])
    )
    weights = translate.PortWeights(tmp_path / 'x.safetensors', num_heads=3)
    for key, array in traverse_util.flatten_dict(params, sep='/').items():
        assert np.array_equal(weights[key], array)
