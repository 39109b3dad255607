"""Repositories of timm and transformers: as on the hub, and as we write them."""

import json
import shutil

import numpy as np
import pytest
from conftest import GOLDEN, forward
from flax import traverse_util
from translate_test import golden_params, timm_arrays

from vit_jax import checkpoint, models
from vit_jax.checkpoint import ModelCard
from vit_jax.checkpoint.formats import npz, safetensors
from vit_jax.checkpoint.ports import repository
from vit_jax.checkpoint.weights import TreeWeights

HF = GOLDEN / 'hf_vit'


def logits(loaded, images):
    model, params, _ = loaded
    return forward(model, params, images)


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.fixture
def timm(tmp_path):
    """A repository of timm: the golden, and a config.json as on the hub."""
    folder = tmp_path / 'timm'
    folder.mkdir()
    shutil.copy(GOLDEN / 'timm_vit.safetensors', folder / 'model.safetensors')

    def write(**changes):
        config = {
            'architecture': 'vit_golden_patch16_64',
            'num_classes': 7,
            'global_pool': 'token',
            'model_args': {'num_heads': 3},
            'pretrained_cfg': {
                'tag': 'somebody',
                'input_size': [3, 64, 64],
                'crop_pct': 0.9,
                'mean': [0.485, 0.456, 0.406],
                'std': [0.229, 0.224, 0.225],
            },
        }
        config['pretrained_cfg'] |= changes.pop('pretrained_cfg', {})
        (folder / 'config.json').write_text(json.dumps(config | changes))
        return folder

    write()
    return folder, write


def test_transformers(golden):
    loaded = checkpoint.load_model(HF)
    arrays = golden('hf_vit/io.npz')
    assert_close(logits(loaded, arrays['inputs/images']), arrays['outputs/logits'])
    model, _, card = loaded
    assert (model.gelu, model.norm_epsilon) == ('exact', 1e-12)
    assert card.image_size == (64, 64)
    assert card.class_names is None  # LABEL_0, …
    assert card.source['numerics'].startswith('as the port computes: exact GELU')


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


def test_what_transformers_fine_tuned_is_not_google_s(tmp_path):
    shutil.copytree(HF, tmp_path / 'flowers')
    config = json.loads((HF / 'config.json').read_text())
    config['_name_or_path'] = 'google/vit-base-patch16-224-in21k'
    (tmp_path / 'flowers/config.json').write_text(json.dumps(config))
    model, _, _ = checkpoint.load_model(tmp_path / 'flowers')
    assert model.gelu == 'exact'


def test_provenance_from_the_folder_of_the_hub(timm, tmp_path):
    folder = tmp_path / 'models--google--vit-base-patch16-224/snapshots/abc'
    folder.mkdir(parents=True)
    for file in HF.glob('*.*'):
        shutil.copy(file, folder)
    model, _, card = checkpoint.load_model(folder)
    assert card.source['hub_id'] == 'google/vit-base-patch16-224'
    assert (model.gelu, model.norm_epsilon) == ('tanh', 1e-6)


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


def golden_card(golden, name, **fields):
    config = json.loads((GOLDEN / f'{name}.json').read_text())
    known = set(models.get_config('ViT-B_16')) | set(models.get_config('Mixer-B_16'))
    known |= {'resnet'}
    config = {k: v for k, v in config.items() if k in known and v is not None}
    params = golden_params(golden, name)
    card = ModelCard(
        model=config | fields,
        num_classes=len(params['head/bias']),
        image_size=golden(f'{name}.npz')['inputs/images'].shape[1:3],
        class_names=[f'klasse {i} ä' for i in range(len(params['head/bias']))],
        mean=(120.0, 110.0, 100.0),
        std=60.0,
        source={'dtype': 'float32'},
    )
    return TreeWeights(params), card


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
