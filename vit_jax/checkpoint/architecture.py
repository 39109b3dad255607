"""Which network a file of weights belongs to, told from its shapes or its name."""

import math
import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vit_jax import models
from vit_jax.checkpoint import adapt
from vit_jax.models.family import Facts, Family, Shapes

_INCOMPLETE = 'The file seems to be incomplete, or made by other code.'
# The largest number of pixels that one patch of a known network covers, per side.
_MAX_PATCH = 64

Config = Mapping[str, Any] | ConfigDict


def of_weights(shapes: Shapes) -> Facts | None:
    """Returns what distinguishes a network, read from a file's shapes.

    Among them is its family. A fact that the file does not tell is None; the whole is
    None for a file of no known family.
    """
    for family in models.known_families():
        if family.facts_of_shapes and (facts := family.facts_of_shapes(shapes)):
            return {'family': family.name, **facts}
    return None


def of_config(model_config: Config) -> Facts:
    """Returns the same facts of a model's configuration."""
    family = models.family_of(model_config)
    return {'family': family.name, **family.facts_of_config(model_config)}


def true_name(model_config: Config) -> str | None:
    """Returns a model's name; or what it is, if it bears a published name wrongly.

    A recipe's `ViT-Ti_16` of another depth is none that anybody has published.
    """
    name = model_config.get('model_name')
    if name not in models.MODEL_CONFIGS:
        return name
    facts = of_config(model_config)
    if facts == of_config(models.MODEL_CONFIGS[name]):
        return name
    family = facts.pop('family')
    told = ', '.join(
        f'{key} {_show(value)}' for key, value in facts.items() if value is not None
    )
    return f'{family} ({told})'


def config_of_weights(shapes: Shapes) -> dict[str, Any]:
    """Returns the configuration of the network that has these weights.

    It carries the name of the zoo's model of this architecture, if there is one, and
    its dropout rates; otherwise no name and no dropout.

    Raises:
        ValueError: the weights are those of no known family.
    """
    facts = of_weights(shapes)
    if facts is None or None in (facts.get('width', 0), *facts.get('patch', ())):
        raise ValueError(f'these are not the weights of a {_known()}')
    if names := matching_models(shapes):
        config = models.get_config(names[0]).to_dict()
    else:
        (family,) = (f for f in models.known_families() if f.name == facts['family'])
        config = family.config_of_facts(facts)
    return models.family_of(config).refine(config, shapes)


def num_patches(shapes: Shapes) -> int:
    """Returns how many patches the weights have positions for; 0 if they have none."""
    return max(family.num_patches(shapes) for family in models.known_families())


def image_size(shapes: Shapes, model_config: Config) -> tuple[int, int]:
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


def matching_models(shapes: Shapes) -> list[str]:
    """Returns the names of the zoo's models that have these weights' architecture."""
    facts = of_weights(shapes)
    return [
        name
        for name, config in models.MODEL_CONFIGS.items()
        if of_config(config) == facts
    ]


def remedy(shapes: Shapes, model_config: Config) -> str:
    """Says, after a failed merge, what the weights are and what to do."""
    family = models.family_of(model_config)
    if family.facts_of_shapes is None:
        return _INCOMPLETE
    found, wanted = of_weights(shapes), of_config(model_config)
    if found is None:
        return f'These are not the weights of a {_known()} with published names.'
    differ = [key for key in wanted if found.get(key) != wanted[key]]
    if found['family'] != wanted['family']:
        differ = ['family']
    elif not differ and family.token_kernel:
        return _remedy_by_size(family, shapes, found['patch'])
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
    return _INCOMPLETE


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


def _remedy_by_size(family: Family, shapes: Shapes, patch: tuple[int, int]) -> str:
    """Says which images weights are for that know the number of tokens."""
    tokens = family.num_patches(shapes)
    side = math.isqrt(tokens)
    bound = f'The weights of an {family.name} are bound to their number of tokens'
    if not side or side * side != tokens:
        return f'{bound}, {tokens} in the file.'
    height, width = side * patch[0], side * patch[1]
    key = f'pp.crop={height}' if height == width else f"pp.size='({height}, {width})'"
    return (
        f'{bound}: the file has {tokens}, which are images of {height}x{width} pixels. '
        f'Set --config.{key}. (Vision Transformers take other sizes.)'
    )


def _known() -> str:
    return ' or '.join(f.name for f in models.known_families() if f.facts_of_shapes)


def _show(fact: Any) -> str:
    if isinstance(fact, bool):
        return 'yes' if fact else 'no'
    return 'x'.join(map(str, fact)) if isinstance(fact, tuple) else str(fact)
