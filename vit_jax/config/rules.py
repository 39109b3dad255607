"""What makes a configuration valid, said before any work starts.

What a single key can be stands in keys.py; here are the rules between keys, and those
that need a model.
"""

import os
import re
from collections.abc import Sequence

from ml_collections import ConfigDict

from vit_jax import models
from vit_jax.config.defaults import get, image_size
from vit_jax.config.derived import largest_crop
from vit_jax.config.keys import KEYS
from vit_jax.words.suggest import did_you_mean


def check(config: ConfigDict, *, num_devices: int = 1) -> None:
    """Raises a ValueError for what no run could do.

    Keys that are still None are not judged.
    """
    for name, key in KEYS.items():
        key.check(name, get(config, name))
    for rule in _RULES:
        rule(config)
    check_fsdp(config, num_devices)
    _parts_are_shared(config, num_devices)


def _trace_is_in_the_run(config: ConfigDict) -> None:
    steps = config.profile_steps
    if steps and config.total_steps is not None and steps[0] > config.total_steps:
        raise ValueError(
            f'config.profile_steps is {steps}, but the run ends with step '
            f'{config.total_steps}.'
        )


def _patience_has_val(config: ConfigDict) -> None:
    if config.early_stop and not (config.eval_every and config.pp.val is not None):
        raise ValueError(
            'config.early_stop watches val, but '
            'config.eval_every is 0 or config.pp.val is None.'
        )


def _pixels_are_bytes(config: ConfigDict) -> None:
    mean, std = config.pp.mean, config.pp.std
    if mean is None or std is None:
        return
    if 0 < max(mean) <= 1 or 0 < max(std) < 1:

        def scaled(values: Sequence[float]) -> str:
            unit = 255 if max(values) <= 1 else 1
            listed = ','.join(f'{unit * value:g}' for value in values)
            return f'{listed},' if len(values) == 1 else listed

        raise ValueError(
            f'config.pp.mean is {tuple(mean)} and config.pp.std {tuple(std)}: these '
            'are for pixels from 0 to 1, and pixels are from 0 to 255 here. Write '
            f"--config.pp.mean='({scaled(mean)})' --config.pp.std='({scaled(std)})'."
        )


def _head_is_from_weights(config: ConfigDict) -> None:
    if config.keep_head and config.pretrained is None:
        raise ValueError('config.keep_head is set, but config.pretrained is None.')


def _new_parameters_are_of_the_model(config: ConfigDict) -> None:
    if not config.new_parameters:
        return
    if config.pretrained is None:
        raise ValueError(
            f'config.new_parameters is {config.new_parameters!r}, but '
            'config.pretrained is None: all parameters are new.'
        )
    _named_parameters(config, 'new_parameters')


def _data_and_model_are_named(config: ConfigDict) -> None:
    if config.dataset is None:
        raise ValueError(
            'config.dataset is not set. Name a dataset or a folder of photos, as in '
            '--config=configs/vit.py:b16,cifar10 or --config.dataset=/path/to/photos.'
        )
    if not config.model:
        raise ValueError('config.model is empty; a recipe takes it from MODEL_CONFIGS.')


def _model_can_be_trained(config: ConfigDict) -> None:
    models.for_run(config, num_classes=2)  # refuses wrong values itself
    if config.model.get('classifier', 'token') not in ('token', 'gap'):
        raise ValueError(
            f'config.model.classifier is {config.model.classifier!r}, which gives '
            'features of all tokens; training needs token or gap.'
        )


def _patches_cover_images(config: ConfigDict) -> None:
    if config.pp.size is not None or config.pp.crop is not None:
        models.patch_grid(config.model, image_size(config))


def _channels_have_their_numbers(config: ConfigDict) -> None:
    for key in ('mean', 'std'):
        values = config.pp[key]
        if values is not None and (
            len(values) not in (1, config.pp.channels)
            or not all(isinstance(value, int | float) for value in values)
            or (key == 'std' and not all(values))
        ):
            raise ValueError(
                f'config.pp.{key} is {values}; it must be (one number,) or one for '
                f'each of the {config.pp.channels} channels, and std not 0.'
            )


def _crop_fits_resize(config: ConfigDict) -> None:
    if config.pp.resize is not None and image_size(config) != (None, None):
        longest = max(image_size(config))
        if config.pp.resize < longest:
            raise ValueError(
                f'config.pp.resize is {config.pp.resize}, smaller than the crop of '
                f'{longest} pixels that is cut from it; it must be at least that.'
            )


