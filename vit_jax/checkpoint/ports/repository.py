"""What stands beside weights on the Hugging Face hub, as a model card; and the reverse.

What config.json says is for the ports to know, one file for each library.
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
from vit_jax.checkpoint.ports import translate
from vit_jax.checkpoint.ports.port import Description, Json, Port
from vit_jax.checkpoint.ports.translate import PortWeights
from vit_jax.checkpoint.weights import TreeWeights, Weights
from vit_jax.files import atomic
from vit_jax.models.zoo import google_files
from vit_jax.words.units import MID_GREY

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


def open_port(path: pathlib.Path) -> PortWeights:
    """Opens weights of another library, with a card of what stands beside them.

    Args:
      path: a .safetensors, or a folder with one and its config.json.

    Raises:
      ValueError: a file cannot be read, or describes a model that is not known here.
    """
    file = path if path.is_file() else path / WEIGHTS
    if card := find_card(file):
        heads = card.model.get('transformer', {}).get('num_heads')
        return PortWeights(path, heads, card)
    # Beside a file of another name there may be the config of another model.
    beside = path if path.is_dir() else path.parent if path.name == WEIGHTS else None
    config = _read(beside / CONFIG) if beside else {}
    processor = _read(beside / PREPROCESSOR) if beside else {}
    port = translate.port_of(safetensors.entries(path))
    try:
        description = port.describe(config) if port else Description()
        weights = PortWeights(path, description.num_heads)
        if processor:
            mean, std = processor.get('image_mean'), processor.get('image_std')
            description = description._replace(mean=mean, std=std)
        weights.card = _card(weights, port, description, config)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f'{beside / CONFIG} describes a model in a way that is not known: {error!r}'
        ) from error
    except ValueError as error:
        text = str(error)
        raise ValueError(
            text if text.startswith(str(path)) else f'{path}: {text}'
        ) from error
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


def _card(
    weights: PortWeights, port: Port, description: Description, config: Json
) -> ModelCard:
    """Returns the card of weights with what their config.json says, if anything."""
    shapes = {name: weights.shape(name) for name in weights}
    model = architecture.config_of_weights(shapes)
    num_classes = shapes.get('head/bias', (0,))[0]
    hub_id = _hub_id(weights.path, description.name)
    if 'cls' in shapes and description.pooling not in ('token', ''):
        raise ValueError(
            f'this model pools its tokens ({description.pooling}) although it has a '
            'class token, which no model here does'
        )
    numerics, reason = _numerics(port, description, hub_id, num_classes)
    for key, value in numerics.items():
        scope, _, leaf = key.rpartition('.')
        (model[scope] if scope else model)[leaf] = value
    for size in description.sizes:
        size = (size, size) if isinstance(size, int) else tuple(size or ())
        if len(size) == 2 and _fits(model, shapes, size):
            break
    else:
        size = architecture.image_size(shapes, model)
    # As timm rounds it: 224 of 0.9 are 248.
    crop = description.crop
    return ModelCard(
        model=model,
        num_classes=num_classes,
        image_size=size,
        class_names=_class_names(config, hub_id, num_classes),
        resize=None if crop is None else int(max(size) / crop),
        mean=_pixels(description.mean),
        std=_pixels(description.std),
        source={'format': port.library, 'hub_id': hub_id, 'numerics': reason},
    )


def _hub_id(path: pathlib.Path, name: str) -> str:
    """Returns the best name that is known: owner/repo, or the model's own."""
    for part in path.parts:  # the hub's cache
        if match := re.fullmatch(r'models--([^/]+?)--(.+)', part):
            return f'{match[1]}/{match[2]}'
    return name or (path.stem if path.is_file() and path.name != WEIGHTS else path.name)


def _numerics(
    port: Port, description: Description, hub_id: str, num_classes: int
) -> tuple[dict[str, Any], str]:
    """Returns fields of the model that differ from the published, and why."""
    # A tag alone is also that of what others have fine-tuned from those weights.
    trusted = '/' in hub_id or num_classes in (0, google_files.I1K, google_files.I21K)
    if trusted and google_files.google_trained(hub_id):
        return {}, (
            f'{hub_id} are weights that Google trained: tanh form of GELU and the '
            "original's epsilons, although the port computes others"
        )
    if description.activation not in _GELU:
        raise ValueError(
            f'the activation {description.activation!r} is not known; expected one of '
            f'{", ".join(_GELU)}'
        )
    gelu, epsilon = _GELU[description.activation], description.norm_epsilon
    reason = f'as the port computes: {gelu} GELU, LayerNorm epsilon {epsilon:g}'
    return (
        {'gelu': gelu, 'norm_epsilon': epsilon, **port.numerics},
        ', '.join(filter(None, (reason, port.numerics_said))),
    )


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
        return MID_GREY
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


def save(path: str | os.PathLike, params: Any, card: ModelCard, library: str) -> None:
    """Writes weights with the names of another library.

    Args:
      path: a .safetensors, with our card beside it; or a folder, which becomes a
        repository as on the hub: `timm.create_model('local-dir:FOLDER')` or
        `ViTForImageClassification.from_pretrained(FOLDER)`.
      params: nested dict of arrays, or open `Weights`.
      card: of the model.
      library: 'timm' or 'huggingface'.

    Raises:
      ValueError: the library has no such model; all parameters without a place, or
        all that differs, are listed.
      OSError: the disk is full, for instance.
    """
    path = pathlib.Path(path)
    weights = params if isinstance(params, Weights) else TreeWeights(params)
    port = translate.port_for(library, weights)
    if path.suffix == '.safetensors':
        arrays = translate.arrays(weights, port)
        safetensors.save(path, arrays, {'format': 'pt'})
        card.save(path.with_suffix('.json'))
        return
    files = port.files(card, weights)
    arrays = translate.arrays(weights, port)
    safetensors.save(path / WEIGHTS, arrays, {'format': 'pt'})
    for name, content in files.items():
        text = json.dumps(content, indent=2, ensure_ascii=False)
        with atomic.replacing(path / name) as file:
            file.write(f'{text}\n'.encode())
