"""What makes a configuration valid, said before any work starts."""

import os
import re
from collections.abc import Iterable

import jax
from flax import traverse_util
from ml_collections import ConfigDict

from vit_jax import models
from vit_jax.config.derived import largest_crop
from vit_jax.config.keys import (
    ATTENTIONS,
    COMPUTE_DTYPES,
    DECAY_TYPES,
    OPTIM_DTYPES,
    OPTIMIZERS,
    REMAT,
    TRAINERS,
    image_size,
    nearest,
)


def check(config: ConfigDict, *, num_devices: int = 1) -> None:
    """Raises a ValueError for what no run could do; see `check_resolved` as well.

    Keys that are still None are not judged.
    """

    def one_of(key: str, allowed: Iterable[str]) -> None:
        if config[key] not in allowed:
            raise ValueError(
                f'config.{key} is {config[key]!r}; it can be one of '
                f'{", ".join(allowed)}.{nearest(str(config[key]), allowed)}'
            )

    def at_least(minimum: float, *keys: str) -> None:
        for key in keys:
            value = config
            for part in key.split('.'):
                value = value[part]
            if value is not None and not value >= minimum:
                raise ValueError(
                    f'config.{key} is {value}; it must be at least {minimum}.'
                )

    one_of('trainer', TRAINERS)
    one_of('optimizer', OPTIMIZERS)
    one_of('decay_type', DECAY_TYPES)
    one_of('dtype', COMPUTE_DTYPES)
    one_of('optim_dtype', OPTIM_DTYPES)
    one_of('remat', REMAT)
    one_of('attention', ATTENTIONS)
    at_least(1, 'batch', 'batch_eval', 'accum_steps', 'total_steps', 'prefetch')
    at_least(1, 'keep_checkpoints', 'sharding.fsdp', 'pp.crop', 'pp.resize')
    at_least(1, 'num_threads', 'pp.channels', 'cache.shrink')
    at_least(0, 'warmup_steps', 'eval_every', 'progress_every', 'checkpoint_every')
    at_least(0, 'few_shot.every', 'show_images')
    at_least(0, 'early_stop', 'num_workers', 'weight_decay', 'base_lr', 'pp.min_area')
    if not 0.01 <= config.pp.holdout < 0.5:
        raise ValueError(
            f'config.pp.holdout is {config.pp.holdout}; it is the fraction held out '
            'for each of val and test, from 0.01 to below 0.5.'
        )
    if not config.grad_norm_clip > 0:
        raise ValueError(
            f'config.grad_norm_clip is {config.grad_norm_clip}; it must be positive '
            '(a very large value clips nothing).'
        )
    if not 0 < config.pp.min_area <= 1:
        raise ValueError(
            f'config.pp.min_area is {config.pp.min_area}; it is a fraction of the '
            'image, above 0 and at most 1.'
        )
    if not 0 <= config.seed < 2**32:
        raise ValueError(f'config.seed is {config.seed}; it must be from 0 to 2³² - 1.')
    if not 0 < config.layer_decay <= 1:
        raise ValueError(
            f'config.layer_decay is {config.layer_decay}; it must be above 0 and at '
            'most 1, which is without decay.'
        )
    if not all(isinstance(n, int) and n > 0 for n in config.few_shot.shots or (0,)):
        raise ValueError(
            f'config.few_shot.shots is {config.few_shot.shots}; it must be numbers of '
            'images per class, as (1, 5, 10, 25).'
        )
    steps = config.profile_steps
    if steps and not (
        len(steps) == 2
        and all(isinstance(step, int) for step in steps)
        and 1 <= steps[0] <= steps[1]
    ):
        raise ValueError(
            f'config.profile_steps is {steps}; it must be the first and the last step '
            'of a trace, as 10,20, or () for none.'
        )
    if steps and config.total_steps is not None and steps[0] > config.total_steps:
        raise ValueError(
            f'config.profile_steps is {steps}, but the run ends with step '
            f'{config.total_steps}.'
        )
    if config.early_stop and not (config.eval_every and config.pp.val is not None):
        raise ValueError(
            'config.early_stop watches val, but '
            'config.eval_every is 0 or config.pp.val is None.'
        )
    if config.keep_head and config.pretrained is None:
        raise ValueError('config.keep_head is set, but config.pretrained is None.')
    if config.dataset is None:
        raise ValueError(
            'config.dataset is not set. Name a dataset or a folder of photos, as in '
            '--config=configs/vit.py:b16,cifar10 or --config.dataset=/path/to/photos.'
        )
    if not config.model:
        raise ValueError('config.model is empty; a recipe takes it from MODEL_CONFIGS.')
    models.from_config(config.model, num_classes=2)  # refuses wrong values itself
    if config.attention != 'auto' and 'transformer' not in config.model:
        raise ValueError(
            f'config.attention is {config.attention!r}, but a Mixer has no attention; '
            "leave it at 'auto'."
        )
    if config.model.get('classifier', 'token') not in ('token', 'gap'):
        raise ValueError(
            f'config.model.classifier is {config.model.classifier!r}, which gives '
            'features of all tokens; training needs token or gap.'
        )
    size = config.pp.size
    if size is not None and (
        len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size)
    ):
        raise ValueError(
            f'config.pp.size is {size}; it must be (height, width) in pixels.'
        )
    if size is not None or config.pp.crop is not None:
        models.patch_grid(config.model, image_size(config))
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
    if config.pp.resize is not None and image_size(config) != (None, None):
        longest = max(image_size(config))
        if config.pp.resize < longest:
            raise ValueError(
                f'config.pp.resize is {config.pp.resize}, smaller than the crop of '
                f'{longest} pixels that is cut from it; it must be at least that.'
            )
    _check_cache(config)
    check_fsdp(config, num_devices)
    if config.frozen:
        _check_frozen(config)
    if config.batch is not None:
        parts = config.accum_steps or 1
        if config.batch % parts:
            raise ValueError(
                f'config.batch is {config.batch}, which config.accum_steps = {parts} '
                'does not divide.'
            )
        if config.batch // parts % num_devices:
            raise ValueError(
                f'config.batch is {config.batch}, in config.accum_steps = {parts} '
                f'parts of {config.batch // parts} images, which the {num_devices} '
                'devices cannot share equally. Take a batch that is a multiple of '
                f'{parts * num_devices}.'
            )


