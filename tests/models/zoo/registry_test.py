import importlib.util
import json
import pathlib

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict, FrozenConfigDict

from vit_jax import models
from vit_jax.models.zoo import google

# At 1000 classes and 224 x 224 pixels, as in the original's table.
COUNTS = {
    'ViT-Ti_16': 5_717_416,
    'ViT-S_16': 22_050_664,
    'ViT-S_32': 22_878_952,
    'ViT-B_8': 86_576_872,
    'ViT-B_16': 86_567_656,
    'ViT-B_32': 88_224_232,
    'ViT-L_16': 304_326_632,
    'ViT-L_32': 306_535_400,
    'ViT-H_14': 632_045_800,
    'ViT-S_16-gap-norep': 22_049_896,
    'ViT-S_32-gap-norep': 22_878_184,
    'ViT-B_16-gap-norep': 86_566_120,
    'ViT-B_32-gap-norep': 88_222_696,
    'R+ViT-Ti_16': 6_337_704,
    'R26+ViT-S_32': 36_431_912,
    'R26+ViT-B_32': 101_383_976,
    'R50+ViT-B_16': 98_659_112,
    'R50+ViT-L_32': 328_994_856,
    'Mixer-S_8': 20_646_504,
    'Mixer-S_16': 18_528_264,
    'Mixer-S_32': 19_104_624,
    'Mixer-B_16': 59_880_472,
    'Mixer-B_32': 60_293_428,
    'Mixer-L_16': 208_196_168,
    'testing': 21_390,
    'testing-unpooled': 21_370,
}
# Arrays in the published files, head included.
ARRAYS = {
    'ViT-B_16': 200,
    'ViT-L_16': 392,
    'ViT-H_14': 520,
    'R+ViT-Ti_16': 203,
    'R26+ViT-S_32': 287,
    'R50+ViT-B_16': 356,
    'R50+ViT-L_32': 551,
    'ViT-B_16-gap-norep': 199,
    'Mixer-B_16': 150,
    'Mixer-L_16': 294,
}


def shapes(model, size=(224, 224)):
    images = jax.ShapeDtypeStruct((1, *size, 3), np.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)['params']


@pytest.mark.parametrize('name', models.list_models())
def test_parameter_count(name):
    # Scanned, because one block is traced faster than 32; the counts are the same.
    leaves = jax.tree.leaves(shapes(models.get_model(name, scan_layers=True)))
    assert sum(leaf.size for leaf in leaves) == COUNTS[name]


def test_every_name_is_counted():
    assert set(COUNTS) == set(models.list_models()) == set(models.MODEL_CONFIGS)


@pytest.mark.parametrize('name', ARRAYS)
def test_number_of_arrays(name):
    params = models.unstack(shapes(models.get_model(name, scan_layers=True)))
    assert len(jax.tree.leaves(params)) == ARRAYS[name]


def test_a_config_has_the_original_keys():
    assert models.MODEL_CONFIGS['R50+ViT-B_16'].to_dict() == {
        'model_name': 'R50+ViT-B_16',
        'patches': {'size': (1, 1)},
        'hidden_size': 768,
        'transformer': {
            'mlp_dim': 3072,
            'num_heads': 12,
            'num_layers': 12,
            'attention_dropout_rate': 0.0,
            'dropout_rate': 0.1,
        },
        'classifier': 'token',
        'representation_size': None,
        'resnet': {'num_layers': (3, 4, 9), 'width_factor': 1.0},
    }
    assert 'resnet' not in models.MODEL_CONFIGS['ViT-B_16']
    assert models.MODEL_CONFIGS['testing'].hidden_size == 10


def test_dropout_rates():
    dropping = {
        name
        for name, config in models.MODEL_CONFIGS.items()
        if config.get('transformer', {}).get('dropout_rate')
    }
    testing = {'testing', 'testing-unpooled'}
    assert dropping == {
        'ViT-L_16',
        'ViT-H_14',
        'R50+ViT-B_16',
        'R50+ViT-L_32',
        *testing,
    }


def test_configs_are_locked_and_nobody_elses():
    config = models.MODEL_CONFIGS['ViT-B_16']
    with pytest.raises(AttributeError, match='hiden_size'):
        config.hiden_size = 3
    config.hidden_size = 3
    assert models.MODEL_CONFIGS['ViT-B_16'].hidden_size == 768
    assert models.AUGREG_CONFIGS['B_16'].hidden_size == 768


def test_the_command_line_can_set_representation_size():
    config = models.get_config('b16')
    assert config.representation_size is None
    config.update_from_flattened_dict({'representation_size': 768})
    assert models.from_config(config, num_classes=2).representation_size == 768
    with pytest.raises(TypeError):
        models.get_config('b16').representation_size = 'large'


