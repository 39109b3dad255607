"""The configuration of a run: every key with its meaning, and what makes it valid.

`default()` is the one list of keys. A recipe in configs/ starts from it and sets
what differs; the command line sets the rest (`--config.batch=64`); `resolve` fills
in what depends on the dataset; `check` refuses, before any work starts, what could
only fail later.

Each key is either *what* (it decides the numbers) or *how* (it does not: devices,
workers, paths, logging). Resuming a run compares the *what* keys alone.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

# The keys that do not decide the numbers; a name stands for all keys below it.
HOW = frozenset(
    {
        'batch_eval',
        'attention',
        'cache.where',
        'checkpoint_every',
        'few_shot',
        'evals',
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

# Keys of the original that have no meaning here, and of older versions; and what
# replaces them.
GONE = {
    'shuffle_buffer': 'not needed: every epoch is shuffled over all examples',
    'model_type': 'not needed: config.model says which network it is',
    'model_or_filename': 'use --config=augreg.py:NAME, or --config.pretrained=FILE',
    'pp.scaled_decoding': (
        'use --config.cache.where=memory --config.cache.shrink=SIDE, which is faster'
    ),
    'cache.on_device': 'use --config.cache.where=memory, which is faster',
    'cache.device_mb': 'not needed: the devices hold no images but the next batches',
}
# Those of them that decided the numbers, and the value that gives today's.
GONE_WHAT = {'pp.scaled_decoding': False, 'cache.on_device': False}

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

    # What is learned: a name of tasks.TASKS, or your own as package.module:Name.
    config.task = 'classes'

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
    # More of what is asked of the parameters on the way, by name, as
    # {'type': 'few_shot', 'every': 500, …}: see training/evaluators.py.
    config.evals = ConfigDict()
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
    # processes share one copy. The batches are the same to the bit.
    # Evaluation reads the files.
    config.cache = ConfigDict()
    config.cache.where = placeholder(str)
    # Keep images that are larger with this shorter side, which saves room and time. The
    # crops are the same to a pixel of the smaller image; its pixels are averages,
    # smoother than the original's, and small crops are enlarged from fewer of them.
    # None: as they are.
    config.cache.shrink = placeholder(int)

    # Over how many devices each parameter is split; 1: every device holds all.
    config.sharding = ConfigDict({'fsdp': 1})
    # What the backward pass computes again to save memory: 'none', 'dots' or 'full'.
    config.remat = 'none'
    # Compile one encoder block and loop over it.
    config.scan_layers = False
    # 'auto': cuDNN's kernel where it can run, else XLA. Or 'xla', or 'cudnn'.
    config.attention = 'auto'
    return config


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
