"""The one table of keys: what each means, may be, and is when nobody sets it.

From it follow the default configuration, which keys may be None, which decide the
numbers (*what*) and which do not (*how*; resuming a run compares only the *what* keys),
what is refused, the help of the command line and docs/config.md.

The values are those of the original repository unless said otherwise.
"""

from ml_collections import ConfigDict

from vit_jax.config.key import Key, Limit, are_counts, are_first_and_last, at_least

_PATH_OF_TFDS = "TFDS's own place"

GROUPS: dict[str, dict[str, Key]] = {
    'The run': {
        'trainer': Key(
            'train',
            'Which program runs. Training, unless a recipe says otherwise.',
            one_of=('train',),
        ),
        'seed': Key(
            0,
            'The one seed: parameters, dropout, shuffling and augmentation follow '
            'from it.',
            limit=Limit(lambda seed: 0 <= seed < 2**32, 'must be from 0 to 2³² - 1'),
        ),
        'task': Key(
            'classes',
            'What is learned: loss, metrics, what is best on val, the answer.',
            one_of=('classes',),
            own=True,
        ),
    },
    'The network': {
        'model': Key(
            ConfigDict(),
            'The network, as in models.MODEL_CONFIGS; a recipe sets it. '
            '`model.family` says which network the other keys are for.',
        ),
        'dtype': Key(
            'float32',
            'What the network computes in; parameters are float32. float16, for GPUs '
            'without bfloat16 (T4, V100), scales the loss.',
            one_of=('float32', 'bfloat16', 'float16'),
        ),
        'pretrained': Key(
            None,
            'Where the parameters start: a file, a run, an address. Recipes set it to '
            '<pretrained_dir>/<model_name>.npz. Runs compare its content.',
            none='from scratch',
            kind=str,
            how=True,
        ),
        'pretrained_dir': Key('.', 'Where recipes look for weights.', how=True),
        'keep_head': Key(
            False,
            "Keep the head of the weights, where its classes agree with the dataset's.",
        ),
        'new_parameters': Key(
            '',
            'A regular expression: parameters with it in their names, such as a '
            "LayerScale that you have added, may be missing in the weights. '': none.",
        ),
    },
    'The data': {
        'dataset': Key(
            None,
            'A TFDS name, a folder, a CSV manifest or hf:owner/name. Runs compare its '
            'examples.',
            none='not set yet; a run needs one',
            kind=str,
            how=True,
        ),
        'tfds_data_dir': Key(
            None, 'Where TFDS has its data.', none=_PATH_OF_TFDS, kind=str, how=True
        ),
        'tfds_manual_dir': Key(
            None,
            'Where files are that TFDS does not download.',
            none=_PATH_OF_TFDS,
            kind=str,
            how=True,
        ),
        'pp.train': Key(
            'auto',
            "The examples to train on, a split as in TFDS. 'auto': what val and test "
            'leave of train.',
        ),
        'pp.val': Key(
            'auto',
            "The examples that choose. 'auto': the validation split, or a part of "
            'train.',
            none='nothing is held out',
        ),
        'pp.test': Key(
            'auto',
            "The examples that only judge, at the end. 'auto': the test split, or "
            'validation, or a part of train.',
            none='nothing is judged at the end',
        ),
        'pp.holdout': Key(
            0.1,
            "The fraction of train that 'auto' and folders without splits hold out.",
            limit=Limit(
                lambda part: 0.01 <= part < 0.5,
                'is the fraction held out for each of val and test, from 0.01 to '
                'below 0.5',
            ),
        ),
    },
    'Pixels': {
        'pp.crop': Key(
            None,
            'Side of the square images that the network sees.',
            none='384 from 10,000 examples on, else 224, or what the patches cover',
            kind=int,
            limit=at_least(1),
        ),
        'pp.size': Key(
            None,
            '(height, width) instead of a square; it overrides crop.',
            none='a square',
            kind=tuple,
            limit=Limit(
                lambda size: len(size) == 2 and are_counts(size),
                'must be (height, width) in pixels',
            ),
        ),
        'pp.resize': Key(
            None,
            'Resize the shorter side to this first, then crop: at random for training, '
            'the centre for evaluation.',
            none="the original's random crops and plain resize",
            kind=int,
            limit=at_least(1),
        ),
        'pp.channels': Key(
            3,
            'Channels of the images: 3; 1 for grey ones; others for .npy files and '
            'arrays.',
            limit=at_least(1),
        ),
        'pp.mean': Key(
            None,
            'A pixel x of 0…255 enters as (x - mean) / std: (one number,) or one per '
            'channel.',
            none='as in the weights, or 127.5, which gives -1…1',
            kind=tuple,
        ),
        'pp.std': Key(
            None, 'See pp.mean.', none='as in the weights, or 127.5', kind=tuple
        ),
        'pp.min_area': Key(
            0.05,
            'Random crops cover at least this fraction of the image.',
            limit=Limit(
                lambda part: 0 < part <= 1,
                'is a fraction of the image, above 0 and at most 1',
            ),
        ),
        'pp.flip': Key(True, 'Mirror training images left-right with probability ½.'),
        'pp.augment': Key(
            None,
            "Operations on training images, as ('random_crop(0.2)', 'flip'); or your "
            'own as `package.module:Name`.',
            none='a crop of at least pp.min_area, and pp.flip',
            kind=tuple,
        ),
    },
    'Batches and steps': {
        'batch': Key(
            None,
            'Images of a step, on all devices.',
            none='512, or for small datasets less than a quarter of the examples',
            kind=int,
            limit=at_least(1),
        ),
        'batch_eval': Key(
            512, 'Images of a step of evaluation.', how=True, limit=at_least(1)
        ),
        'accum_steps': Key(
            None,
            'In how many parts a batch is computed, one after another.',
            none='so many that a part holds at most 64 images',
            kind=int,
            limit=at_least(1),
        ),
        'total_steps': Key(
            None,
            'Steps of the optimizer.',
            none='500 below 20,000 examples, 10,000 below 500,000, else 20,000',
            kind=int,
            limit=at_least(1),
        ),
        'early_stop': Key(
            0,
            'Stop after so many evaluations without a better value on val; 0: never.',
            how=True,
            limit=at_least(0),
        ),
    },
    'The optimizer': {
        'optimizer': Key(
            'sgd',
            'sgd has momentum 0.9, kept in optim_dtype.',
            one_of=('sgd', 'adamw'),
            own=True,
        ),
        'optim_dtype': Key(
            'bfloat16',
            'What the (first) momentum is kept in.',
            one_of=('float32', 'bfloat16'),
        ),
        'base_lr': Key(0.03, 'The learning rate after the warm-up.', limit=at_least(0)),
        'decay_type': Key(
            'cosine', 'How the rate falls to its end.', one_of=('cosine', 'linear')
        ),
        'warmup_steps': Key(
            None,
            'Steps in which the rate rises from 0.',
            none='a tenth of total_steps, at most 500',
            kind=int,
            limit=at_least(0),
        ),
        'grad_norm_clip': Key(
            1.0,
            'Gradients are scaled to this norm if theirs is larger.',
            limit=Limit(
                lambda norm: norm > 0,
                'must be positive (a very large value clips nothing)',
            ),
        ),
        'weight_decay': Key(
            0.0,
            'Decay of the kernels (not of biases, scales, tokens and position '
            'embeddings).',
            limit=at_least(0),
        ),
        'frozen': Key(
            '',
            'A regular expression: parameters in whose names it is found are not '
            "trained, as '^(?!head/)', all but the head, or "
            "'embedding|encoderblock_[0-5]/'. '': all are.",
        ),
        'layer_decay': Key(
            1.0,
            'The learning rate of each layer is that of the next one times this (Bao '
            'et al., 2022); the head has base_lr.',
            limit=Limit(
                lambda decay: 0 < decay <= 1,
                'must be above 0 and at most 1, which is without decay',
            ),
        ),
    },
    'On the way': {
        'eval_every': Key(
            100,
            'Steps between evaluations on val; 0: none.',
            how=True,
            limit=at_least(0),
        ),
        'progress_every': Key(
            10, 'Steps between lines of progress; 0: none.', how=True, limit=at_least(0)
        ),
        'checkpoint_every': Key(
            1000, 'Steps between checkpoints; 0: none.', how=True, limit=at_least(0)
        ),
        'keep_checkpoints': Key(
            3,
            'The newest so many checkpoints are kept, and the best on val.',
            how=True,
            limit=at_least(1),
        ),
        'few_shot.every': Key(
            0,
            'Steps between few-shot classifications on the features; 0: none.',
            how=True,
            limit=at_least(0),
        ),
        'few_shot.shots': Key(
            (1, 5, 10, 25),
            'Images of each class that few-shot classifiers learn from.',
            how=True,
            limit=Limit(
                are_counts, 'must be numbers of images per class, as (1, 5, 10, 25)'
            ),
        ),
        'few_shot.dataset': Key(
            None,
            'Whose train and test splits few-shot classification takes.',
            none="this dataset's train and val",
            kind=str,
            how=True,
        ),
        'evals': Key(
            ConfigDict(),
            'More that is asked of the weights on the way, by name, as '
            "{'type': 'few_shot', 'every': 500, …}; `type` is one of "
            'training/evaluators.py, or your own as `package.module:Name`.',
            how=True,
        ),
        'show_images': Key(
            0,
            'At the start, so many images as the network sees them, to images/ in the '
            'run directory and to TensorBoard; it needs matplotlib.',
            how=True,
            limit=at_least(0),
        ),
        'profile_steps': Key(
            (),
            'A profiler trace of these steps, first and last, is written to the run '
            'directory, for TensorBoard and Perfetto; as in '
            '--config.profile_steps=10,20.',
            how=True,
            limit=Limit(
                are_first_and_last,
                'must be the first and the last step of a trace, as 10,20, or () for '
                'none',
            ),
        ),
    },
    'Reading': {
        'skip_corrupt': Key(
            False,
            'Images that do not decode: stop (False), or count and take the next good '
            'one. A run that has stopped at one goes on with True.',
            how=True,
        ),
        'num_workers': Key(
            0,
            'Worker processes for the data; 0: threads of this process.',
            how=True,
            limit=at_least(0),
        ),
        'num_threads': Key(
            None,
            'Threads for the data in each process.',
            none='the cores, shared by the processes',
            kind=int,
            how=True,
            limit=at_least(1),
        ),
        'prefetch': Key(
            2, 'Batches kept ahead on the device.', how=True, limit=at_least(1)
        ),
        'cache.where': Key(
            None,
            'For small datasets: all training images are decoded at the start, and '
            "kept in 'memory', or in a directory, where later runs find them. All "
            'processes share one copy. The batches are the same to the bit. '
            'Evaluation reads the files.',
            none='nothing is kept',
            kind=str,
            how=True,
        ),
        'cache.shrink': Key(
            None,
            'Keep images that are larger with this shorter side, which saves room and '
            'time. The crops are the same to a pixel of the smaller image; its pixels '
            "are averages, smoother than the original's, and small crops are enlarged "
            'from fewer of them.',
            none='as they are',
            kind=int,
            limit=at_least(1),
        ),
    },
    'Devices': {
        'sharding.fsdp': Key(
            1,
            'Over how many devices each parameter is split; 1: every device holds all.',
            how=True,
            limit=at_least(1),
        ),
        'remat': Key(
            'none',
            'What the backward pass computes again to save memory: nothing, all but '
            'matrix products (dots), or everything inside a block (full).',
            how=True,
            one_of=('none', 'dots', 'full'),
        ),
        'scan_layers': Key(
            False, 'Compile one encoder block and loop over it.', how=True
        ),
        'attention': Key(
            'auto',
            "By XLA, by cuDNN's kernel, or (auto) by that where it can run.",
            how=True,
            one_of=('auto', 'xla', 'cudnn'),
        ),
    },
}
KEYS: dict[str, Key] = {
    name: key for group in GROUPS.values() for name, key in group.items()
}
