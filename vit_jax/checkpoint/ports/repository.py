"""What stands beside weights on the Hugging Face hub, as a model card; and the reverse.

timm's repositories have a config.json with `architecture` and `pretrained_cfg`, those
of transformers one with the fields of `ViTConfig`, and a preprocessor_config.json.
"""

import json
import math
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from vit_jax import models
from vit_jax.checkpoint import architecture
from vit_jax.checkpoint import class_names as imagenet
from vit_jax.checkpoint.card import ModelCard, find_card
from vit_jax.checkpoint.formats import safetensors
from vit_jax.checkpoint.ports import translate as ports
from vit_jax.checkpoint.weights import TreeWeights, Weights
from vit_jax.files import atomic
from vit_jax.models.zoo import google_files

CONFIG, PREPROCESSOR = 'config.json', 'preprocessor_config.json'
WEIGHTS = 'model.safetensors'
_MAX_BYTES = 50_000_000  # of a config with 21,843 names twice: 3 MB
# What the libraries call the two forms of GELU.
_GELU = {
    'gelu': 'exact',
    'gelu_tanh': 'tanh',
    'gelu_new': 'tanh',
    'gelu_pytorch_tanh': 'tanh',
}


def open_port(path: pathlib.Path) -> ports.PortWeights:
    """Opens weights of timm or transformers, with a card of what stands beside them.

    Args:
      path: a .safetensors, or a folder with one and its config.json.

    Raises:
      ValueError: a file cannot be read, or describes a model that is not known here.
    """
    file = path if path.is_file() else path / WEIGHTS
    if card := find_card(file):
        heads = card.model.get('transformer', {}).get('num_heads')
        return ports.PortWeights(path, heads, card)
    # Beside a file of another name there may be the config of another model.
    beside = path if path.is_dir() else path.parent if path.name == WEIGHTS else None
    config = _read(beside / CONFIG) if beside else {}
    weights = ports.PortWeights(path, _num_heads(config))
    try:
        weights.card = _card(weights, config, beside)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f'{beside / CONFIG} describes a model in a way that is not known: {error!r}'
        ) from error
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    return weights


def _read(path: pathlib.Path) -> dict[str, Any]:
    """Returns a JSON file's content, {} if there is none."""
    if not path.is_file():
        return {}
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f'{path} has more than {_MAX_BYTES} bytes')
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} is not JSON: {str(error)[:200]}') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} is not a table of settings')
    return content


def _num_heads(config: Mapping[str, Any]) -> int | None:
    args = config.get('model_args')
    heads = config.get('num_attention_heads')
    if isinstance(args, dict):
        heads = args.get('num_heads', heads)
    return heads if isinstance(heads, int) and heads > 0 else None


def _card(
    weights: ports.PortWeights, config: Mapping[str, Any], beside: pathlib.Path | None
) -> ModelCard:
    """Returns the card of weights with a config.json, or ({}) without one."""
    shapes = {name: weights.shape(name) for name in weights}
    model = architecture.config_of_weights(shapes)
    num_classes = shapes.get('head/bias', (0,))[0]
    is_hf = 'hidden_size' in config
    timm = config.get('pretrained_cfg') or {}
    hub_id = _hub_id(weights.path, config)

    pooling = timm.get('global_pool') or config.get('global_pool') or 'token'
    if 'cls' in shapes and not is_hf and pooling not in ('token', ''):
        raise ValueError(
            f'this model pools its tokens ({pooling}) although it has a class token, '
            'which no model here does'
        )
    numerics, told = _numerics(weights, config, hub_id, num_classes)
    for key, value in numerics.items():
        scope, _, leaf = key.rpartition('.')
        (model[scope] if scope else model)[leaf] = value

    args = config.get('model_args') or {}
    for size in (
        timm.get('input_size', [])[1:],
        args.get('img_size'),
        config.get('image_size'),
    ):
        size = (size, size) if isinstance(size, int) else tuple(size or ())
        if len(size) == 2 and _fits(model, shapes, size):
            break
    else:
        size = architecture.image_size(shapes, model)
    resize, mean, std = None, 127.5, 127.5
    if timm:
        mean, std = (_pixels(timm.get(key)) for key in ('mean', 'std'))
        if timm.get('crop_mode', 'center') == 'center':
            # As timm rounds it: 224 of 0.9 are 248.
            resize = int(max(size) / timm.get('crop_pct', 1.0))
    processor = _read(beside / PREPROCESSOR) if beside else {}
    if processor:
        mean, std = (_pixels(processor.get(f'image_{key}')) for key in ('mean', 'std'))
    return ModelCard(
        model=model,
        num_classes=num_classes,
        image_size=size,
        class_names=_class_names(config, hub_id, num_classes),
        resize=resize,
        mean=mean,
        std=std,
        source={
            'format': 'huggingface' if is_hf else 'timm',
            'hub_id': hub_id,
            'numerics': told,
        },
    )


