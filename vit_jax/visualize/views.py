"""What there is to look at in a model: from parameters and photos to arrays.

Each function is one view. One that a model does not offer, as attention in an
MLP-Mixer, is an `Absent`, which says why.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util
from jaxtyping import Float, Int, UInt8

from vit_jax import data, models
from vit_jax.checkpoint import ModelCard, num_channels
from vit_jax.inference.predictor import Predictor
from vit_jax.models import resnet
from vit_jax.visualize import attention_maps
from vit_jax.visualize import filters as filters_lib
from vit_jax.visualize import positions as positions_lib

# What the attention weights of the batches under way may take, in bytes. More layers
# than fit are computed in several passes.
_BUDGET = 1 << 30
# Batches under way: two on the device, one on the host.
_UNDER_WAY = 3


class Absent(ValueError):  # noqa: N818 (it is an answer, not a failure)
    """The model has nothing of what a view shows."""


@dataclasses.dataclass(frozen=True)
class Filters(filters_lib.Components):
    """Principal components of the filters of a layer.

    Attributes:
        layer: its name in the parameter tree.
    """

    layer: str


@dataclasses.dataclass(frozen=True)
class Attention:
    """Attention of a model in images, in the order of the source.

    Attributes:
        index: (b,) the images' places in the source; those that do not decode are
            missing.
        distance: (b l k) mean attention distance of each layer and head, in pixels of
            the model's input.
        rollout: (b h w) the part of the head's input that comes from each patch; each
            map sums to one.
        patch: (height, width) of a patch in pixels.
    """

    index: Int[np.ndarray, ' b']
    distance: Float[np.ndarray, 'b l k']
    rollout: Float[np.ndarray, 'b h w']
    patch: tuple[float, float]


def filters(params: Mapping, card: ModelCard, count: int = 28) -> Filters:
    """Returns the principal components of the filters that see the image.

    They are those of the patch embedding; of a hybrid, those of its ResNet's first
    convolution, standardised as in the forward pass.

    Args:
        params: of the model, nested.
        card: of the model.
        count: how many components.

    Raises:
        Absent: nobody knows which they are.
    """
    flat = _flat(params)
    name = models.input_kernel(flat)
    if name is None:
        raise Absent(f'{_name(card)} names no filters that see the image')
    kernel = np.asarray(flat[name])
    if root := card.model.get('resnet'):
        by = dict(root).get('standardize') or 'deviation'
        kernel = np.asarray(resnet.standardize(kernel, by))
    found = filters_lib.principal_components(kernel, count)
    return Filters(found.components, found.variance, name.rpartition('/')[0])


def positions(params: Mapping, card: ModelCard) -> positions_lib.Similarity:
    """Returns the similarities of the position embeddings.

    Raises:
        Absent: the model has none.
    """
    family = models.family_of(card.model)
    embedding = _flat(params).get(family.position_embedding)
    if embedding is None:
        raise Absent(f'{_name(card)} has no position embeddings')
    grid = models.patch_grid(card.model, card.image_size)
    return positions_lib.similarity(np.asarray(embedding)[0], grid)


def token_mixing(
    params: Mapping, card: ModelCard, blocks: int = 3, count: int = 64
) -> dict[str, Float[np.ndarray, 'i h w']]:
    """Returns what hidden units of the first token-mixing MLPs gather, by block.

    Raises:
        Absent: the model is no MLP-Mixer.
    """
    family = models.family_of(card.model)
    if not family.token_kernel:
        raise Absent(f'{_name(card)} does not mix tokens by an MLP')
    grid = models.patch_grid(card.model, card.image_size)
    end = f'/{family.token_kernel}'
    kernels = {
        name.removesuffix(end): np.asarray(kernel)
        for name, kernel in _flat(params).items()
        if name.endswith(end) and family.block_of(name) < blocks
    }
    return {
        block: filters_lib.token_mixing(kernel, grid, count)
        for block, kernel in kernels.items()
    }


def attention_layers(predictor: Predictor) -> list[str]:
    """Returns the names of the attention weights (k n n), the first layer first.

    Raises:
        Absent: the model has no attention.
    """
    family = models.family_of(predictor.card.model)
    end = f'/{family.attention}/attention_weights'
    layers = [name for name in predictor.feature_names() if name.endswith(end)]
    if not layers:
        raise Absent(f'{_name(predictor.card)} has no attention')
    return sorted(layers, key=family.block_of)


def attention(
    predictor: Predictor,
    source: data.Source,
    *,
    batch: int = 32,
    skip_corrupt: bool = False,
    budget: int = _BUDGET,
) -> Attention:
    """Returns how attention looks at images, which enter as in evaluation.

    The weights are those that the forward pass computes. From the last layer to the
    first, as rollout needs them; as many at once as fit into `budget`.

    Args:
        predictor: the model.
        source: the images.
        batch: how many are computed at once, at most.
        skip_corrupt: leave out images that do not decode, instead of raising.
        budget: bytes of attention weights in memory.

    Raises:
        Absent: the model has no attention.
        ValueError: no image decodes.
    """
    card = predictor.card
    layers = attention_layers(predictor)
    grid = models.patch_grid(card.model, card.image_size)
    patch = tuple(s / n for s, n in zip(card.image_size, grid, strict=True))
    num_heads, num_tokens, _ = shape = predictor.feature_names()[layers[0]]
    bytes_each = 4 * math.prod(shape) * _UNDER_WAY
    devices = predictor.mesh.size
    batch = min(batch, max(devices, budget // (bytes_each * len(layers))), len(source))
    rows = -(-batch // devices) * devices
    at_once = max(1, budget // (bytes_each * rows))

    prefix = num_tokens - grid[0] * grid[1]
    parts = attention_maps.rollout_start(len(source), num_tokens, prefix)
    distance = np.zeros((len(source), len(layers), num_heads), np.float32)
    for stop in range(len(layers), 0, -at_once):
        group = range(max(0, stop - at_once), stop)
        names = [layers[layer] for layer in group]
        seen = []
        for out in predictor.outputs(
            source, names, batch=batch, skip_corrupt=skip_corrupt
        ):
            index = out['index']
            seen.append(index)
            for layer in reversed(group):
                weights = out[layers[layer]]
                distance[index, layer] = attention_maps.mean_distance(
                    weights, grid, patch
                )
                parts[index] = attention_maps.rollout_step(parts[index], weights)
    index = np.concatenate(seen)
    if not len(index):
        raise ValueError('there is nothing to look at: none of the images decodes')
    rollout = attention_maps.rollout_map(parts[index], grid)
    return Attention(index, distance[index], rollout, patch)


def picture(example: data.Example, params: Mapping) -> UInt8[np.ndarray, 'h w 3']:
    """Returns an example's pixels to be looked at.

    Of images with other channels than red, green and blue, the mean of all, in grey.

    Raises:
        UndecodableImage: a file that does not decode.
    """
    channels = num_channels(params)
    if channels in (1, 3):
        return data.pixels(example['image'], example['name'])
    pixels = data.pixels(example['image'], example['name'], channels)
    return pixels.mean(axis=-1, keepdims=True).repeat(3, axis=-1).astype(np.uint8)


def visible_part(
    pixels: UInt8[np.ndarray, 'h w c'], card: ModelCard
) -> UInt8[np.ndarray, 'H W c']:
    """Returns the part of a photo that the model sees, at the photo's resolution.

    All of it, squeezed into another aspect ratio, or with `card.resize` the middle.
    """
    if card.resize is None:
        return pixels
    height, width = pixels.shape[:2]
    # As data/images/ops.py does it: the shorter side to `resize`, larger where the crop
    # asks for more.
    scale = max(
        card.resize / min(height, width),
        card.image_size[0] / height,
        card.image_size[1] / width,
    )
    h, w = (
        max(1, min(side, round(crop / scale)))
        for side, crop in zip((height, width), card.image_size, strict=True)
    )
    top, left = (height - h) // 2, (width - w) // 2
    return pixels[top : top + h, left : left + w]


def _flat(params: Mapping) -> dict[str, Any]:
    return traverse_util.flatten_dict(dict(params), sep='/')


def _name(card: ModelCard) -> str:
    return card.model.get('model_name') or 'this model'
