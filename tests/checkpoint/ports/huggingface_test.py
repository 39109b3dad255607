"""Models of transformers."""

import json
import shutil

import numpy as np
import pytest
from conftest import forward
from port_files import HF, golden_card, golden_params

from vit_jax import checkpoint
from vit_jax.checkpoint.formats import npz, safetensors
from vit_jax.checkpoint.ports import repository, translate
from vit_jax.checkpoint.weights import TreeWeights

PORTS = {port.name: port for port in translate.PORTS}


def logits(loaded, images):
    model, params, _ = loaded
    return forward(model, params, images)


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_transformers(golden):
    loaded = checkpoint.load_model(HF)
    arrays = golden('hf_vit/io.npz')
    assert_close(logits(loaded, arrays['inputs/images']), arrays['outputs/logits'])
    model, _, card = loaded
    assert (model.gelu, model.norm_epsilon) == ('exact', 1e-12)
    assert card.image_size == (64, 64)
    assert card.class_names is None  # LABEL_0, …
    assert card.source['numerics'].startswith('as the port computes: exact GELU')


def test_what_transformers_fine_tuned_is_not_google_s(tmp_path):
    shutil.copytree(HF, tmp_path / 'flowers')
    config = json.loads((HF / 'config.json').read_text())
    config['_name_or_path'] = 'google/vit-base-patch16-224-in21k'
    (tmp_path / 'flowers/config.json').write_text(json.dumps(config))
    model, _, _ = checkpoint.load_model(tmp_path / 'flowers')
    assert model.gelu == 'exact'


def test_provenance_from_the_folder_of_the_hub(tmp_path):
    folder = tmp_path / 'models--google--vit-base-patch16-224/snapshots/abc'
    folder.mkdir(parents=True)
    for file in HF.glob('*.*'):
        shutil.copy(file, folder)
    model, _, card = checkpoint.load_model(folder)
    assert card.source['hub_id'] == 'google/vit-base-patch16-224'
    assert (model.gelu, model.norm_epsilon) == ('tanh', 1e-6)


def test_both_generations_are_one(golden, tmp_path):
    params = golden_params(golden, 'vit_token')
    found = []
    for family in ('Hugging Face ViT', 'Hugging Face ViT 5'):
        path = tmp_path / f'{len(found)}.safetensors'
        safetensors.save(path, translate.arrays(TreeWeights(params), PORTS[family]))
        found.append(translate.PortWeights(path, num_heads=3))
    assert set(found[0]) == set(found[1]) == set(params)
    assert 'vit.layernorm.weight' in safetensors.entries(tmp_path / '0.safetensors')
    assert 'classifier.weight' in safetensors.entries(tmp_path / '0.safetensors')


def test_features_alone(golden, tmp_path):
    params, card = golden_card(golden, 'vit_token_rep')
    with pytest.raises(ValueError, match='pre_logits stand before its head'):
        repository.save(tmp_path / 'x', params, card, 'huggingface')
    bare = TreeWeights(
        {k: x for k, x in dict(params).items() if not k.startswith('head/')}
    )
    repository.save(tmp_path / 'x', bare, card, 'huggingface')
    names = safetensors.entries(tmp_path / 'x/model.safetensors')
    assert 'pooler.dense.weight' in names
    assert 'layernorm.weight' in names
    weights = checkpoint.open(tmp_path / 'x')
    assert set(weights) == set(bare)
    assert weights.card.num_classes == 0
    npz.save(tmp_path / 'x.npz', weights)
    assert set(checkpoint.open(tmp_path / 'x.npz')) == set(bare)
