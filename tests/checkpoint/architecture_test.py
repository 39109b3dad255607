"""Recognising networks by the shapes and the names of their files."""

import numpy as np
import pytest
from conftest import forward
from flax import traverse_util

from vit_jax import models
from vit_jax.checkpoint import architecture


def shapes_of(name):
    flat = models.parameter_shapes(models.get_config(name), 3, (224, 224))
    return {name: leaf.shape for name, leaf in flat.items()}


@pytest.mark.parametrize(
    'name', ['ViT-Ti_16', 'R+ViT-Ti_16', 'R26+ViT-S_32', 'Mixer-B_16']
)
def test_shapes_tell_what_the_configuration_says(name):
    facts = architecture.of_weights(shapes_of(name))
    assert facts == architecture.of_config(models.MODEL_CONFIGS[name])
    assert None not in [v for k, v in facts.items() if not k.startswith('ResNet')]


@pytest.mark.parametrize(
    'name', ['ViT-L_16', 'R50+ViT-B_16', 'Mixer-S_8', 'ViT-B_16-gap-norep']
)
def test_configuration_from_shapes(name):
    shapes = shapes_of(name)
    expected = models.MODEL_CONFIGS[name].to_dict()
    assert architecture.config_of_weights(shapes) == expected
    size = {'pre_logits/kernel': (768, 31)} if 'ViT' in name else {}
    found = architecture.config_of_weights({**shapes, **size})
    assert found.get('representation_size') == (31 if size else None)


def test_configuration_from_shapes_of_an_unknown_size(golden):
    for name in ('vit_token', 'vit_gap', 'hybrid_r50like', 'mixer'):
        arrays = golden(f'{name}.npz')
        params = {k[7:]: x for k, x in arrays.items() if k.startswith('params/')}
        shapes = {k: x.shape for k, x in params.items()}
        model = models.from_config(
            architecture.config_of_weights(shapes),
            num_classes=len(params['head/bias']),
        )
        tree = traverse_util.unflatten_dict(params, sep='/')
        logits = forward(model, tree, arrays['inputs/images'])
        np.testing.assert_allclose(logits, arrays['outputs/logits'], atol=1e-5)
    with pytest.raises(ValueError, match='not the weights'):
        architecture.config_of_weights({'a/kernel': (3, 4)})


def test_no_two_models_look_alike():
    facts = {n: architecture.of_config(c) for n, c in models.MODEL_CONFIGS.items()}
    names = [n for n in facts if not n.startswith('testing')]
    for i, name in enumerate(names):
        assert [other for other in names[i:] if facts[other] == facts[name]] == [name]


def test_matching_models():
    assert architecture.matching_models(shapes_of('ViT-S_32')) == ['ViT-S_32']
    gap = shapes_of('ViT-S_32-gap-norep')
    assert architecture.matching_models(gap) == ['ViT-S_32-gap-norep']
    assert architecture.matching_models({'stem/kernel': (1, 2)}) == []


@pytest.mark.parametrize(
    ('stem', 'name'),
    [
        ('ViT-B_16', 'ViT-B_16'),
        ('ViT-B_16-224', 'ViT-B_16'),
        ('Mixer-L_16', 'Mixer-L_16'),
        ('R50+ViT-B_16', 'R50+ViT-B_16'),
        ('ViT-B_16-gap-norep', 'ViT-B_16-gap-norep'),
        ('B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0', 'ViT-B_16'),
        (
            'R_Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0--cifar100-steps_'
            '10k-lr_0.01-res_224',
            'R+ViT-Ti_16',
        ),
        ('R26_S_32-i1k-300ep', 'R26+ViT-S_32'),
        ('model', None),
        ('flowers-224', None),
    ],
)
def test_config_from_name(stem, name):
    config = architecture.config_from_name(stem)
    assert (config and config['model_name']) == name


@pytest.mark.parametrize(
    ('name', 'change', 'expected'),
    [
        ('ViT-Ti_16', {}, 'ViT-Ti_16'),
        ('ViT-Ti_16', {'representation_size': 192}, 'ViT-Ti_16'),
        ('ViT-Ti_16', {'hidden_size': 96}, 'width 96, depth 12, heads 3'),
        ('ViT-Ti_16', {'transformer.num_layers': 4}, 'depth 4'),
        ('ViT-Ti_16', {'transformer.num_heads': 6}, 'heads 6'),
        ('ViT-Ti_16', {'patches.size': (8, 8)}, 'patch 8x8'),
        ('ViT-Ti_16', {'classifier': 'gap'}, 'class token no'),
        ('R+ViT-Ti_16', {'resnet.width_factor': 0.25}, 'ResNet width 16'),
        ('Mixer-S_16', {'num_blocks': 2}, 'MLP-Mixer (width 512, depth 2'),
        ('mine', {}, 'mine'),
    ],
)
def test_a_name_is_that_of_the_published_model_or_none(name, change, expected):
    config = models.get_config('ViT-Ti_16' if name == 'mine' else name)
    config.model_name = name
    config.update_from_flattened_dict(change)
    found = architecture.true_name(config)
    assert expected in found
    assert name in ('mine', found) or not found.startswith(name)
    assert (found == name) == (expected == name)