def _hub_id(path: pathlib.Path, config: Mapping[str, Any]) -> str:
    """Returns the best name that is known: owner/repo, or architecture and tag.

    transformers' `_name_or_path` is none: it names what a model was fine-tuned from.
    """
    for part in path.parts:  # the hub's cache
        if match := re.fullmatch(r'models--([^/]+?)--(.+)', part):
            return f'{match[1]}/{match[2]}'
    tag = (config.get('pretrained_cfg') or {}).get('tag')
    if config.get('architecture'):
        return f'{config["architecture"]}.{tag}' if tag else config['architecture']
    return path.stem if path.is_file() and path.name != WEIGHTS else path.name


def _numerics(
    weights: Weights, config: Mapping[str, Any], hub_id: str, num_classes: int
) -> tuple[dict[str, Any], str]:
    """Returns fields of the model that differ from the published, and why."""
    # A tag alone is also that of what others have fine-tuned from those weights.
    trusted = '/' in hub_id or num_classes in (0, google_files.I1K, google_files.I21K)
    if trusted and google_files.google_trained(hub_id):
        return {}, (
            f'{hub_id} are weights that Google trained: tanh form of GELU and the '
            "original's epsilons, although the port computes others"
        )
    args = config.get('model_args') or {}
    activation = config.get('hidden_act') or args.get('act_layer') or 'gelu'
    if activation not in _GELU:
        raise ValueError(
            f'the activation {activation!r} is not known; expected one of '
            f'{", ".join(_GELU)}'
        )
    is_hf = 'layer_norm_eps' in config
    epsilon = float(config['layer_norm_eps']) if is_hf else 1e-6
    found: dict[str, Any] = {'gelu': _GELU[activation], 'norm_epsilon': epsilon}
    told = f'as the port computes: {found["gelu"]} GELU, LayerNorm epsilon {epsilon:g}'
    if 'conv_root/kernel' in weights:
        found |= {'resnet.norm_epsilon': 1e-5, 'resnet.standardize': 'variance'}
        told += ', GroupNorm epsilon 1e-05, kernels divided by the root of var + 1e-8'
    return found, told


def _fits(
    model: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], size: tuple
) -> bool:
    """Returns whether images of this size make as many tokens as there are."""
    try:
        grid = models.patch_grid(model, size)
    except ValueError:
        return False
    return math.prod(grid) == architecture.num_patches(shapes)


def _pixels(values: Any) -> tuple[float, ...] | float:
    """Returns a mean or deviation for pixels of 0 … 255 from one for 0 … 1."""
    if not values:
        return 127.5
    found = tuple(255 * float(value) for value in values)
    return found[0] if len(set(found)) == 1 else found


def _class_names(
    config: Mapping[str, Any], hub_id: str, num_classes: int
) -> list[str] | tuple[str, ...] | None:
    labels = config.get('id2label') or {}
    if len(labels) == num_classes and num_classes:
        names = [str(labels.get(str(i), labels.get(i, ''))) for i in range(num_classes)]
        if all(names) and names[0] != 'LABEL_0':
            return names
    names = config.get('label_names')
    if names and len(names) == num_classes:
        described = config.get('label_descriptions') or {}
        return [str(described.get(name, name)) for name in names]
    tag = hub_id.rpartition('.')[2]
    on_imagenet = google_files.google_trained(hub_id) or tag.endswith(('in1k', 'in21k'))
    if on_imagenet and num_classes in (google_files.I1K, google_files.I21K):
        return imagenet.imagenet(num_classes)
    return None


