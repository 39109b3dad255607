"""The configuration of a run: every key with its meaning, and what makes it valid.

`default()` is the one list of keys. A recipe in configs/ starts from it and sets
what differs; the command line sets the rest (`--config.batch=64`); `resolve` fills
in what depends on the dataset; `check` refuses, before any work starts, what could
only fail later.

Each key is either *what* (it decides the numbers) or *how* (it does not: devices,
workers, paths, logging). Resuming a run compares the *what* keys alone.
"""

import contextlib
import difflib
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from flax import traverse_util
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vit_jax import models

# The keys that do not decide the numbers; a name stands for all keys below it.
HOW = frozenset(
    {
        'batch_eval',
        'attention',
        'cache.device_mb',
        'cache.where',
        'checkpoint_every',
        'few_shot',
        'dataset',  # its examples are compared by fingerprint instead
        'keep_checkpoints',
        'num_threads',
        'num_workers',
        'prefetch',
        'pretrained',  # its content is compared by fingerprint instead
        'pretrained_dir',
        'profile_steps',
        'progress_every',
        'remat',
        'scan_layers',
        'sharding',
        'show_images',
        'tfds_data_dir',
        'tfds_manual_dir',
    }
)

# Keys of the original that have no meaning here, and what replaces them.
GONE = {
    'shuffle_buffer': 'not needed: every epoch is shuffled over all examples',
    'model_type': 'not needed: config.model says which network it is',
    'model_or_filename': 'use --config=augreg.py:NAME, or --config.pretrained=FILE',
}

# The keys that may be None.
OPTIONAL = frozenset(
    {
        'accum_steps',
        'batch',
        'cache.shrink',
        'cache.where',
        'few_shot.dataset',
        'num_threads',
        'pp.crop',
        'pp.mean',
        'pp.resize',
        'pp.size',
        'pp.std',
        'pp.test',
        'pp.val',
        'pretrained',
        'tfds_data_dir',
        'tfds_manual_dir',
        'total_steps',
        'warmup_steps',
        'model.gelu',
        'model.norm_epsilon',
        'model.representation_size',
        'model.resnet',
    }
)

# What a port computes differently from the original; see models.VisionTransformer.
NUMERICS = (
    'model.gelu',
    'model.norm_epsilon',
    'model.resnet.norm_epsilon',
    'model.resnet.standardize',
)

OPTIMIZERS = ('sgd', 'adamw')
DECAY_TYPES = ('cosine', 'linear')
TRAINERS = ('train',)
COMPUTE_DTYPES = ('float32', 'bfloat16', 'float16')
OPTIM_DTYPES = ('float32', 'bfloat16')
REMAT = ('none', 'dots', 'full')
ATTENTIONS = ('auto', 'xla', 'cudnn')