def _cache_can_be(config: ConfigDict) -> None:
    """Raises a ValueError for what no cache of images could be."""
    where, shrink = config.cache.where, config.cache.shrink
    if where is not None and where != 'memory':
        # Better than a new folder called 'memroy'.
        if '/' not in where and not os.path.isdir(where):
            raise ValueError(
                f'config.cache.where is {where!r}; it can be memory or a directory, '
                f'as in ./{where or "cache"}.{did_you_mean(where, ["memory"])}'
            )
        if os.path.exists(where) and not os.path.isdir(where):
            raise ValueError(
                f'config.cache.where is {where!r}, which is a file; it can be memory '
                'or a directory.'
            )
    if shrink is None:
        return
    if where is None:
        raise ValueError(
            f'config.cache.shrink is {shrink}, but config.cache.where is None: nothing '
            'is kept that could be shrunk.'
        )
    if config.pp.resize is not None and shrink < config.pp.resize:
        raise ValueError(
            f'config.cache.shrink is {shrink}, smaller than config.pp.resize = '
            f'{config.pp.resize}; it must be at least that.'
        )
    if image_size(config) != (None, None) and shrink < min(image_size(config)):
        raise ValueError(
            f'config.cache.shrink is {shrink}, smaller than the '
            f'{min(image_size(config))} pixels that the network sees; it must be at '
            'least that.'
        )


def _some_learn(config: ConfigDict) -> None:
    """Raises a ValueError unless some parameters are frozen and others can learn."""
    if not config.frozen:
        return
    names = parameter_names(config)
    frozen = _named_parameters(config, 'frozen')
    if frozen == set(names):
        raise ValueError(
            f'config.frozen is {config.frozen!r}, which is found in the names of all '
            "parameters: nothing would be trained. '^(?!head/)' leaves the head."
        )
    if (
        'head/kernel' in frozen
        and config.model.get('head_init', 'zeros') == 'zeros'
        and not config.keep_head
    ):
        raise ValueError(
            f'config.frozen is {config.frozen!r}, which freezes head/kernel at the '
            'zeros that a new head starts with: nothing before it would learn. Leave '
            'the head out, or keep that of the weights by config.keep_head.'
        )


def _named_parameters(config: ConfigDict, key: str) -> set[str]:
    """Returns the names of parameters in which a key's regular expression is found.

    Raises:
        ValueError: it is none, or found nowhere.
    """
    try:
        expression = re.compile(config[key])
    except re.error as error:
        raise ValueError(
            f'config.{key} is {config[key]!r}, which is no regular expression: {error}.'
        ) from error
    names = parameter_names(config)
    found = {name for name in names if expression.search(name)}
    if not found:
        scopes = ['/'.join(name.split('/')[:-1][:2]) or name for name in names]
        some = dict.fromkeys(re.sub(r'\d+', '*', scope) for scope in scopes)
        raise ValueError(
            f'config.{key} is {config[key]!r}, which is found in the name of no '
            f'parameter.{did_you_mean(config[key], names)} There are '
            f'{", ".join(some)}.'
        )
    return found


_RULES = (
    _pixels_are_bytes,
    _trace_is_in_the_run,
    _patience_has_val,
    _head_is_from_weights,
    _data_and_model_are_named,
    _new_parameters_are_of_the_model,
    _model_can_be_trained,
    _patches_cover_images,
    _channels_have_their_numbers,
    _crop_fits_resize,
    _cache_can_be,
    _some_learn,
)


def check_fsdp(config: ConfigDict, num_devices: int) -> None:
    """Raises a ValueError unless fsdp divides the devices."""
    if num_devices % config.sharding.fsdp:
        divisors = [n for n in range(1, num_devices + 1) if num_devices % n == 0]
        raise ValueError(
            f'config.sharding.fsdp is {config.sharding.fsdp}, which does not divide '
            f'the {num_devices} devices. Take one of {", ".join(map(str, divisors))}.'
        )


def _parts_are_shared(config: ConfigDict, num_devices: int) -> None:
    """Raises a ValueError unless parts of a batch are shared equally by devices."""
    if config.batch is None:
        return
    parts = config.accum_steps or 1
    if config.batch % parts:
        raise ValueError(
            f'config.batch is {config.batch}, which config.accum_steps = {parts} '
            'does not divide.'
        )
    multiple = parts * num_devices
    if config.batch // parts % num_devices:
        near = max(1, config.batch // multiple) * multiple
        raise ValueError(
            f'config.batch is {config.batch}, in config.accum_steps = {parts} '
            f'parts of {config.batch // parts} images, which the {num_devices} '
            'devices cannot share equally. Take a batch that is a multiple of '
            f'{multiple}, as --config.batch={near}.'
        )


def parameter_names(config: ConfigDict) -> list[str]:
    """Returns the names of a model's parameters, as published."""
    size = config.pp.size or (config.pp.crop or largest_crop(config.model, 224),) * 2
    return list(models.parameter_shapes(config.model, 2, size, config.pp.channels))