def test_augreg_names_follow_the_original_rule():
    assert sorted(models.AUGREG_CONFIGS) == sorted(
        [
            'B_16',
            'B_16-gap-norep',
            'B_32',
            'B_32-gap-norep',
            'B_8',
            'L_16',
            'R26_B_32',
            'R26_S_32',
            'R50_L_32',
            'R_Ti_16',
            'S_16',
            'S_16-gap-norep',
            'S_32',
            'S_32-gap-norep',
            'Ti_16',
            'testing-unpooled',
        ]
    )
    assert models.AUGREG_CONFIGS['R_Ti_16'].model_name == 'R+ViT-Ti_16'


def test_short_names():
    assert len(models.SHORT_NAMES) == len(COUNTS)
    for short, name in {
        'b16': 'ViT-B_16',
        'ti16': 'ViT-Ti_16',
        'h14': 'ViT-H_14',
        'b8': 'ViT-B_8',
        's16_gap_norep': 'ViT-S_16-gap-norep',
        'r_ti16': 'R+ViT-Ti_16',
        'r26_s32': 'R26+ViT-S_32',
        'r26_b32': 'R26+ViT-B_32',
        'r50_b16': 'R50+ViT-B_16',
        'r50_l32': 'R50+ViT-L_32',
        'testing': 'testing',
    }.items():
        assert models.SHORT_NAMES[short] == name
        assert models.get_model(short).model_name == name
    assert google.short_name('Mixer-B_16') == 'mixer_b16'


def test_list_models():
    assert models.list_models('R50*') == ['R50+ViT-B_16', 'R50+ViT-L_32']
    assert models.list_models('nothing*') == []


@pytest.mark.parametrize(
    ('name', 'suggestion'),
    [
        ('ViT-B-16', 'ViT-B_16'),
        ('vit_b16', 'ViT-B_16'),
        ('R50+ViTB_16', 'R50+ViT-B_16'),
    ],
)
def test_an_unknown_model_is_an_error_with_the_nearest_names(name, suggestion):
    with pytest.raises(ValueError, match='Unknown model') as error:
        models.get_model(name)
    assert suggestion in str(error.value).split('?')[0]
    with pytest.raises(KeyError):
        models.MODEL_CONFIGS[name]


def test_overrides():
    model = models.get_model('ViT-B_16', num_classes=10, patches={'size': (8, 4)})
    assert model.patches.size == (8, 4)
    assert model.num_classes == 10
    params = shapes(model, (32, 24))
    assert params['embedding']['kernel'].shape == (8, 4, 3, 768)
    assert params['head']['kernel'].shape == (768, 10)

    model = models.get_model('L16'.lower(), transformer=ConfigDict({'num_layers': 2}))
    assert model.transformer.num_layers == 2
    assert model.transformer.num_heads == 16  # the others stay

    hybrid = models.get_model('r50_b16', resnet={'width_factor': 0.5})
    assert hybrid.resnet.num_layers == (3, 4, 9)
    plain = models.get_model('r50_b16', resnet=None, patches={'size': (16, 16)})
    assert plain.resnet is None
    fields = {'dtype': 'bfloat16', 'remat': 'dots', 'classifier': 'gap'}
    model = models.get_model('s16', **fields)
    assert {key: str(getattr(model, key)) for key in fields} == fields


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        ({'hidden_dim': 3}, "model field 'hidden_dim'. Did you mean hidden_size"),
        ({'transformer': {'layers': 2}}, "transformer 'layers'.*num_layers"),
        ({'patches': {'sise': 2}}, "patches 'sise'. Did you mean size"),
        ({'classifier': 'gab'}, 'Did you mean gap'),
    ],
)
def test_unknown_overrides_are_errors_with_suggestions(overrides, message):
    with pytest.raises(ValueError, match=message):
        models.get_model('ViT-B_16', **overrides)


def test_from_config_takes_what_a_card_or_a_run_holds():
    config = models.get_config('r50_b16')
    plain = json.loads(json.dumps(config.to_dict()))  # lists for tuples
    expected = models.from_config(config, num_classes=3)
    assert models.from_config(plain, num_classes=3) == expected
    assert models.from_config(FrozenConfigDict(config), num_classes=3) == expected
    config.head_init = 'lecun_normal'
    assert models.from_config(config, num_classes=3).head_init == 'lecun_normal'
    with pytest.raises(ValueError, match='lacks transformer, hidden_size: it has pat'):
        models.from_config({'patches': {'size': (4, 4)}}, num_classes=3)


def test_configs_models_offers_the_original_names():
    # By path, because the tests also run without an installed package.
    path = pathlib.Path(__file__).parents[3] / 'configs' / 'models.py'
    spec = importlib.util.spec_from_file_location('configs_models', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.MODEL_CONFIGS is models.MODEL_CONFIGS
    assert module.AUGREG_CONFIGS is models.AUGREG_CONFIGS
    for short, name in models.SHORT_NAMES.items():
        config = getattr(module, f'get_{short}_config')()
        assert config.to_dict() == models.MODEL_CONFIGS[name].to_dict()
    assert set(module.__all__) <= set(dir(module))