def _check_cache(config: ConfigDict) -> None:
    """Raises a ValueError for what no cache of images could be."""
    where, shrink = config.cache.where, config.cache.shrink
    if where is not None and where != 'memory':
        # Better than a new folder called 'memroy'.
        if '/' not in where and not os.path.isdir(where):
            raise ValueError(
                f'config.cache.where is {where!r}; it can be memory or a directory, '
                f'as in ./{where or "cache"}.{nearest(where, ("memory",))}'
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


def check_fsdp(config: ConfigDict, num_devices: int) -> None:
    """Raises a ValueError unless fsdp divides the devices."""
    if num_devices % config.sharding.fsdp:
        divisors = [n for n in range(1, num_devices + 1) if num_devices % n == 0]
        raise ValueError(
            f'config.sharding.fsdp is {config.sharding.fsdp}, which does not divide '
            f'the {num_devices} devices. Take one of {", ".join(map(str, divisors))}.'
        )


def _check_frozen(config: ConfigDict) -> None:
    """Raises a ValueError unless some parameters are frozen and others can learn."""
    try:
        expression = re.compile(config.frozen)
    except re.error as error:
        raise ValueError(
            f'config.frozen is {config.frozen!r}, which is no regular expression: '
            f'{error}.'
        ) from error
    names = parameter_names(config)
    frozen = {name for name in names if expression.search(name)}
    if not frozen:
        scopes = ['/'.join(name.split('/')[:-1][:2]) or name for name in names]
        some = dict.fromkeys(re.sub(r'\d+', '*', scope) for scope in scopes)
        raise ValueError(
            f'config.frozen is {config.frozen!r}, which is found in the name of no '
            f'parameter.{nearest(config.frozen, names)} There are {", ".join(some)}.'
        )
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


def parameter_names(config: ConfigDict) -> list[str]:
    """Returns the names of a model's parameters, as published."""
    size = config.pp.size or (config.pp.crop or largest_crop(config.model, 224),) * 2
    images = jax.ShapeDtypeStruct((1, *size, config.pp.channels), 'float32')
    # One block is traced for all: a fraction of a second for any model.
    model = models.from_config(config.model, num_classes=2, scan_layers=True)
    variables = jax.eval_shape(
        lambda images: model.init(jax.random.key(0), images, train=False), images
    )
    params = models.unstack(variables['params'])
    return list(traverse_util.flatten_dict(params, sep='/'))
