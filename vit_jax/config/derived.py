"""The keys that depend on the data and on the weights."""

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vit_jax.words.units import MID_GREY

# What a port computes differently from the original; see models.VisionTransformer.
NUMERICS = (
    'model.gelu',
    'model.norm_epsilon',
    'model.resnet.norm_epsilon',
    'model.resnet.standardize',
)


def set_model(config: ConfigDict, name: str) -> None:
    """Gives a recipe a published model, ready to be fine-tuned.

    Args:
        config: the recipe.
        name: as in `models.get_config`.
    """
    from vit_jax import models

    config.model = models.get_config(name)
    config.model.head_init = 'zeros'
    # None: as in the pretrained weights, which a port may have trained with others.
    config.model.gelu = placeholder(str)
    config.model.norm_epsilon = placeholder(float)


def inherit_numerics(
    config: ConfigDict, card: Any | None, before: Mapping[str, Any]
) -> dict[str, Any]:
    """Sets what a configuration leaves to the pretrained weights; returns it by key.

    Args:
        config: where the keys below are None, or are not there.
        card: a `ModelCard` of the weights, or None.
        before: flat configuration of the run that goes on; {} for a new one.
    """
    found: dict[str, Any] = {}
    for key in NUMERICS:
        *scopes, leaf = key.split('.')
        scope = config
        for name in scopes:
            scope = scope.get(name) if scope is not None else None
        if scope is None or scope.get(leaf) is not None:
            continue
        value = before.get(key) if before else _of_card(card, key)
        if value is not None:
            found[key] = value
            with scope.unlocked(), scope.ignore_type():
                scope[leaf] = value
    for key in ('mean', 'std'):
        if config.pp[key] is None:
            value = before.get(f'pp.{key}') or getattr(card, key, MID_GREY)
            value = tuple(value) if isinstance(value, Iterable) else (value,)
            if len(value) not in (1, config.pp.channels):
                # The mean of red, green and blue is the best guess for others.
                value = (sum(value) / len(value),)
            config.pp[key] = value
            if value != (MID_GREY,):
                found[f'pp.{key}'] = value
    return found


def _of_card(card: Any | None, key: str) -> Any:
    value = None if card is None else {'model': card.model}
    for name in key.split('.'):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def choose_splits(
    pp: ConfigDict,
    sizes: Mapping[str, int],
    complement: Callable[[str], str | None],
) -> dict[str, str | None]:
    """Decides which examples train, which select, and which only judge.

    What is not 'auto' stays as it is. Otherwise test is the dataset's test split,
    or its validation split where there is no other, or the last `pp.holdout` of
    train; val is the validation split where test has not taken it, or what
    `pp.train` leaves out of train; train is what is left.

    Args:
        pp: `config.pp`.
        sizes: number of examples by split.
        complement: from a split string to what it leaves out of its split, or None.

    Returns:
        Split strings by 'train', 'val' and 'test'.

    Raises:
        ValueError: there is no split to train on.
    """
    if pp.train == 'auto' and 'train' not in sizes:
        raise ValueError(
            f'This dataset has no split named train, but {", ".join(sizes)}. Name '
            'the splits: --config.pp.train=…, --config.pp.val=…, --config.pp.test=…'
        )
    held_out = round(100 * pp.holdout)
    train, val, test = pp.train, pp.val, pp.test
    end = 100
    if test == 'auto':
        test = next((name for name in ('test', 'validation') if name in sizes), None)
        if test is None and train == 'auto':
            test, end = f'train[{100 - held_out}%:]', 100 - held_out
    if val == 'auto':
        if 'validation' in sizes and test != 'validation':
            val = 'validation'
        elif train == 'auto':
            val, end = f'train[{end - held_out}%:{end}%]', end - held_out
            val = val.replace(':100%', ':')
        else:
            # Test, where it is a part of train as well, is not val's to look at.
            taken = f'{train}+{test}' if (test or '').startswith('train') else train
            val = complement(taken)
    if train == 'auto':
        train = 'train' if end == 100 else f'train[:{end}%]'
    return {'train': train, 'val': val, 'test': test}


def resolve(
    config: ConfigDict, *, num_examples: int, num_devices: int = 1
) -> dict[str, Any]:
    """Returns values for the keys that are None and depend on the data.

    The number of steps follows the BiT hyper-rule (Kolesnikov et al., 2020, section
    3.3): 500 for fewer than 20,000 examples, 10,000 below 500,000, else 20,000. A
    tenth of them warm up, at most 500, as in all published runs. The batch is 512,
    or for small datasets the power of two nearest below a quarter of the examples;
    parts of it hold at most 64 images, which is what the original's 8 parts of 512
    come to. Images are 384 pixels wide from 10,000 examples on, otherwise 224, or the
    most below that the model's patches cover (378 for ViT-H_14).

    Args:
        config: a configuration with `None` where a value shall be found.
        num_examples: how many examples train.
        num_devices: how many devices share a part of a batch.

    Returns:
        The values found, by key (`pp.crop` by its dotted name).
    """
    found: dict[str, Any] = {}

    def value(key: str, compute: Any) -> Any:
        if config[key] is None:
            found[key] = compute()
        return found.get(key, config[key])

    def default_batch() -> int:
        power = 2 ** int(math.log2(max(1, num_examples // 4)))
        return -(-min(512, power) // num_devices) * num_devices

    def default_parts() -> int:
        wanted = range(max(1, batch // 64), 0, -1)
        return next((n for n in wanted if batch % (n * num_devices) == 0), 1)

    def default_steps() -> int:
        return next(
            steps
            for limit, steps in ((20_000, 500), (500_000, 10_000), (math.inf, 20_000))
            if num_examples < limit
        )

    batch = value('batch', default_batch)
    value('accum_steps', default_parts)
    total_steps = value('total_steps', default_steps)
    value('warmup_steps', lambda: min(500, total_steps // 10))
    if config.pp.size is None and config.pp.crop is None:
        wanted = 384 if num_examples >= 10_000 else 224
        found['pp.crop'] = largest_crop(config.model, wanted)
    return found


def largest_crop(model_config: ConfigDict, wanted: int) -> int:
    """Returns the side of the largest square, up to `wanted`, that a model takes."""
    from vit_jax import models

    for side in range(wanted, 0, -1):
        with contextlib.suppress(ValueError):
            models.patch_grid(model_config, (side, side))
            return side
    raise ValueError(
        f'{model_config.model_name} takes no images up to {wanted} pixels.'
    )
