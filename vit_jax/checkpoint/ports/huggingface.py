"""Hugging Face's transformers: `ViTModel` and `ViTForImageClassification`.

A repository has a config.json with the fields of `ViTConfig`, and a
preprocessor_config.json. Without a head it is a `ViTModel`, whose pooler is pre_logits.

Sources: transformers' `modeling_vit.py` and the checkpoints on its hub.
"""

from collections.abc import Mapping

from vit_jax import models
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

_ENDS = [
    Row('embeddings.cls_token', 'cls', SAME),
    Row('embeddings.position_embeddings', POSITION_EMBEDDING, SAME),
    *pair('embeddings.patch_embeddings.projection', 'embedding', CONV),
    *pair('layernorm', 'Transformer/encoder_norm', SAME),
    *pair('pooler.dense', 'pre_logits', DENSE, optional=True),
    *pair('classifier', 'head', DENSE, optional=True),
]


def _blocks(layer: str, names: Mapping[str, str]) -> list[Row]:
    """Returns the rows of transformers' blocks, whose names changed with version 5."""
    return [
        *pair(f'{layer}.layernorm_before', f'{BLOCK}/LayerNorm_0', SAME),
        *pair(f'{layer}.layernorm_after', f'{BLOCK}/LayerNorm_1', SAME),
        *(
            row
            for ours in QKV
            for row in (
                Row(
                    f'{layer}.{names[ours]}.weight',
                    f'{ATTENTION}/{ours}/kernel',
                    HEADS_IN,
                ),
                Row(
                    f'{layer}.{names[ours]}.bias',
                    f'{ATTENTION}/{ours}/bias',
                    HEADS_BIAS,
                ),
            )
        ),
        Row(f'{layer}.{names["out"]}.weight', f'{ATTENTION}/out/kernel', HEADS_OUT),
        Row(f'{layer}.{names["out"]}.bias', f'{ATTENTION}/out/bias', SAME),
        *pair(f'{layer}.{names["fc1"]}', f'{BLOCK}/MlpBlock_0/Dense_0', DENSE),
        *pair(f'{layer}.{names["fc2"]}', f'{BLOCK}/MlpBlock_0/Dense_1', DENSE),
    ]


_NAMES_4 = {
    **{name: f'attention.attention.{name}' for name in QKV},
    'out': 'attention.output.dense',
    'fc1': 'intermediate.dense',
    'fc2': 'output.dense',
}
_NAMES_5 = {
    **{name: f'attention.{name[0]}_proj' for name in QKV},
    'out': 'attention.o_proj',
    'fc1': 'mlp.fc1',
    'fc2': 'mlp.fc2',
}


def describe(config: Json) -> Description:
    """Returns what a config.json says.

    `_name_or_path` is no name: it says what a model was fine-tuned from.
    """
    pooler = config.get('pooler_act', 'tanh')
    refused = [f'pooler_act is {pooler!r}, expected tanh'] if pooler != 'tanh' else []
    if config.get('model_type', 'vit') != 'vit':
        refused.append(f'model_type is {config["model_type"]!r}, expected vit')
    return Description(
        # What is left out is as in ViTConfig.
        num_heads=heads(config.get('num_attention_heads', 12)) if config else None,
        activation=config.get('hidden_act') or 'gelu',
        norm_epsilon=float(config.get('layer_norm_eps', 1e-12)),
        sizes=(config.get('image_size'),),
        refused=tuple(refused),
    )


def _files(card: ModelCard, weights: Weights) -> dict[str, Json]:
    """Returns config.json and preprocessor_config.json."""
    model = card.model
    head, pre_logits = 'head/kernel' in weights, 'pre_logits/kernel' in weights
    family = models.family_of(model)
    classifier = model.get('classifier', 'token')
    obstacles = {
        f'it is of the family {family.name}': family is not models.FAMILIES['vit'],
        'it has a ResNet root': 'conv_root/kernel' in weights,
        'it has no class token': 'cls' not in weights,
        'pre_logits stand before its head': head and pre_logits,
        'its patches are not square': len(set(model['patches']['size'])) > 1,
        f'its head sees tokens one by one ({classifier})': 'unpooled' in classifier,
    }
    refuse("transformers' ViT", obstacles)
    transformer = model['transformer']
    names = card.class_names or [f'LABEL_{i}' for i in range(card.num_classes)]
    height, width = card.image_size
    channels = weights.shape('embedding/kernel')[2]
    config = {
        'architectures': ['ViTForImageClassification' if head else 'ViTModel'],
        'model_type': 'vit',
        'hidden_size': model['hidden_size'],
        'num_hidden_layers': transformer['num_layers'],
        'num_attention_heads': transformer['num_heads'],
        'intermediate_size': transformer['mlp_dim'],
        'hidden_act': 'gelu' if model.get('gelu') == 'exact' else 'gelu_pytorch_tanh',
        'layer_norm_eps': model.get('norm_epsilon') or models.NORM_EPSILON,
        'hidden_dropout_prob': 0.0,
        'attention_probs_dropout_prob': 0.0,
        'image_size': height if height == width else [height, width],
        'patch_size': model['patches']['size'][0],
        'num_channels': channels,
        'qkv_bias': True,
    }
    if pre_logits:
        size = weights.shape('pre_logits/kernel')[1]
        config |= {'pooler_output_size': size, 'pooler_act': 'tanh'}
    if head:
        config['id2label'] = {str(i): name for i, name in enumerate(names)}
        # Of classes with one name, the last.
        config['label2id'] = {name: i for i, name in enumerate(names)}
    processor = {
        'image_processor_type': 'ViTImageProcessor',
        'do_resize': True,
        'size': {'height': height, 'width': width},
        'resample': 2,  # bilinear; PIL smooths where it shrinks, we do not
        'do_rescale': True,
        'rescale_factor': 1 / 255,
        'do_normalize': True,
        'image_mean': unit(card.mean, channels),
        'image_std': unit(card.std, channels),
    }
    return {'config.json': config, 'preprocessor_config.json': processor}


def _port(name: str, tell: str, layer: str, names: Mapping[str, str]) -> Port:
    rows = (*_ENDS, *_blocks(layer, names))
    return Port(name, 'huggingface', tell, rows, describe, _files, 'vit.', 'classifier')


# Written as before version 5, which reads both.
PORTS = (
    _port(
        'Hugging Face ViT',
        'encoder.layer.0.layernorm_before.weight',
        'encoder.layer.{i}',
        _NAMES_4,
    ),
    _port(
        'Hugging Face ViT 5',
        'layers.0.layernorm_before.weight',
        'layers.{i}',
        _NAMES_5,
    ),
)
