"""Weights from a file into a model that may differ from the one they were made for."""

import logging
import math
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from vit_jax import models
from vit_jax.checkpoint import adapt, architecture, readers
from vit_jax.checkpoint import class_names as imagenet
from vit_jax.checkpoint import weights as weights_lib
from vit_jax.checkpoint.card import ModelCard
from vit_jax.checkpoint.weights import Weights

log = logging.getLogger(__name__)

Change = Callable[[np.ndarray], np.ndarray]
Config = architecture.Config


def load_pretrained(
    *,
    pretrained_path: str | os.PathLike,
    init_params: Mapping[str, Any],
    model_config: Config,
    image_size: Sequence[int] | None = None,
    keep_head: bool = False,
    class_names: Sequence[str] | None = None,
    new_parameters: str = '',
) -> dict[str, Any]:
    """Returns a new model's parameters, taken from published-format weights.

    All parameters of the model but a new head, and those that are said to be new, must
    be in the file, and no others.
    The two may differ in the number of classes (new head), in `pre_logits`, which a
    model without `representation_size` drops together with the old head, in the grid of
    the position embeddings, which are resized as the original does, and in the channels
    of the images, if the file's are three (`adapt.input_channels`).

    Parameters are read, adapted, cast, placed and freed one at a time.

    Args:
      pretrained_path: an .npz, or the folder of a finished run.
      init_params: nested dict of the new model's parameters; arrays, or
        `jax.ShapeDtypeStruct`s that tell shape, dtype and perhaps sharding. Blocks
        may be stacked for `scan_layers`.
      model_config: the new model's configuration, as in `models.MODEL_CONFIGS`.
      image_size: (height, width) of the new model's images; default: square.
      keep_head: take the head from the file too. The numbers of classes must agree,
        and the class names where both sides have them: the head is then reordered.
      class_names: the new model's class names, one per output. Those of the file
        stand in the card beside it.
      new_parameters: a regular expression; parameters in whose names it is found may
        be missing in the file. '': none.

    Returns:
      A nested dict like `init_params`, with its dtypes. Arrays lie where the leaf's
      `sharding` says, in host memory where a leaf has none. The leaves of a new head,
      and of other new parameters, are those of `init_params`, abstract ones included.

    Raises:
      ValueError: the file cannot be read, or it does not fit the model: the message
        lists each parameter that is missing, unexpected or misshapen.
    """
    with readers.open(pretrained_path) as weights:
        return fit(
            weights,
            init_params,
            model_config,
            image_size=image_size,
            keep_head=keep_head,
            class_names=class_names,
            new_parameters=new_parameters,
            place=_place,
        )