def default() -> ConfigDict:
    """Returns the configuration that every recipe starts from.

    `placeholder(type)` is a key that may be None, and what None means stands in its
    comment. The values are those of the original repository unless said otherwise.
    """
    config = ConfigDict()

    # Which program runs.
    config.trainer = 'train'
    # The one seed: parameters, dropout, shuffling and augmentation follow from it.
    config.seed = 0

    # The network, as in models.MODEL_CONFIGS; a recipe sets it.
    config.model = ConfigDict()
    # float32, bfloat16 or, for GPUs without it (T4, V100), float16: what the network
    # computes in. Parameters are float32. float16 scales the loss: see loss_scale.py.
    config.dtype = 'float32'

    # Where the parameters start: a file. None: from scratch. Recipes set it to
    # <pretrained_dir>/<model_name>.npz.
    config.pretrained = placeholder(str)
    config.pretrained_dir = '.'
    # Keep the head of the pretrained file, where its classes agree with the dataset's.
    config.keep_head = False

    # The data: a TFDS name, a folder, a CSV manifest or hf:owner/name.
    config.dataset = placeholder(str)
    config.tfds_data_dir = placeholder(str)
    config.tfds_manual_dir = placeholder(str)

    config.pp = ConfigDict()
    # Split strings as in TFDS. 'auto': see choose_splits. None (val, test): without.
    config.pp.train = 'auto'
    config.pp.val = 'auto'
    config.pp.test = 'auto'
    # The fraction that 'auto' and folders without splits hold out for val and test.
    config.pp.holdout = 0.1
    # Side of the square images that the network sees. None: see resolve.
    config.pp.crop = placeholder(int)
    # (height, width) instead of a square; it overrides crop.
    config.pp.size = placeholder(tuple)
    # Resize the shorter side to this first, then crop (at random for training, the
    # centre for evaluation). None: the original's random crops and plain resize.
    config.pp.resize = placeholder(int)
    # Channels of the images: 3; 1 for grey ones; others for .npy files and arrays.
    config.pp.channels = 3
    # A pixel x of 0…255 enters as (x - mean) / std: (one number,) or one per channel.
    # None: as in the pretrained weights, or 127.5, which gives -1…1.
    config.pp.mean = placeholder(tuple)
    config.pp.std = placeholder(tuple)
    # Random crops cover at least this fraction of the image.
    config.pp.min_area = 0.05
    # Decode training JPEGs to about the size at which they are needed: several times as
    # fast where photos are much larger than pp.crop. The crops are the same to a pixel
    # of the smaller image, but smoother than the original's, which picks single pixels.
    config.pp.scaled_decoding = False
    # Mirror training images left-right with probability ½.
    config.pp.flip = True

    # Global batch sizes, and in how many parts a training batch is computed.
    # None: see resolve.
    config.batch = placeholder(int)
    config.batch_eval = 512
    config.accum_steps = placeholder(int)

    # Steps of the optimizer, and its learning rate. None: see resolve.
    config.total_steps = placeholder(int)
    config.warmup_steps = placeholder(int)
    config.base_lr = 0.03
    config.decay_type = 'cosine'
    config.grad_norm_clip = 1.0
    # 'sgd' (momentum 0.9, kept in optim_dtype) or 'adamw'.
    config.optimizer = 'sgd'
    config.optim_dtype = 'bfloat16'
    # Decay of the kernels (not of biases, scales, tokens and position embeddings).
    config.weight_decay = 0.0
    # A regular expression: parameters in whose names it is found are not trained, as
    # '^(?!head/)', all but the head, or 'embedding|encoderblock_[0-5]/'. '': all are.
    config.frozen = ''
    # The learning rate of each layer is that of the next one times this (Bao et al.,
    # 2022); the head has base_lr. 1: all have.
    config.layer_decay = 1.0

    # In steps; 0 switches it off.
    config.eval_every = 100
    config.progress_every = 10
    config.checkpoint_every = 1000
    # Few-shot accuracy of the features (see vit_jax/few_shot.py) every so many steps:
    # on another dataset's train and test splits, or, None, on this one's train and val.
    config.few_shot = ConfigDict({'every': 0, 'shots': (1, 5, 10, 25)})
    config.few_shot.dataset = placeholder(str)
    # At the start, so many images as the network sees them, to images/ in the run
    # directory and to TensorBoard; it needs matplotlib.
    config.show_images = 0
    # (first, last): a profiler trace of these steps, both included, is written to the
    # run directory, for TensorBoard and Perfetto; as in --config.profile_steps=10,20.
    config.profile_steps = ()
    # The newest so many checkpoints are kept, and the best on val.
    config.keep_checkpoints = 3
    # Stop after so many evaluations without a better value on val; 0: never.
    config.early_stop = 0

    # Images that do not decode: stop (False), or count and take the next good one.
    config.skip_corrupt = False
    # Worker processes for the data; 0: threads of this process.
    config.num_workers = 0
    # Threads for the data in each process. None: the cores, shared by the processes.
    config.num_threads = placeholder(int)
    # Batches kept ahead on the device.
    config.prefetch = 2

    # For small datasets: all training images are decoded at the start, and kept.
    # 'memory'; or a directory, where later runs find them. None: nothing is. All
    # processes share one copy. The batches are the same to the bit; scaled_decoding
    # does nothing. Evaluation reads the files.
    config.cache = ConfigDict()
    config.cache.where = placeholder(str)
    # Keep images that are larger with this shorter side, which saves room and time. The
    # crops are the same to a pixel of the smaller image; its pixels are averages,
    # smoother than the original's, and small crops are enlarged from fewer of them.
    # None: as they are.
    config.cache.shrink = placeholder(int)
    # For images of one size, as CIFAR's: each device holds all of them, up to so many
    # MiB, and cuts, resizes and mirrors them itself. The same images, crops and flips;
    # the pixels differ by one level at most, since the host resizes in whole numbers.
    config.cache.on_device = False
    config.cache.device_mb = 1024

    # Over how many devices each parameter is split; 1: every device holds all.
    config.sharding = ConfigDict({'fsdp': 1})
    # What the backward pass computes again to save memory: 'none', 'dots' or 'full'.
    config.remat = 'none'
    # Compile one encoder block and loop over it.
    config.scan_layers = False
    # 'auto': cuDNN's kernel where it can run, else XLA. Or 'xla', or 'cudnn'.
    config.attention = 'auto'
    return config


