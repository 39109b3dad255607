"""Which network a file of weights belongs to, told from its shapes or its name."""

import math
import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vit_jax import models
from vit_jax.checkpoint import adapt

VIT, MIXER = 'Vision Transformer', 'MLP-Mixer'

# The largest number of pixels that one patch of a known network covers, per side.
_MAX_PATCH = 64
_MIXER_BLOCK = re.compile(r'MixerBlock_(\d+)/')
_BLOCK = re.compile(r'Transformer/encoderblock_(\d+)/')
_UNIT = re.compile(r'block(\d+)/unit(\d+)/')
_FIRST = 'Transformer/encoderblock_0'

Facts = dict[str, Any]
Config = Mapping[str, Any] | ConfigDict


def of_weights(shapes: adapt.Shapes) -> Facts:
    """Returns what distinguishes a network, read from a file's shapes.

    A fact that the file does not tell is None; a file of another family gives none
    but Nones.
    """
    kernel = shapes.get('stem/kernel', ())
    if len(kernel) == 4:
        blocks = {m[1] for name in shapes if (m := _MIXER_BLOCK.match(name))}
        tokens, channels = (
            shapes.get(f'MixerBlock_0/{side}_mixing/Dense_0/kernel', (None,))[-1]
            for side in ('token', 'channel')
        )
        return {
            'family': MIXER,
            'width': kernel[-1],
            'depth': len(blocks) or None,
            'token MLP width': tokens,
            'channel MLP width': channels,
            'patch': tuple(kernel[:2]),
        }
    kernel = shapes.get('embedding/kernel', (None,) * 4)
    query = shapes.get(
        f'{_FIRST}/MultiHeadDotProductAttention_0/query/kernel', (None,) * 3
    )
    mlp = shapes.get(f'{_FIRST}/MlpBlock_0/Dense_0/kernel', (None,) * 2)
    units: dict[int, int] = {}
    for name in shapes:
        if match := _UNIT.match(name):
            stage, unit = int(match[1]), int(match[2])
            units[stage] = max(unit, units.get(stage, 0))
    hybrid = 'conv_root/kernel' in shapes
    depth = len({m[1] for name in shapes if (m := _BLOCK.match(name))}) or None
    return {
        'family': VIT if depth else None,
        'width': kernel[-1],
        'depth': depth,
        'heads': query[1] if len(query) == 3 else None,
        'MLP width': mlp[-1],
        'patch': tuple(kernel[:2]),
        'ResNet units': tuple(units[s] for s in sorted(units)) if hybrid else None,
        'class token': 'cls' in shapes,
    }


def of_config(model_config: Config) -> Facts:
    """Returns the same facts of a model's configuration."""
    if 'tokens_mlp_dim' in model_config:
        return {
            'family': MIXER,
            'width': model_config['hidden_dim'],
            'depth': model_config['num_blocks'],
            'token MLP width': model_config['tokens_mlp_dim'],
            'channel MLP width': model_config['channels_mlp_dim'],
            'patch': tuple(model_config['patches']['size']),
        }
    transformer = model_config['transformer']
    resnet = model_config.get('resnet')
    return {
        'family': VIT,
        'width': model_config['hidden_size'],
        'depth': transformer['num_layers'],
        'heads': transformer['num_heads'],
        'MLP width': transformer['mlp_dim'],
        'patch': tuple(model_config['patches']['size']),
        'ResNet units': tuple(resnet['num_layers']) if resnet else None,
        # The model's own default, where a configuration says nothing.
        'class token': models.num_prefix_tokens({'classifier': 'token', **model_config})
        == 1,
    }


def config_of_weights(shapes: adapt.Shapes) -> dict[str, Any]:
    """Returns the configuration of the network that has these weights.

    It carries the name of the zoo's model of this architecture, if there is one, and
    its dropout rates; otherwise no name and no dropout.

    Raises:
        ValueError: the weights are those of no Vision Transformer and no Mixer.
    """
    facts = of_weights(shapes)
    if facts['family'] is None or None in (facts['width'], *facts['patch']):
        raise ValueError('these are not the weights of a Vision Transformer or a Mixer')
    if names := matching_models(shapes):
        config = models.get_config(names[0]).to_dict()
    elif facts['family'] == MIXER:
        config = {
            'patches': {'size': facts['patch']},
            'num_blocks': facts['depth'],
            'hidden_dim': facts['width'],
            'tokens_mlp_dim': facts['token MLP width'],
            'channels_mlp_dim': facts['channel MLP width'],
        }
    else:
        config = {
            'patches': {'size': facts['patch']},
            'hidden_size': facts['width'],
            'transformer': {
                'num_layers': facts['depth'],
                'num_heads': facts['heads'],
                'mlp_dim': facts['MLP width'],
                'dropout_rate': 0.0,
                'attention_dropout_rate': 0.0,
            },
            'classifier': 'token' if facts['class token'] else 'gap',
        }
        if facts['ResNet units'] is not None:
            root = shapes['conv_root/kernel'][-1] / 64
            units = facts['ResNet units']
            config['resnet'] = {'num_layers': units, 'width_factor': root}
    if 'pre_logits/kernel' in shapes:
        config['representation_size'] = shapes['pre_logits/kernel'][-1]
    return config


