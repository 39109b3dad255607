"""timm: Vision Transformers, hybrids and Mixers.

Its repositories on the Hugging Face hub have a config.json with `architecture`,
`model_args` and `pretrained_cfg`.

Sources: timm's `vision_transformer.py`, `vision_transformer_hybrid.py` and
`mlp_mixer.py`.
"""

import logging
import re
from typing import Any

from vit_jax import models
from vit_jax.checkpoint import architecture
from vit_jax.checkpoint.card import ModelCard
from vit_jax.checkpoint.ports.port import Description, Json, Port, heads, refuse, unit
from vit_jax.checkpoint.ports.rows import (
    ATTENTION,
    BLOCK,
    CONV,
    DENSE,
    HEADS_BIAS,
    HEADS_IN,
    HEADS_OUT,
    QKV,
    SAME,
    Row,
    pair,
)
from vit_jax.checkpoint.weights import Weights
from vit_jax.models.vit import POSITION_EMBEDDING

_BLOCKS = [
    *pair('blocks.{i}.norm1', f'{BLOCK}/LayerNorm_0', SAME),
    *(
        Row(f'blocks.{{i}}.attn.qkv.{theirs}', f'{ATTENTION}/{ours}/{leaf}', change, k)
        for k, ours in enumerate(QKV)
        for theirs, leaf, change in (
            ('weight', 'kernel', HEADS_IN),
            ('bias', 'bias', HEADS_BIAS),
        )
    ),
    Row('blocks.{i}.attn.proj.weight', f'{ATTENTION}/out/kernel', HEADS_OUT),
    Row('blocks.{i}.attn.proj.bias', f'{ATTENTION}/out/bias', SAME),
    *pair('blocks.{i}.norm2', f'{BLOCK}/LayerNorm_1', SAME),
    *pair('blocks.{i}.mlp.fc1', f'{BLOCK}/MlpBlock_0/Dense_0', DENSE),
    *pair('blocks.{i}.mlp.fc2', f'{BLOCK}/MlpBlock_0/Dense_1', DENSE),
]
_ENDS = [
    Row('cls_token', 'cls', SAME, optional=True),
    Row('pos_embed', POSITION_EMBEDDING, SAME),
    *pair('patch_embed.proj', 'embedding', CONV),
    *pair('norm', 'Transformer/encoder_norm', SAME),
    *pair('pre_logits.fc', 'pre_logits', DENSE, optional=True),
    *pair('head', 'head', DENSE, optional=True),
]
_BACKBONE = 'patch_embed.backbone'
_UNIT = f'{_BACKBONE}.stages.{{s}}.blocks.{{u}}'


def _root(stem: str) -> list[Row]:
    return [
        Row(f'{_BACKBONE}.{stem}conv.weight', 'conv_root/kernel', CONV),
        *pair(f'{_BACKBONE}.{stem}norm', 'gn_root', SAME),
    ]


_UNITS = [
    row
    for theirs, ours, norm in (
        *((f'conv{r}', f'conv{r}', (f'norm{r}', f'gn{r}')) for r in (1, 2, 3)),
        ('downsample.conv', 'conv_proj', ('downsample.norm', 'gn_proj')),
    )
    for row in (
        Row(
            f'{_UNIT}.{theirs}.weight',
            f'block{{s}}/unit{{u}}/{ours}/kernel',
            CONV,
            optional=ours == 'conv_proj',
        ),
        *pair(
            f'{_UNIT}.{norm[0]}',
            f'block{{s}}/unit{{u}}/{norm[1]}',
            SAME,
            optional=ours == 'conv_proj',
        ),
    )
]

_MIXER = [
    *pair('stem.proj', 'stem', CONV),
    *pair('blocks.{i}.norm1', 'MixerBlock_{i}/LayerNorm_0', SAME),
    *pair('blocks.{i}.norm2', 'MixerBlock_{i}/LayerNorm_1', SAME),
    *(
        row
        for theirs, ours in (('tokens', 'token'), ('channels', 'channel'))
        for k in (0, 1)
        for row in pair(
            f'blocks.{{i}}.mlp_{theirs}.fc{k + 1}',
            f'MixerBlock_{{i}}/{ours}_mixing/Dense_{k}',
            DENSE,
        )
    ),
    *pair('norm', 'pre_head_layer_norm', SAME),
    *pair('head', 'head', DENSE, optional=True),
]

