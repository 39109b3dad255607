"""Repositories of timm and transformers: as on the hub, and as we write them."""

import shutil

import numpy as np
import pytest
from conftest import GOLDEN, forward
from flax import traverse_util
from port_files import golden_card, timm_repository

from vit_jax import checkpoint, models
from vit_jax.checkpoint import ModelCard
from vit_jax.checkpoint.ports import repository


@pytest.fixture
def timm(tmp_path):
    """A repository of timm, and a function that changes its config.json."""
    folder = tmp_path / 'timm'
    return folder, timm_repository(folder)


def test_names_of_classes(timm):
    folder, write = timm
    write(label_names=list('abcdefg'), label_descriptions={'a': 'an ant'})
    assert checkpoint.open(folder).card.class_names == ['an ant', *'bcdefg']
    write(id2label={str(i): f'class {i}' for i in range(7)})
    assert checkpoint.open(folder).card.class_names[6] == 'class 6'


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'global_pool': 'avg'}, r'pools its tokens \(avg\) although'),
        ({'model_args': {'num_heads': 5}}, 'misshapen: .* with 5 heads'),
        ({'model_args': {'num_heads': 3, 'act_layer': 'silu'}}, "activation 'silu' is"),
        ({'pretrained_cfg': {'mean': 'grey'}}, 'timm'),
    ],
)
def test_models_that_are_not_ours(timm, changes, message):
    folder, write = timm
    write(**changes)
    with pytest.raises(ValueError, match=message):
        checkpoint.load_model(folder)


@pytest.mark.parametrize('content', [b'[]', b'{', b'\xff', b'{"pretrained_cfg": 3}'])
def test_damaged_config(timm, content):
    (timm[0] / 'config.json').write_bytes(content)
    with pytest.raises(ValueError, match=r'config\.json'):
        checkpoint.open(timm[0])


def test_a_file_alone_tells_what_it_can(tmp_path, golden):
    shutil.copy(GOLDEN / 'timm_vit.safetensors', tmp_path / 'x.safetensors')
    weights = checkpoint.open(tmp_path / 'x.safetensors')
    # 24 channels are one head of published models; who knows better says so.
    assert weights.card.model['transformer']['num_heads'] == 1
    card = ModelCard(model={'transformer': {'num_heads': 3}}, num_classes=7,
                     image_size=(64, 64))  # fmt: skip
    card.save(tmp_path / 'x.json')
    weights = checkpoint.open(tmp_path / 'x.safetensors')
    assert weights.shape(npz_query(weights)) == (24, 3, 8)


def npz_query(weights):
    return next(name for name in weights if name.endswith('query/kernel'))


# Written by us.

EXACT = {'gelu': 'exact', 'norm_epsilon': 1e-12}
SAVED = ['vit_token', 'vit_gap', 'vit_tiny_legacy', 'mixer']


@pytest.mark.parametrize('fields', [{}, EXACT])
@pytest.mark.parametrize('name', [*SAVED, 'hybrid_r50like'])
@pytest.mark.parametrize('place', ['x.safetensors', 'timm', 'huggingface'])
def test_there_and_back(golden, tmp_path, name, place, fields):
    params, card = golden_card(golden, name, **fields)
    if place == 'huggingface' and name not in ('vit_token', 'vit_tiny_legacy'):
        with pytest.raises(ValueError, match="transformers' ViT cannot be this model"):
            repository.save(tmp_path / place, params, card, 'huggingface')
        return
    if place == 'timm' and name in ('hybrid_r50like', 'mixer'):
        with pytest.raises(ValueError, match=r'timm (has no hybrid|makes Mixers)'):
            repository.save(tmp_path / place, params, card, 'timm')
        return
    library = 'huggingface' if place == 'huggingface' else 'timm'
    repository.save(tmp_path / place, params, card, library)
    weights = checkpoint.open(tmp_path / place)
    assert set(weights) == set(params)
    assert all(np.array_equal(weights[key], params[key]) for key in params)
    loaded = weights.card
    assert loaded.class_names == card.class_names
    assert loaded.image_size == card.image_size
    assert loaded.mean == pytest.approx(card.mean)
    assert loaded.std == pytest.approx(card.std)
    model = models.from_config(loaded.model, num_classes=loaded.num_classes)
    assert model.gelu == fields.get('gelu', 'tanh')
    if place == 'huggingface' or name != 'mixer':
        images = golden(f'{name}.npz')['inputs/images']
        tree = traverse_util.unflatten_dict(dict(params), sep='/')
        original = models.from_config(card.model, num_classes=card.num_classes)
        expected = forward(original, tree, images)
        found = forward(model, tree, images)
        if place != 'timm' or not fields:  # timm's epsilon is always 1e-6
            assert np.array_equal(found, expected)