def fit(
    weights: Weights,
    init_params: Mapping[str, Any],
    model_config: Config,
    *,
    image_size: Sequence[int] | None,
    keep_head: bool,
    class_names: Sequence[str] | None,
    new_parameters: str = '',
    place: Callable[[np.ndarray, Any], Any],
) -> dict[str, Any]:
    """Does the work of `load_pretrained`; `place(array, leaf)` puts an array away."""
    card = weights.card
    leaves = traverse_util.flatten_dict(dict(init_params), sep='/')
    layers = {
        name: weights_lib.layers(name, np.shape(leaf)) for name, leaf in leaves.items()
    }
    wanted: dict[str, tuple[int, ...]] = {}
    for name, leaf in leaves.items():
        for member in layers[name] or [name]:
            wanted[member] = np.shape(leaf)[1 if layers[name] else 0 :]
    found = {name: weights.shape(name) for name in weights}

    changes: dict[str, Change] = {}
    new: set[str] = set()
    dropped: set[str] = set()
    if keep_head:
        order = _kept_head_order(weights.path, found, wanted, card, class_names)
        if order is not None:
            changes |= dict.fromkeys(adapt.HEAD, lambda array: array[..., order])
    else:
        new = wanted.keys() & set(adapt.HEAD)
        dropped = set(adapt.HEAD)
        if not wanted.keys() & set(adapt.PRE_LOGITS):
            dropped |= set(adapt.PRE_LOGITS)
    new |= _added(weights.path, found, wanted, layers, new_parameters)
    channels = _other_channels(found, wanted)
    _check_fit(weights.path, found, wanted, new, dropped, channels, model_config)
    for name, count in channels.items():
        changes[name] = lambda kernel, count=count: adapt.input_channels(kernel, count)
        log.info(
            '%s sees 3 channels, the model %d: its first kernel is %s.',
            weights.path,
            count,
            'summed over them' if count == 1 else f'repeated in turn, times 3/{count}',
        )
    embedding = models.family_of(model_config).position_embedding
    if embedding in wanted:
        changes[embedding] = _posemb_change(
            weights.path, found, wanted, model_config, card, image_size
        )

    def read(name: str) -> np.ndarray:
        return changes[name](weights[name]) if name in changes else weights[name]

    params = {}
    for name, leaf in leaves.items():
        if (layers[name] or [name])[0] in new:
            params[name] = leaf
        elif layers[name]:
            stacked = np.empty(leaf.shape, leaf.dtype)
            for i, member in enumerate(layers[name]):
                stacked[i] = read(member)
            params[name] = place(stacked, leaf)
        else:
            params[name] = place(read(name).astype(leaf.dtype, copy=False), leaf)
    return traverse_util.unflatten_dict(params, sep='/')


def _added(
    path: pathlib.Path,
    found: adapt.Shapes,
    wanted: adapt.Shapes,
    layers: Mapping[str, Sequence[str]],
    expression: str,
) -> set[str]:
    """Returns the parameters that are missing in a file and said to be new, and tells.

    Raises:
      ValueError: blocks are stacked, and only some of them have such a parameter.
    """
    if not expression:
        return set()
    missing = {name: wanted[name] for name in wanted if name not in found}
    added = {name for name in missing if re.search(expression, name)}
    for members in layers.values():
        if 0 < len(added.intersection(members)) < len(members):
            raise ValueError(
                f'{path} has {members[0]} in some blocks and not in others: stacked '
                'blocks cannot start so, take --config.scan_layers=False'
            )
    if added:
        lines = adapt.compare({}, {name: missing[name] for name in added})
        told = '\n  '.join(line.removeprefix('- missing: ') for line in lines)
        log.info('Not in %s, initialised as the model says:\n  %s', path, told)
    return added


def _check_fit(
    path: pathlib.Path,
    found: adapt.Shapes,
    wanted: adapt.Shapes,
    new: set[str],
    dropped: set[str],
    channels: Mapping[str, int],
    model_config: Config,
) -> None:
    """Raises a ValueError with the whole difference unless the two agree."""
    shapes = {name: shape for name, shape in found.items() if name not in dropped}
    embedding = models.family_of(model_config).position_embedding
    old, posemb = shapes.get(embedding, ()), wanted.get(embedding, ())
    if len(old) == len(posemb) == 3 and old[2] == posemb[2]:
        shapes[embedding] = posemb  # the number of positions may differ
    shapes |= {name: wanted[name] for name in channels}
    required = {name: shape for name, shape in wanted.items() if name not in new}
    lines = adapt.compare(shapes, required)
    if lines:
        name = model_config.get('model_name')
        raise ValueError(
            f'{path} does not fit the model{f" {name}" if name else ""}:\n  '
            + '\n  '.join(lines)
            + f'\n{architecture.remedy(found, model_config)}'
            + _if_new(shapes, required)
        )


def _if_new(shapes: adapt.Shapes, required: adapt.Shapes) -> str:
    """Returns what to type if all that is missing is meant to be new, or ''."""
    missing = [name for name in required if name not in shapes]
    if not missing or len(missing) == len(required) or shapes.keys() - required.keys():
        return ''
    ends = dict.fromkeys('/'.join(name.split('/')[-2:]) for name in missing)
    return (
        f"\nIf these are new in your model: --config.new_parameters='{'|'.join(ends)}' "
        'lets them start as the model says.'
    )