_MIXERS = {
    'Mixer-S_16': 'mixer_s16_224',
    'Mixer-S_32': 'mixer_s32_224',
    'Mixer-B_16': 'mixer_b16_224',
    'Mixer-B_32': 'mixer_b32_224',
    'Mixer-L_16': 'mixer_l16_224',
}
# timm's models whose sizes its own arguments then adjust.
_HYBRIDS = {
    (): 'vit_tiny_r_s16_p8_224',
    (2, 2, 2, 2): 'vit_small_r26_s32_224',
    (3, 4, 9): 'vit_base_r50_s16_224',
    (3, 4, 6, 3): 'vit_large_r50_s32_224',
}


log = logging.getLogger(__name__)
# Of LayerNorm in timm, whose config.json has no word for it.
_EPSILON = 1e-6
# Arguments that `describe` reads, that the shapes tell, or that change no output.
_ARGUMENTS = frozenset({
    'act_layer', 'class_token', 'depth', 'dynamic_img_size', 'embed_dim', 'fc_norm',
    'global_pool', 'img_size', 'in_chans', 'mlp_ratio', 'num_classes', 'num_heads',
    'patch_size', 'pos_drop_rate', 'proj_drop_rate', 'attn_drop_rate', 'drop_rate',
    'drop_path_rate', 'patch_drop_rate', 'qkv_bias', 'weight_init', 'strict_img_size',
    'representation_size', 'pre_logits', 'backbone',
})  # fmt: skip
# Width and attention heads by the size in timm's names of architectures, as in
# vit_so400m_patch14_siglip_224.
_SIZES = {
    'tiny': (192, 3), 'wee': (256, 4), 'little': (320, 5), 'small': (384, 6),
    'medium': (512, 8), 'mediumd': (512, 8), 'betwixt': (640, 10), 'base': (768, 12),
    'so150m': (896, 14), 'large': (1024, 16), 'so400m': (1152, 16), 'huge': (1280, 16),
    'giant': (1408, 16), 'gigantic': (1664, 16),
}  # fmt: skip


def _size_of(name: str) -> tuple[int, int] | tuple[None, None]:
    match = re.match(r'(?:vit|deit3?|flexivit)_([a-z0-9]+)', name)
    return _SIZES.get(match[1], (None, None)) if match else (None, None)


def describe(config: Json) -> Description:
    """Returns what a config.json says."""
    args = config.get('model_args') or {}
    trained = config.get('pretrained_cfg') or {}
    name, tag = config.get('architecture') or '', trained.get('tag')
    is_cut = trained and trained.get('crop_mode', 'center') == 'center'
    width, heads_by_name = _size_of(name)
    told = heads(args.get('num_heads'))
    # What the model is made with wins over what it was trained with.
    pools = (c.get('global_pool') for c in (args, config, trained))
    return Description(
        name=f'{name}.{tag}' if name and tag else name,
        num_heads=told or heads_by_name,
        width=None if told else width,
        pooling=next(filter(None, pools), 'token'),
        refused=tuple(
            f'model_args has {key} = {value!r}, which no model here does'
            for key, value in args.items()
            if key not in _ARGUMENTS and value not in (None, False)
        ),
        activation=args.get('act_layer') or 'gelu',
        sizes=(trained.get('input_size', [])[1:], args.get('img_size')),
        crop=trained.get('crop_pct', 1.0) if is_cut else None,
        mean=trained.get('mean'),
        std=trained.get('std'),
    )