# And back.


def save_timm(path: str | os.PathLike, params: Any, card: ModelCard) -> None:
    """Writes weights with timm's names.

    Args:
      path: a .safetensors, with our card beside it; or a folder, which becomes a
        repository as on the hub: `timm.create_model('local-dir:FOLDER')`.
      params: nested dict of arrays, or open `Weights`.
      card: of the model.

    Raises:
      ValueError: timm has no such model; all parameters without a place are listed.
      OSError: the disk is full, for instance.
    """
    path = pathlib.Path(path)
    arrays = ports.arrays(params, _timm_family(params, card.model))
    if path.suffix == '.safetensors':
        safetensors.save(path, arrays, {'format': 'pt'})
        card.save(path.with_suffix('.json'))
        return
    safetensors.save(path / WEIGHTS, arrays, {'format': 'pt'})
    _write(path / CONFIG, _timm_config(card))


def save_huggingface(folder: str | os.PathLike, params: Any, card: ModelCard) -> None:
    """Writes a folder that `ViTForImageClassification.from_pretrained` loads.

    Without a head it is one for `ViTModel`, whose pooler is pre_logits.

    Args:
      folder: for model.safetensors, config.json and preprocessor_config.json.
      params: nested dict of arrays, or open `Weights`.
      card: of the model.

    Raises:
      ValueError: transformers' ViT is not like this model (hybrids, Mixers, no class
        token, pre_logits before a head).
      OSError: the disk is full, for instance.
    """
    folder, model = pathlib.Path(folder), card.model
    weights = params if isinstance(params, Weights) else TreeWeights(params)
    head, pre_logits = 'head/kernel' in weights, 'pre_logits/kernel' in weights
    family = models.family_of(model)
    wrong = [
        what
        for what, is_so in {
            f'it is of the family {family.name}': family is not models.FAMILIES['vit'],
            'it has a ResNet root': bool(model.get('resnet')),
            'it has no class token': 'cls' not in weights,
            'pre_logits stand before its head': head and pre_logits,
            'its patches are not square': len(set(model['patches']['size'])) > 1,
        }.items()
        if is_so
    ]
    if wrong:
        raise ValueError(
            f"transformers' ViT cannot be this model: {', '.join(wrong)}. timm may: "
            'convert to timm instead.'
        )
    prefix = 'vit.' if head else ''
    arrays = ports.arrays(weights, 'Hugging Face ViT', prefix)
    safetensors.save(folder / WEIGHTS, arrays, {'format': 'pt'})
    transformer = model['transformer']
    names = card.class_names or [f'LABEL_{i}' for i in range(card.num_classes)]
    height, width = card.image_size
    config = {
        'architectures': ['ViTForImageClassification' if head else 'ViTModel'],
        'model_type': 'vit',
        'hidden_size': model['hidden_size'],
        'num_hidden_layers': transformer['num_layers'],
        'num_attention_heads': transformer['num_heads'],
        'intermediate_size': transformer['mlp_dim'],
        'hidden_act': ('gelu' if model.get('gelu') == 'exact' else 'gelu_pytorch_tanh'),
        'layer_norm_eps': model.get('norm_epsilon') or models.NORM_EPSILON,
        'hidden_dropout_prob': 0.0,
        'attention_probs_dropout_prob': 0.0,
        'image_size': height if height == width else [height, width],
        'patch_size': model['patches']['size'][0],
        'num_channels': weights.shape('embedding/kernel')[2],
        'qkv_bias': True,
    }
    if pre_logits:
        size = weights.shape('pre_logits/kernel')[1]
        config |= {'pooler_output_size': size, 'pooler_act': 'tanh'}
    if head:
        config['id2label'] = {str(i): name for i, name in enumerate(names)}
        # Of classes with one name, the last.
        config['label2id'] = {name: i for i, name in enumerate(names)}
    _write(folder / CONFIG, config)
    channels = config['num_channels']
    _write(
        folder / PREPROCESSOR,
        {
            'image_processor_type': 'ViTImageProcessor',
            'do_resize': True,
            'size': {'height': height, 'width': width},
            'resample': 2,  # bilinear; PIL smooths where it shrinks, we do not
            'do_rescale': True,
            'rescale_factor': 1 / 255,
            'do_normalize': True,
            'image_mean': _unit(card.mean, channels),
            'image_std': _unit(card.std, channels),
        },
    )


