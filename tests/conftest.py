"""What every test runs under: eight CPU devices, and nothing from the network."""

import functools
import importlib.metadata
import os
import pathlib

# Before the first import of jax: how many devices the CPU pretends to be.
os.environ['XLA_FLAGS'] = (
    os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
)
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

# Many tests run the same tiny networks: what one has compiled, in this process, in
# another worker of pytest or in a command, the others take from here, and so does the
# next run with the same versions.
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    _versions = '-'.join(
        importlib.metadata.version(name) for name in ('jax', 'jaxlib', 'flax')
    )
    _cache = pathlib.Path.home() / '.cache' / 'vit_jax-tests' / _versions
    os.environ['JAX_COMPILATION_CACHE_DIR'] = str(_cache)
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.1'
    os.environ['JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES'] = '-1'

import numpy as np
import pytest
from absl import flags
from PIL import Image

# vit_jax itself is imported inside functions: what is imported before pytest starts
# escapes the hook that checks shapes.

GOLDEN = pathlib.Path(__file__).parent / 'golden'

# Importing grain defines absl flags, which refuse to be read before a parse.
if not flags.FLAGS.is_parsed():
    flags.FLAGS(['pytest'])


def pytest_xdist_make_scheduler(config, log):
    """Gives each file to one worker, so that what it shares is made once."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)


@pytest.fixture
def golden():
    """Returns a function from a file name in tests/golden to its arrays."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / name) as arrays:
            return dict(arrays)

    return load


@pytest.fixture
def web_server(tmp_path, monkeypatch):
    """Yields a web server; downloads go to a cache of their own."""
    import web

    from vit_jax.files import fetch

    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    monkeypatch.setenv(fetch.CACHE_VARIABLE, str(tmp_path / 'cache'))
    # Between tries pooch waits some seconds.
    monkeypatch.setattr('time.sleep', lambda seconds: None)
    with web.serving() as server:
        yield server


@functools.cache
def _compiled(model):
    import jax

    return jax.jit(lambda params, x: model.apply({'params': params}, x, train=False))


def forward(model, params, images):
    """Returns a network's outputs, compiled: op by op they take seconds."""
    return _compiled(model)(params, images)


def make_photos(root: pathlib.Path, *, classes=('cat', 'dog', 'eel'), **splits: int):
    """Writes `split/class/i.png`, as many of each class as said for each split.

    The classes differ in colour, so that a model can learn them.
    """
    for split, per_class in splits.items():
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(per_class):
                rng = np.random.default_rng([label, i, len(split)])
                pixels = rng.integers(0, 100, (20, 24, 3), np.uint8)
                pixels[..., label % 3] += 120
                Image.fromarray(pixels).save(folder / f'{i}.png')
    return root


@pytest.fixture(scope='session')
def photos(tmp_path_factory):
    """Returns a folder with 24 training and 15 test images of three classes."""
    return make_photos(tmp_path_factory.mktemp('photos'), train=8, test=5)


@pytest.fixture(scope='session')
def photo() -> np.ndarray:
    """Smooth colours with an edge, no symmetry, prime sides."""
    y, x = np.mgrid[:53, :71].astype(np.float64)
    image = np.stack([3 * x, 4 * y, 255 - 2 * x - y], axis=-1)
    image[10:20, 30:40] = [255, 0, 0]
    return image.clip(0, 255).astype(np.uint8)


def tiny_config(dataset, **settings):
    """Returns the configuration of a run of a few steps that takes a second."""
    from vit_jax import config as config_lib
    from vit_jax import models

    config = config_lib.default()
    config.dataset = str(dataset)
    config.model = models.get_config('testing')
    config.model.head_init = 'zeros'
    config.pp.crop = 16
    config.pp.val = 'test[:60%]'
    config.pp.train = 'train'
    config.pp.test = 'test[60%:]'
    config.batch = 8
    config.accum_steps = 1
    config.total_steps = 4
    config.warmup_steps = 1
    config.eval_every = 2
    config.progress_every = 1
    config.checkpoint_every = 2
    config.num_threads = 2
    config.update_from_flattened_dict(settings)
    return config