def _other_channels(found: adapt.Shapes, wanted: adapt.Shapes) -> dict[str, int]:
    """Returns the kernel to be brought from three to another number of channels."""
    name = models.input_kernel(wanted)
    old, new = found.get(name, ()), wanted.get(name, ())
    if len(old) != 4 or len(new) != 4 or old[2] != 3 or new[2] == 3:
        return {}
    return {name: new[2]} if (*old[:2], old[3]) == (*new[:2], new[3]) else {}


def _kept_head_order(
    path: pathlib.Path,
    found: adapt.Shapes,
    wanted: adapt.Shapes,
    card: ModelCard | None,
    class_names: Sequence[str] | None,
) -> list[int] | None:
    """Returns how to reorder the head's columns, None for not at all.

    Raises:
      ValueError: there is no head to keep, or the classes do not agree.
    """
    (*_, bias) = adapt.HEAD
    if bias not in wanted:
        raise ValueError('the model has no head (num_classes 0), so none can be kept')
    if bias not in found:
        raise ValueError(
            f'{path} has no head to keep; train a new one (keep_head=False)'
        )
    old, new = found[bias][0], wanted[bias][0]
    if old != new:
        raise ValueError(
            f'the head of {path} has {old} classes, the model {new}; it can be kept '
            'only where they agree. Train a new head (keep_head=False).'
        )
    if class_names is not None and len(class_names) != new:
        raise ValueError(f'{len(class_names)} class names for a model of {new} classes')
    if class_names is None or card is None or card.class_names is None:
        return None
    if card.num_classes != old:
        raise ValueError(
            f'the card beside {path} speaks of {card.num_classes} classes, but the '
            f'head has {old}: they do not belong together'
        )
    try:
        old_names = imagenet.as_named_by(class_names, card.class_names)
        return adapt.class_order(old_names, class_names)
    except ValueError as e:
        raise ValueError(f'{path}: {e}') from e


def _posemb_change(
    path: pathlib.Path,
    found: adapt.Shapes,
    wanted: adapt.Shapes,
    model_config: Config,
    card: ModelCard | None,
    image_size: Sequence[int] | None,
) -> Change:
    """Returns the function that brings the position embeddings to the new grid."""
    family = models.family_of(model_config)
    old, new = family.num_patches(found), family.num_patches(wanted)
    prefix = wanted[family.position_embedding][1] - new
    if old == new and image_size is None and card is None:
        return lambda posemb: posemb
    if image_size is None:
        new_grid = adapt.square_grid(new)
    else:
        new_grid = models.patch_grid(model_config, tuple(image_size))
        if math.prod(new_grid) != new:
            raise ValueError(
                f'an image of {tuple(image_size)} pixels has {new_grid} patches, but '
                f'init_params were made for {new}; give the same image size to both'
            )
    if card is None:
        try:
            old_grid = adapt.square_grid(old)
        except ValueError as e:
            raise ValueError(
                f'{path}: {e}. It is read from the model card (model.json) beside the '
                'weights.'
            ) from e
    else:
        old_grid = models.patch_grid(card.model, card.image_size)
        if math.prod(old_grid) != old:
            raise ValueError(
                f'{path} has {old} position embeddings, but the card beside it speaks '
                f'of {old_grid} patches: they do not belong together'
            )
    return lambda posemb: adapt.resize_posembed(posemb, old_grid, new_grid, prefix)


def _place(array: np.ndarray, leaf: Any) -> Any:
    """Puts an array where the leaf says, and waits: its source can be freed then."""
    sharding = getattr(leaf, 'sharding', None)
    if sharding is None:
        return array
    if sharding.is_fully_addressable:
        return jax.block_until_ready(jax.device_put(array, sharding))
    # Each host has read the file and places its own part; device_put would compare
    # the values across hosts first.
    return jax.make_array_from_callback(
        array.shape, sharding, lambda index: array[index]
    )
