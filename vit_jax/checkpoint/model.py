"""From a run or a file of weights to a model that can be used, in one call."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util

from vit_jax import models
from vit_jax.checkpoint import adapt, architecture, augreg, pretrained, readers
from vit_jax.checkpoint.card import ModelCard
from vit_jax.checkpoint.weights import Weights


def load_model(
    reference: str | os.PathLike,
    *,
    best: bool | None = None,
    num_heads: int | None = None,
    num_classes: int | None = None,
    dtype: str = 'float32',
    image_size: tuple[int, int] | None = None,
) -> tuple[nn.Module, dict[str, Any], ModelCard]:
    """Returns (model, params, card) of anything the library can load.

    `model.apply({'params': params}, images, train=False)` gives the logits (b y) of
    images (b h w c) that are `(pixels - card.mean) / card.std`.

    Args:
      reference: the folder of a finished run, ours or the original's; a file (.npz or
        .safetensors) with its card beside it, or without: then its published name
        (`ViT-B_16.npz`, AugReg's names) or its shapes tell the model; a repository of
        timm or transformers; or an address of one of these: see `references`.
      best: of a run, True: the parameters that were best on val; False: the last
        ones; None: the best where val has chosen, else the last.
      num_heads: of the attention, for files of other libraries that do not tell.
      num_classes: None or that of the file keeps the head; 0 drops it: the model
        then returns the pre-logits (b d).
      dtype: dtype of the computation; the parameters are float32.
      image_size: (height, width) of the images; another one than the card's resizes
        the position embeddings, and the card that is returned says so.

    Raises:
      ValueError: the file is missing or unreadable, the run has not finished, nothing
        tells what the model is, or it and the weights do not agree.
    """
    with readers.open(reference, best=best, num_heads=num_heads) as weights:
        path = weights.path
        shapes = {name: weights.shape(name) for name in weights}
        card = weights.card = card_of(weights)
        if num_classes not in (None, 0, card.num_classes):
            raise ValueError(
                f'{path} has {card.num_classes} classes, not {num_classes}. To train '
                'it for other classes use load_pretrained; num_classes=0 gives '
                'features.'
            )
        outputs = card.num_classes if num_classes is None else num_classes
        model = models.from_config(card.model, num_classes=outputs, dtype=dtype)
        size = image_size or card.image_size
        card = dataclasses.replace(card, image_size=size)
        params = pretrained.fit(
            weights,
            models.weight_shapes(model, size, _channels(shapes)),
            card.model,
            image_size=size,
            keep_head=outputs > 0,
            class_names=card.class_names,
            # On the default device, but free to follow what it is computed with.
            place=lambda array, leaf: jax.block_until_ready(jax.device_put(array)),
        )
    return model, params, card


def card_of(weights: Weights) -> ModelCard:
    """Returns the card that came with weights, or else what they tell themselves.

    A published name tells the model; otherwise the shapes do.

    Raises:
      ValueError: they are those of no network that is known.
    """
    if weights.card is not None:
        return weights.card
    path = weights.path
    shapes = {name: weights.shape(name) for name in weights}
    config = architecture.config_from_name(path.stem)
    if config is None:
        try:
            config = architecture.config_of_weights(shapes)
        except ValueError as e:
            raise ValueError(
                f'{path}: {e}, there is no card (model.json) beside it, and its name '
                "is not that of a published model. Name a run's folder, or a file such "
                'as ViT-B_16.npz.'
            ) from e
    config = models.family_of(config).refine(config, shapes)
    try:
        size = architecture.image_size(shapes, config)
    except ValueError as e:
        raise ValueError(f'{path}: {e}') from e
    num_classes = shapes.get('head/bias', (0,))[0]
    return ModelCard(
        model=config,
        num_classes=num_classes,
        image_size=size,
        class_names=augreg.class_names(path.stem, num_classes),
        source={'file': path.name, **augreg.source(path.stem)},
    )


def num_channels(params: Mapping[str, Any]) -> int:
    """Returns how many channels the images of a model with these parameters have."""
    flat = traverse_util.flatten_dict(dict(params), sep='/')
    return _channels({name: np.shape(array) for name, array in flat.items()})


def _channels(shapes: adapt.Shapes) -> int:
    kernel = shapes.get(models.input_kernel(shapes), ())
    return kernel[2] if len(kernel) == 4 else 3


def without_head(card: ModelCard) -> ModelCard:
    """Returns the card of the same weights after the head has been left out."""
    return dataclasses.replace(card, num_classes=0, class_names=None)
