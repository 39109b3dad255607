"""Repositories of timm and transformers: as on the hub, and as we write them."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from conftest import GOLDEN, forward
from flax import traverse_util
from port_files import golden_card, timm_repository

from vit_jax import checkpoint, models
from vit_jax.checkpoint import ModelCard
from vit_jax.checkpoint.formats import safetensors
from vit_jax.checkpoint.ports import huggingface, repository
from vit_jax.checkpoint.ports import timm as timm_port


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
    with pytest.raises(ValueError, match=r'number of attention heads.*width 24'):
        checkpoint.open(tmp_path / 'x.safetensors')
    weights = checkpoint.open(tmp_path / 'x.safetensors', num_heads=3)
    assert weights.card.model['transformer']['num_heads'] == 3
    numerics = 'as the port computes: exact GELU, LayerNorm epsilon 1e-06'
    assert weights.card.source['assumed'] == numerics
    card = ModelCard(model={'transformer': {'num_heads': 3}}, num_classes=7,
                     image_size=(64, 64))  # fmt: skip
    card.save(tmp_path / 'x.json')
    weights = checkpoint.open(tmp_path / 'x.safetensors')
    assert weights.shape(npz_query(weights)) == (24, 3, 8)
    with pytest.raises(ValueError, match=r'num_heads is 4, but .* says 3'):
        checkpoint.open(tmp_path / 'x.safetensors', num_heads=4)


def test_heads_as_in_the_published_model_of_these_sizes(tmp_path, caplog):
    caplog.set_level('INFO')
    config = models.get_config('ViT-Ti_16').to_dict()
    config['transformer']['num_layers'] = 1
    shapes = models.parameter_shapes(config, 5, (32, 32))
    flat = {name: np.zeros(leaf.shape, np.float32) for name, leaf in shapes.items()}
    card = ModelCard(model=config, num_classes=5, image_size=(32, 32))
    params = traverse_util.unflatten_dict(flat, sep='/')
    repository.save(tmp_path / 'x.safetensors', params, card, 'timm')
    (tmp_path / 'x.json').unlink()
    found = checkpoint.open(tmp_path / 'x.safetensors').card
    assert found.model['transformer']['num_heads'] == 3
    assert '3 attention heads, as in ViT-Ti' in found.source['assumed']
    assert '3 attention heads, as in ViT-Ti, ' in caplog.text


@pytest.mark.parametrize(
    ('architecture', 'heads'),
    [('vit_so400m_patch14_siglip_224', 16), ('vit_giant_patch14', 16),
     ('vit_gigantic_patch14_clip_224', 16), ('vit_medium_patch16_gap_256', 8),
     ('vit_betwixt_patch32_clip_224', 10), ('deit3_small_patch16_224', 6),
     ('vit_base_patch16_224', 12), ('resnet50', None), ('', None)],
)  # fmt: skip
def test_heads_by_the_names_of_timm(architecture, heads):
    assert timm_port.describe({'architecture': architecture}).num_heads == heads
    told = {'architecture': architecture, 'model_args': {'num_heads': 2}}
    assert timm_port.describe(told).num_heads == 2


def test_a_name_of_another_width_tells_no_heads(tmp_path):
    """vit_small was 768 wide, with 8 heads, before 2021."""
    shutil.copy(GOLDEN / 'timm_vit.safetensors', tmp_path / 'model.safetensors')
    config = {'architecture': 'vit_small_patch16_224'}
    (tmp_path / 'config.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match='nothing tells the number of attention heads'):
        checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    ('config', 'told'),
    [
        ({'model_type': 'vit'}, {'num_heads': 12, 'norm_epsilon': 1e-12}),
        ({'num_attention_heads': 3}, {'num_heads': 3}),
        ({'layer_norm_eps': 1e-6}, {'norm_epsilon': 1e-6}),
        ({}, {'num_heads': None, 'norm_epsilon': 1e-12}),
        ({'pooler_act': 'relu'}, {'refused': ("pooler_act is 'relu', expected tanh",)}),
        ({'model_type': 'beit'}, {'refused': ("model_type is 'beit', expected vit",)}),
    ],
)
def test_what_transformers_leaves_out(config, told):
    description = huggingface.describe(config)
    assert {name: getattr(description, name) for name in told} == told


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        ({'global_pool': 'max'}, 'pools its tokens'),
        ({'global_pool': 'avgmax'}, 'pools its tokens'),
        ({'global_pool': 'avg'}, 'although it has a class token'),
        ({'norm_layer': 'rmsnorm'}, "norm_layer = 'rmsnorm', which no model here does"),
        ({'block_fn': 'parallel'}, "block_fn = 'parallel', which no model here does"),
        ({'act_layer': 'silu'}, "the activation 'silu' is not known"),
    ],
)
def test_what_a_config_asks_for_is_done_or_refused(tmp_path, args, message):
    shutil.copy(GOLDEN / 'timm_vit.safetensors', tmp_path / 'model.safetensors')
    config = {'architecture': 'x', 'model_args': {'num_heads': 3, **args}}
    (tmp_path / 'config.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        checkpoint.open(tmp_path)


def renamed(path: pathlib.Path, rename) -> pathlib.Path:
    """The golden weights of timm under other names; None leaves an array out."""
    arrays = {}
    for name, entry in safetensors.entries(GOLDEN / 'timm_vit.safetensors').items():
        if (new := rename(name)) is not None:
            value = safetensors.read(entry)
            arrays[new] = safetensors.Array(value.dtype, value.shape, value.copy)
    safetensors.save(path, arrays, {'format': 'pt'})
    return path


@pytest.mark.parametrize(
    'prefix', ['module.', 'model.', 'backbone.', '_orig_mod.', '_orig_mod.module.net.']
)
def test_names_of_wrappers_are_left_out(tmp_path, prefix, caplog):
    caplog.set_level('INFO')
    path = renamed(tmp_path / 'x.safetensors', lambda name: prefix + name)
    expected = checkpoint.open(GOLDEN / 'timm_vit.safetensors', num_heads=3)
    found = checkpoint.open(path, num_heads=3)
    assert {*found} == {*expected}
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
    assert f'{prefix!r} before the names is left out' in caplog.text


@pytest.mark.parametrize('half', ['head.weight', 'head.bias'])
def test_half_a_head_is_refused(tmp_path, half):
    path = tmp_path / 'x.safetensors'
    renamed(path, lambda name: None if name == half else name)
    with pytest.raises(ValueError, match='the other half of head'):
        checkpoint.open(path, num_heads=3)


@pytest.mark.parametrize(
    ('added', 'family'),
    [
        ('blocks.{i}.ls1.gamma', 'LayerScale, as in DINOv2 and DeiT III'),
        ('blocks.{i}.attn.q_norm.weight', 'normalized queries and keys'),
        ('reg_token', 'register tokens'),
        ('fc_norm.weight', 'a LayerNorm after pooling, as in MAE'),
        ('attn_pool.latent', 'attention pooling, as in SigLIP'),
        ('norm_pre.weight', 'as in CLIP'),
    ],
)
def test_other_networks_are_named_in_a_few_lines(tmp_path, added, family):
    path = renamed(tmp_path / 'x.safetensors', lambda name: name)
    entries = safetensors.entries(path)
    arrays = {
        name: safetensors.Array(e.dtype, e.shape, safetensors.read(e).copy)
        for name, e in entries.items()
    }
    extra = np.zeros(24, np.float32)
    for i in range(40):
        arrays[added.format(i=i)] = safetensors.Array(extra.dtype, (24,), extra.copy)
    other = tmp_path / 'y.safetensors'
    safetensors.save(other, arrays, {'format': 'pt'})
    with pytest.raises(ValueError, match=family) as raised:
        checkpoint.open(other, num_heads=3)
    assert len(str(raised.value).splitlines()) < 15


@pytest.mark.parametrize(
    ('processor', 'mean', 'std', 'resize'),
    [
        ({'image_mean': [0.5] * 3, 'image_std': [0.5] * 3}, 127.5, 127.5, None),
        ({'do_normalize': False}, 0.0, 255.0, None),
        ({'do_rescale': False, 'image_mean': [100.0] * 3, 'image_std': [50.0] * 3},
         100.0, 50.0, None),
        ({'rescale_factor': 1 / 127.5, 'image_mean': [1.0] * 3, 'image_std': [1.0] * 3},
         127.5, 127.5, None),
        ({'do_center_crop': True, 'size': {'shortest_edge': 40},
          'crop_size': {'height': 32, 'width': 32}}, 127.5, 127.5, 40),
    ],
)  # fmt: skip
def test_what_the_processor_says(tmp_path, processor, mean, std, resize):
    shutil.copy(GOLDEN / 'timm_vit.safetensors', tmp_path / 'model.safetensors')
    config = {'architecture': 'x', 'model_args': {'num_heads': 3}}
    (tmp_path / 'config.json').write_text(json.dumps(config))
    (tmp_path / 'preprocessor_config.json').write_text(json.dumps(processor))
    card = checkpoint.open(tmp_path).card
    assert (card.mean, card.std) == pytest.approx((mean, std))
    if resize is not None:
        assert card.resize == int(max(card.image_size) * 40 / 32)
    else:
        assert card.resize is None


@pytest.mark.parametrize(
    ('processor', 'message'),
    [
        ({'size': {'shortest_edge': 224}}, 'shortest_edge without do_center_crop'),
        ({'do_center_crop': True, 'size': 224, 'crop_size': 256}, 'a crop of 256'),
        ({'do_flip_channel_order': True}, 'do_flip_channel_order'),
    ],
)
def test_what_the_processor_asks_for_and_is_not_done(tmp_path, processor, message):
    shutil.copy(GOLDEN / 'timm_vit.safetensors', tmp_path / 'model.safetensors')
    (tmp_path / 'config.json').write_text('{"model_args": {"num_heads": 3}}')
    (tmp_path / 'preprocessor_config.json').write_text(json.dumps(processor))
    with pytest.raises(ValueError, match=message):
        checkpoint.open(tmp_path)


def npz_query(weights):
    return next(name for name in weights if name.endswith('query/kernel'))


@pytest.mark.parametrize(
    ('fields', 'reason'),
    [
        ({'norm_epsilon': 1e-3}, 'epsilon 0.001'),
        ({'norm_epsilon': 1e-5}, 'epsilon 1e-05'),
        ({'classifier': 'unpooled'}, r'sees tokens one by one \(unpooled\)'),
        ({'classifier': 'token_unpooled'}, 'sees tokens one by one'),
    ],
)
def test_what_timm_cannot_express_is_refused(golden, tmp_path, fields, reason):
    params, card = golden_card(golden, 'vit_token')
    card.model.update(fields)
    with pytest.raises(ValueError, match=f'{reason}.*What works: a .npz') as raised:
        repository.save(tmp_path / 'timm', params, card, 'timm')
    assert 'a .safetensors' in str(raised.value)
    repository.save(tmp_path / 'x.safetensors', params, card, 'timm')
    if 'classifier' in fields:
        with pytest.raises(ValueError, match='sees tokens one by one'):
            repository.save(tmp_path / 'hf', params, card, 'huggingface')


def test_pre_logits_are_refused_by_timm(golden, tmp_path):
    params, card = golden_card(golden, 'vit_token')
    width = card.model['hidden_size']
    flat = {
        'pre_logits/kernel': np.eye(width, dtype='f'),
        'pre_logits/bias': np.zeros(width, 'f'),
    }
    with pytest.raises(ValueError, match='it has pre_logits'):
        repository.save(tmp_path / 'timm', {**params, **flat}, card, 'timm')


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
