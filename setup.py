"""Packaging of vit_jax; everything else about tools stands in pyproject.toml."""

from setuptools import find_packages, setup

# Each dependency with the reason why the project has it. The lower bounds are
# the versions in requirements/lowest.txt, with which CI runs the fast suite.
INSTALL_REQUIRES = [
    'absl-py>=2.1',  # the command line's flags
    'array_record>=0.8',  # random access to prepared TFDS datasets
    'flax>=0.12',  # Linen, whose parameter tree is the published one
    'grain>=0.2.15',  # data loading with threads and worker processes
    'importlib_resources>=6.4',  # TFDS imports it when it downloads, without declaring it
    'jax>=0.8',  # the whole point
    'jaxtyping>=0.3',  # shapes in signatures
    'ml_collections>=1.0',  # the configuration and its command line
    'numpy>=2.0',  # arrays on the host
    'opencv-python-headless>=4.10',  # resizing that agrees with tf.image.resize
    'optax>=0.2.5',  # optimizers
    'orbax-checkpoint>=0.11.25',  # asynchronous, atomic, multi-host checkpoints
    'pillow>=10.4',  # every image format that is not JPEG, and EXIF
    'scipy>=1.14',  # the published resize of position embeddings
    'simplejpeg>=1.8',  # JPEG decoding bit-identical to TensorFlow's
    'tensorboardX>=2.6.2',  # TensorBoard event files without TensorFlow
    'tensorflow-datasets>=4.9.9',  # the catalogue of datasets (imports no TensorFlow)
    'tqdm>=4.66',  # the progress bar
]

EXTRAS_REQUIRE = {
    # CUDA 12, because cuDNN attention had no execution plans on CUDA 13.0.
    'cuda': ['jax[cuda12]'],
    'tpu': ['jax[tpu]'],
    # Datasets and weights from the Hugging Face hub.
    'hf': ['datasets>=3.0', 'huggingface_hub>=0.26'],
    'test': [
        'beartype>=0.19',  # checks the shapes in signatures under pytest
        'build>=1.2',  # one test installs the built wheel
        'pytest>=8.3',
        'pytest-xdist>=3.6',  # the suite on all cores
        'ruff>=0.8',
        'scikit-learn>=1.5',  # the digits of the quickstart, photos for tests
    ],
}

setup(
    name='vit_jax',
    version='0.1.0',
    description='Vision Transformers in JAX/Flax: load published weights, fine-tune, use.',
    license='Apache-2.0',
    python_requires='>=3.11',
    # configs/ stands at the top of the repository, where people look for it, and
    # is installed inside the package, where `--config=vit.py:b16,cifar10` finds it.
    packages=[*find_packages(include=['vit_jax', 'vit_jax.*']), 'vit_jax.configs'],
    package_dir={'vit_jax.configs': 'configs'},
    package_data={'vit_jax': ['py.typed']},
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
)