def num_patches(shapes: adapt.Shapes) -> int:
    """Returns how many patches the weights have positions for; 0 if they have none."""
    if mixing := shapes.get('MixerBlock_0/token_mixing/Dense_0/kernel'):
        return mixing[0]
    posemb = shapes.get(adapt.POSEMB, ())
    return posemb[1] - ('cls' in shapes) if len(posemb) == 3 else 0


def image_size(shapes: adapt.Shapes, model_config: Config) -> tuple[int, int]:
    """Returns the largest square image whose patches the weights have positions for.

    Raises:
        ValueError: there is none.
    """
    side, _ = adapt.square_grid(num_patches(shapes))
    for patch in range(_MAX_PATCH, 0, -1):
        size = (patch * side, patch * side)
        try:
            if models.patch_grid(model_config, size) == (side, side):
                return size
        except ValueError:
            continue  # not a size that the model takes
    raise ValueError(
        f'there are positions for {side}x{side} patches, which no image gives in '
        f'{model_config.get("model_name") or "the model"}'
    )


def matching_models(shapes: adapt.Shapes) -> list[str]:
    """Returns the names of the zoo's models that have these weights' architecture."""
    facts = of_weights(shapes)
    return [
        name
        for name, config in models.MODEL_CONFIGS.items()
        if of_config(config) == facts
    ]


def remedy(shapes: adapt.Shapes, model_config: Config) -> str:
    """Says, after a failed merge, what the weights are and what to do."""
    found, wanted = of_weights(shapes), of_config(model_config)
    if found['family'] is None:
        return (
            'These are not the weights of a Vision Transformer or a Mixer with '
            'published names.'
        )
    differ = [key for key in wanted if found.get(key) != wanted[key]]
    if found['family'] != wanted['family']:
        differ = ['family']
    elif not differ and found['family'] == MIXER:
        return _mixer_remedy(shapes, found['patch'])
    if differ == ['class token']:
        has, classifier = ('a', 'token') if found['class token'] else ('no', 'gap')
        return (
            f"The file has {has} class token: set model.classifier to '{classifier}', "
            'or take other weights.'
        )
    if differ:
        told = '; '.join(
            f'{key} {_show(found[key])} in the file, {_show(wanted[key])} in the model'
            for key in differ
        )
        names = matching_models(shapes)
        if not names:
            return f'The architectures differ: {told}.'
        return (
            f'These look like the weights of {" or ".join(names[:3])} ({told}): take '
            'that model, or the weights of yours.'
        )
    pre_logits = shapes.get('pre_logits/kernel')
    size = pre_logits[-1] if pre_logits else None
    if size != model_config.get('representation_size'):
        return f'Set model.representation_size to {size}, as in the file.'
    return 'The file seems to be incomplete, or made by other code.'


def config_from_name(stem: str) -> dict[str, Any] | None:
    """Returns the configuration of a published file's name without `.npz`, or None.

    Known are the zoo's names (`ViT-B_16`), those with an image size (`ViT-B_16-224`)
    and AugReg's (`B_16-i21k-300ep-lr_0.001-…`).
    """
    name = re.sub(r'-\d+$', '', stem)
    for table, key in (
        (models.MODEL_CONFIGS, stem),
        (models.MODEL_CONFIGS, name),
        (models.AUGREG_CONFIGS, stem.split('-')[0]),
    ):
        if key in table:
            return table[key].to_dict()
    return None


def _mixer_remedy(shapes: adapt.Shapes, patch: tuple[int, int]) -> str:
    """Says which images a Mixer's weights are for."""
    tokens = shapes.get('MixerBlock_0/token_mixing/Dense_0/kernel', (0,))[0]
    side = math.isqrt(tokens)
    if not side or side * side != tokens:
        return f'A Mixer is bound to its number of tokens, {tokens} in the file.'
    height, width = side * patch[0], side * patch[1]
    key = f'pp.crop={height}' if height == width else f"pp.size='({height}, {width})'"
    return (
        f'A Mixer is bound to its number of tokens: the file has {tokens}, which are '
        f'images of {height}x{width} pixels. Set --config.{key}. (Vision Transformers '
        'take other sizes.)'
    )


def _show(fact: Any) -> str:
    if isinstance(fact, bool):
        return 'yes' if fact else 'no'
    return 'x'.join(map(str, fact)) if isinstance(fact, tuple) else str(fact)