def _transformer(card: ModelCard, weights: Weights) -> dict[str, Json]:
    """Returns the config.json of a Vision Transformer or hybrid."""
    model = card.model
    transformer, resnet = model['transformer'], model.get('resnet')
    epsilon = model.get('norm_epsilon') or models.NORM_EPSILON
    classifier = model.get('classifier', 'token')
    refuse("timm's ViT", {
        'it has pre_logits': 'pre_logits/kernel' in weights,
        f'its head sees tokens one by one ({classifier})': 'unpooled' in classifier,
        f'its LayerNorm has epsilon {epsilon:g}, timm\'s {_EPSILON:g}': (
            epsilon > 2 * _EPSILON
        ),
    })  # fmt: skip
    if epsilon != _EPSILON:  # transformers' 1e-12, which is next to nothing as well
        log.warning("LayerNorm's epsilon %g becomes timm's, %g", epsilon, _EPSILON)
    args: dict[str, Any] = {}
    if model.get('gelu') != 'exact':
        args['act_layer'] = 'gelu_tanh'
    name = 'vit_base_patch16_224'
    if resnet:
        units = tuple(resnet['num_layers'])
        if units not in _HYBRIDS or resnet.get('width_factor', 1.0) != 1.0:
            raise ValueError(
                f'timm has no hybrid with a root of {units} units and width '
                f'{resnet.get("width_factor", 1.0)}; write a .safetensors instead.'
            )
        name = _HYBRIDS[units]
    else:
        patch = tuple(model['patches']['size'])
        args['patch_size'] = patch[0] if len(set(patch)) == 1 else list(patch)
    args |= {
        'embed_dim': model['hidden_size'],
        'depth': transformer['num_layers'],
        'num_heads': transformer['num_heads'],
    }
    args['mlp_ratio'] = transformer['mlp_dim'] / model['hidden_size']
    if model.get('classifier') == 'gap':
        args |= {'class_token': False, 'global_pool': 'avg', 'fc_norm': False}
    return _config(card, name, args, _channels(weights, 'conv_root', 'embedding'))


def _channels(weights: Weights, *layers: str) -> int:
    kernels = (f'{layer}/kernel' for layer in layers)
    return next(weights.shape(name)[2] for name in kernels if name in weights)


def _mixer(card: ModelCard, weights: Weights) -> dict[str, Json]:
    """Returns the config.json of a Mixer.

    timm's take no name of an activation: there, ours computes exact GELU.
    """
    facts = architecture.of_config(card.model)
    for ours, theirs in _MIXERS.items():
        if architecture.of_config(models.get_config(ours)) == facts:
            return _config(card, theirs, {}, _channels(weights, 'stem'))
    raise ValueError(
        'timm makes Mixers of the published sizes only; write a .safetensors instead.'
    )


def _config(card: ModelCard, name: str, args: Json, channels: int) -> dict[str, Json]:
    height, width = card.image_size
    if channels != 3:
        args = {**args, 'in_chans': channels}
    config = {
        'architecture': name,
        'num_classes': card.num_classes,
        'global_pool': args.get('global_pool', 'token'),
        'model_args': {'img_size': [height, width], **args},
        'pretrained_cfg': {
            'input_size': [channels, height, width],
            'mean': unit(card.mean, channels),
            'std': unit(card.std, channels),
            'crop_pct': max(height, width) / card.resize if card.resize else 1.0,
            'crop_mode': 'center' if card.resize else 'squash',
            'interpolation': 'bilinear',
            'num_classes': card.num_classes,
        },
    }
    if card.class_names:
        config['label_names'] = list(card.class_names)
    return {'config.json': config}


def _port(name: str, tell: str, rows: list[Row], **fields: Any) -> Port:
    fields = {'files': _transformer, 'describe': describe} | fields
    return Port(f'timm {name}', 'timm', tell, tuple(rows), **fields)


_OF_HYBRIDS = {
    'numerics': {'resnet.norm_epsilon': 1e-5, 'resnet.standardize': 'variance'},
    'numerics_said': (
        'GroupNorm epsilon 1e-05, kernels divided by the root of var + 1e-8'
    ),
}
PORTS = (
    _port(
        'hybrid without stages',
        f'{_BACKBONE}.conv.weight',
        [*_ENDS, *_root(''), *_BLOCKS],
        **_OF_HYBRIDS,
    ),
    _port(
        'hybrid',
        f'{_BACKBONE}.stem.conv.weight',
        [*_ENDS, *_root('stem.'), *_UNITS, *_BLOCKS],
        **_OF_HYBRIDS,
    ),
    _port('Mixer', 'blocks.0.mlp_tokens.fc1.weight', _MIXER, files=_mixer),
    _port('ViT', 'blocks.0.attn.qkv.weight', [*_ENDS, *_BLOCKS]),
)