def _timm_family(params: Any, model: Mapping[str, Any]) -> str:
    if models.family_of(model) is models.FAMILIES['mixer']:
        return 'timm Mixer'
    resnet = model.get('resnet')
    if not resnet:
        return 'timm ViT'
    return 'timm hybrid' if resnet['num_layers'] else 'timm hybrid without stages'


_TIMM_MIXERS = {
    'Mixer-S_16': 'mixer_s16_224',
    'Mixer-S_32': 'mixer_s32_224',
    'Mixer-B_16': 'mixer_b16_224',
    'Mixer-B_32': 'mixer_b32_224',
    'Mixer-L_16': 'mixer_l16_224',
}
# timm's models whose sizes its own arguments then adjust.
_TIMM_HYBRIDS = {
    (): 'vit_tiny_r_s16_p8_224',
    (2, 2, 2, 2): 'vit_small_r26_s32_224',
    (3, 4, 9): 'vit_base_r50_s16_224',
    (3, 4, 6, 3): 'vit_large_r50_s32_224',
}


def _timm_config(card: ModelCard) -> dict[str, Any]:
    """Returns the config.json of a repository of timm."""
    model, (height, width) = card.model, card.image_size
    patch = tuple(model['patches']['size'])
    is_mixer = models.family_of(model) is models.FAMILIES['mixer']
    args: dict[str, Any] = {'img_size': [height, width]}
    # timm's Mixers take no name of an activation: there, theirs computes exact GELU.
    if model.get('gelu') != 'exact' and not is_mixer:
        args['act_layer'] = 'gelu_tanh'
    if is_mixer:
        facts = architecture.of_config(model)
        known = [
            name
            for name in _TIMM_MIXERS
            if architecture.of_config(models.get_config(name)) == facts
        ]
        if not known:
            raise ValueError(
                'timm makes Mixers of the published sizes only; write a .safetensors '
                'instead.'
            )
        name = _TIMM_MIXERS[known[0]]
    else:
        transformer, resnet = model['transformer'], model.get('resnet')
        name = 'vit_base_patch16_224'
        if resnet:
            units = tuple(resnet['num_layers'])
            if units not in _TIMM_HYBRIDS or resnet.get('width_factor', 1.0) != 1.0:
                raise ValueError(
                    f'timm has no hybrid with a root of {units} units and width '
                    f'{resnet.get("width_factor", 1.0)}; write a .safetensors instead.'
                )
            name = _TIMM_HYBRIDS[units]
        else:
            args['patch_size'] = patch[0] if len(set(patch)) == 1 else list(patch)
        args |= {
            'embed_dim': model['hidden_size'],
            'depth': transformer['num_layers'],
            'num_heads': transformer['num_heads'],
        }
        if not resnet:
            args['mlp_ratio'] = transformer['mlp_dim'] / model['hidden_size']
        if model.get('classifier') == 'gap':
            args |= {'class_token': False, 'global_pool': 'avg', 'fc_norm': False}
    config = {
        'architecture': name,
        'num_classes': card.num_classes,
        'global_pool': args.get('global_pool', 'token'),
        'model_args': args,
        'pretrained_cfg': {
            'input_size': [3, height, width],
            'mean': _unit(card.mean, 3),
            'std': _unit(card.std, 3),
            'crop_pct': max(height, width) / card.resize if card.resize else 1.0,
            'crop_mode': 'center' if card.resize else 'squash',
            'interpolation': 'bilinear',
            'num_classes': card.num_classes,
        },
    }
    if card.class_names:
        config['label_names'] = list(card.class_names)
    return config


def _unit(values: Any, channels: int) -> list[float]:
    """Returns a mean or deviation for pixels of 0 … 1, one for each channel."""
    values = values if isinstance(values, tuple) else (values,) * channels
    return [value / 255 for value in values]


def _write(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False)
    with atomic.replacing(path) as file:
        file.write(f'{text}\n'.encode())
