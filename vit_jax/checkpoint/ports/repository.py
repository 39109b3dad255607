"""What stands beside weights on the Hugging Face hub, as a model card; and the reverse.

What config.json says is for the ports to know, one file for each library.
"""

import json
import logging
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

log = logging.getLogger(__name__)

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


def open_port(path: pathlib.Path, num_heads: int | None = None) -> PortWeights:
    """Opens weights of another library, with a card of what stands beside them.

    Args:
      path: a .safetensors, or a folder with one and its config.json.
      num_heads: of the attention, if nothing there tells.

    Raises:
      ValueError: a file cannot be read, describes a model that is not known here, or
        another number of heads; or nothing tells it.
    """
    file = path if path.is_file() else path / WEIGHTS
    if card := find_card(file):
        told = card.model.get('transformer', {}).get('num_heads')
        return PortWeights(path, _agreed(num_heads, told, path), card)
    # Beside a file of another name there may be the config of another model.
    beside = path if path.is_dir() else path.parent if path.name == WEIGHTS else None
    config = _read(beside / CONFIG) if beside else {}
    processor = _read(beside / PREPROCESSOR) if beside else {}
    entries = translate.unwrapped(path)
    shapes = {name: entry.shape for name, entry in entries.items()}
    port = translate.port_of(shapes)
    try:
        description = port.describe(config) if port else Description()
        if description.refused:
            raise ValueError('; '.join(description.refused))
        told, width = description.num_heads, description.width
        if width and width != translate.width_of(shapes, port):
            told = None  # the name is that of another model
        heads = _agreed(num_heads, told, path)
        weights = PortWeights(path, heads, entries=entries)
        assumed = []
        if width and told and not num_heads:
            assumed.append(f'{told} attention heads, as {description.name} has')
        if heads is None:
            number, like = translate.default_heads(shapes, port)
            assumed += [f'{number} attention heads, as in {like}'] if like else []
        if processor:
            description = description._replace(**_preprocessing(processor))
        weights.card = _card(weights, port, description, config)
        if not config:
            assumed.append(weights.card.source['numerics'])
        if assumed:
            weights.card.source['assumed'] = ', '.join(assumed)
            log.info('%s does not tell: %s is assumed', path, ', '.join(assumed))
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


def _preprocessing(processor: Json) -> dict[str, Any]:
    """What a preprocessor_config.json says, for a `Description`.

    Raises:
      ValueError: it asks for what is not done here.
    """
    told: dict[str, Any] = {}
    # From pixels to what mean and deviation are for.
    factor = processor.get('rescale_factor', 1 / 255)
    scale = 1 / (255 * factor) if processor.get('do_rescale', True) else 1 / 255
    if processor.get('do_normalize', True):
        for key in ('mean', 'std'):
            if values := processor.get(f'image_{key}'):
                values = values if isinstance(values, list) else [values]
                told[key] = [scale * value for value in values]
    else:
        told |= {'mean': [0.0], 'std': [scale]}
    if processor.get('offset') or processor.get('do_flip_channel_order'):
        raise ValueError(
            f'{PREPROCESSOR}: offset and do_flip_channel_order are not done'
        )
    size, crop = processor.get('size'), processor.get('crop_size')
    if processor.get('do_center_crop'):
        size, outer = crop, size
        edge = outer.get('shortest_edge') if isinstance(outer, dict) else outer
        inner = _sides(crop)
        if not edge or not inner or max(inner) > edge:
            raise ValueError(
                f'{PREPROCESSOR}: a crop of {crop} from images of size {outer} is not '
                'done here; expected a shortest_edge and a crop within it'
            )
        told['crop'] = max(inner) / edge
    elif isinstance(size, dict) and 'shortest_edge' in size:
        raise ValueError(
            f'{PREPROCESSOR}: size is a shortest_edge without do_center_crop, which '
            'gives images of any shape; expected height and width'
        )
    if processor.get('do_resize', True) and (sides := _sides(size)):
        told['sizes'] = (sides,)
    return told


def _sides(size: Any) -> tuple[int, int] | None:
    """(height, width) of what libraries call a size; None: it is none."""
    if isinstance(size, dict) and {'height', 'width'} <= size.keys():
        return size['height'], size['width']
    return (size, size) if isinstance(size, int) else None


def _agreed(given: int | None, told: int | None, path: pathlib.Path) -> int | None:
    """The number of heads that is given, told, or both."""
    if None not in (given, told) and given != told:
        raise ValueError(
            f'{path}: num_heads is {given}, but what stands beside the weights says '
            f'{told}: leave it out'
        )
    return told if given is None else given


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
    pooling = description.pooling
    if 'cls' in shapes and pooling not in ('token', ''):
        raise ValueError(
            f'this model pools its tokens ({pooling}) although it has a '
            'class token, which no model here does'
        )
    if 'cls' not in shapes and config and pooling not in ('avg', 'token', ''):
        raise ValueError(
            f'this model pools its tokens by {pooling!r}; models here take their mean '
            "('avg')"
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
        with card.saved_before(path):
            safetensors.save(path, arrays, {'format': 'pt'})
        return
    files = port.files(card, weights)
    arrays = translate.arrays(weights, port)
    safetensors.save(path / WEIGHTS, arrays, {'format': 'pt'})
    for name, content in files.items():
        text = json.dumps(content, indent=2, ensure_ascii=False)
        with atomic.replacing(path / name) as file:
            file.write(f'{text}\n'.encode())