def set_model(config: ConfigDict, name: str) -> None:
    """Gives a recipe a published model, ready to be fine-tuned.

    Args:
        config: the recipe.
        name: as in `models.get_config`.
    """
    config.model = models.get_config(name)
    config.model.head_init = 'zeros'
    # None: as in the pretrained weights, which a port may have trained with others.
    config.model.gelu = placeholder(str)
    config.model.norm_epsilon = placeholder(float)


def follow(
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
            value = before.get(f'pp.{key}') or getattr(card, key, 127.5)
            value = tuple(value) if isinstance(value, Iterable) else (value,)
            if len(value) not in (1, config.pp.channels):
                # The mean of red, green and blue is the best guess for others.
                value = (sum(value) / len(value),)
            config.pp[key] = value
            if value != (127.5,):
                found[f'pp.{key}'] = value
    return found


def _of_card(card: Any | None, key: str) -> Any:
    value = None if card is None else {'model': card.model}
    for name in key.split('.'):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def is_what(key: str) -> bool:
    """Returns whether a dotted key decides the numbers of a run."""
    return not any(key == how or key.startswith(f'{how}.') for how in HOW)


def flatten(config: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration as plain values by dotted key.

    Tuples become lists, so that the result survives JSON unchanged.
    """

    def walk(prefix: str, value: Any) -> Iterable[tuple[str, Any]]:
        if isinstance(value, Mapping | ConfigDict):
            for key in sorted(value.keys()):
                yield from walk(f'{prefix}.{key}' if prefix else key, value[key])
        else:
            yield prefix, list(value) if isinstance(value, tuple) else value

    return dict(walk('', config))


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns ' Did you mean …?' for the known names nearest to a name, or ''."""
    matches = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f' Did you mean {", ".join(matches)}?' if matches else ''


def image_size(config: ConfigDict) -> tuple[int, int]:
    """Returns (height, width) of the images that the network sees."""
    return tuple(config.pp.size or (config.pp.crop, config.pp.crop))


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
    for side in range(wanted, 0, -1):
        with contextlib.suppress(ValueError):
            models.patch_grid(model_config, (side, side))
            return side
    raise ValueError(
        f'{model_config.model_name} takes no images up to {wanted} pixels.'
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
    at_least(1, 'cache.device_mb')
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
    if where is None and not config.cache.on_device:
        raise ValueError(
            f'config.cache.shrink is {shrink}, but config.cache.where is None and '
            'config.cache.on_device False: nothing is kept that could be shrunk.'
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
