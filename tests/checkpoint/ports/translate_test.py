"""Weights with the names of timm and of transformers, read and written."""

import json

import numpy as np
import pytest
from conftest import GOLDEN, forward
from flax import traverse_util
from port_files import HF, TIMM, golden_params, timm_arrays

from vit_jax import models
from vit_jax.checkpoint import architecture
from vit_jax.checkpoint.formats import safetensors
from vit_jax.checkpoint.ports import translate
from vit_jax.checkpoint.weights import TreeWeights

PORTS = {port.name: port for port in translate.PORTS}


def tree(weights):
    return traverse_util.unflatten_dict(dict(weights), sep='/')


def logits(weights, images, **numerics):
    shapes = {name: weights.shape(name) for name in weights}
    config = architecture.config_of_weights(shapes)
    model = models.from_config(
        config, num_classes=shapes['head/bias'][0], dtype='float32', **numerics
    )
    return forward(model, tree(weights), images)


@pytest.mark.parametrize(
    ('path', 'io', 'epsilon'),
    [(TIMM, 'timm_vit_io.npz', 1e-6), (HF, 'hf_vit/io.npz', 1e-12)],
)
def test_equals_the_library(golden, path, io, epsilon):
    weights = translate.PortWeights(path, num_heads=3)
    arrays = golden(io)
    expected = arrays['outputs/logits']
    found = logits(weights, arrays['inputs/images'], gelu='exact', norm_epsilon=epsilon)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    # The form of GELU is a difference that would be seen.
    other = logits(weights, arrays['inputs/images'], gelu='tanh', norm_epsilon=epsilon)
    assert np.abs(other - expected).max() > 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ('name', 'family'),
    [
        ('vit_token', 'timm ViT'),
        ('vit_token_rep', 'timm ViT'),
        ('vit_tiny_legacy', 'timm ViT'),
        ('hybrid_r50like', 'timm hybrid'),
        ('hybrid_tiny_legacy', 'timm hybrid'),
        ('mixer', 'timm Mixer'),
        ('mixer_tiny', 'timm Mixer'),
        ('vit_token', 'Hugging Face ViT'),
        ('vit_token_rep', 'Hugging Face ViT'),
        ('vit_token', 'Hugging Face ViT 5'),
    ],
)
def test_there_and_back(golden, tmp_path, name, family):
    params = golden_params(golden, name)
    query = 'Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel'
    heads = params[query].shape[1] if query in params else None
    path = tmp_path / 'x.safetensors'
    safetensors.save(path, translate.arrays(TreeWeights(params), PORTS[family]))
    weights = translate.PortWeights(path, num_heads=heads)
    assert set(weights) == set(params)
    for key, array in params.items():
        assert weights.shape(key) == array.shape
        assert weights.dtype(key) == array.dtype
        assert np.array_equal(weights[key], array)


def test_everything_that_is_wrong_is_told_together(tmp_path):
    path = tmp_path / 'x.safetensors'
    changes = {
        'blocks.0.ls1.gamma': np.ones(24, 'f'),
        'norm.bias': None,
        'blocks.1.attn.proj.bias': None,
        'blocks.1.mlp.fc1.weight': np.ones((4, 4, 4), 'f'),
        'blocks.0.attn.qkv.weight': np.ones((71, 24), 'f'),
        'vit.pos_embed': np.ones((1, 17, 24), 'f'),
    }
    safetensors.save(path, timm_arrays(**changes))
    with pytest.raises(ValueError, match='not the parameters of a timm ViT') as e:
        translate.PortWeights(path, num_heads=3)
    message = str(e.value)
    assert message.startswith(str(path))
    for line in (
        '+ unknown: blocks.0.ls1.gamma (24,)',
        '- missing: norm.bias',
        '- missing: blocks.1.attn.proj.bias',
        '! misshapen: blocks.1.mlp.fc1.weight (4, 4, 4)',
        '! misshapen: blocks.0.attn.qkv.weight (71, 24)',
        '! doubled: vit.pos_embed and pos_embed',
    ):
        assert line in message, message


def test_wrong_number_of_heads():
    with pytest.raises(ValueError, match=r'misshapen: .*with 5 heads'):
        translate.PortWeights(TIMM, num_heads=5)


def test_no_known_names(tmp_path):
    array = np.ones(3, 'f')
    arrays = {'conv1.weight': safetensors.Array(array.dtype, (3,), lambda: array)}
    safetensors.save(tmp_path / 'x.safetensors', arrays)
    with pytest.raises(ValueError, match='no Vision Transformer or Mixer'):
        translate.PortWeights(tmp_path / 'x.safetensors')


def test_parameters_without_a_place(golden):
    params = golden_params(golden, 'hybrid_r50like')
    with pytest.raises(ValueError, match=r'ViT has no place for: .*conv_root'):
        translate.arrays(TreeWeights(params), PORTS['Hugging Face ViT'])


def test_heads_of_published_models():
    timm, hf = PORTS['timm ViT'], PORTS['Hugging Face ViT']
    shapes = {'norm.weight': (768,), 'blocks.0.mlp.fc1.weight': (3072, 768)}
    assert translate.default_heads(shapes, timm) == (12, 'ViT-B')
    shapes = {'layernorm.weight': (1280,)}
    shapes |= {'encoder.layer.0.intermediate.dense.weight': (5120, 1280)}
    shapes = {f'vit.{name}': shape for name, shape in shapes.items()}
    assert translate.default_heads(shapes, hf) == (16, 'ViT-H')
    shapes = {'norm.weight': (768,), 'blocks.0.mlp.fc1.weight': (1536, 768)}
    with pytest.raises(ValueError, match=r'width 768 and MLPs of 1536.*--num_heads'):
        translate.default_heads(shapes, timm)
    assert json.loads((GOLDEN / 'timm_vit.json').read_text())['num_heads'] == 3


@pytest.mark.parametrize('name', PORTS)
def test_every_port_is_told_by_its_names(name):
    port = PORTS[name]
    names = {row.theirs.format(i=0, s=0, u=0) for row in port.rows}
    assert port.tell in names
    assert translate.port_of(names) is port
