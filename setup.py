"""Packaging of vit_jax; everything else about tools stands in pyproject.toml."""

from setuptools import find_packages, setup

# Each dependency with the reason why the project has it. The lower bounds are the
# versions in requirements/lowest.txt, with which CI runs the fast suite (a test
# compares the two); where a newer one is needed than an API asks for, the comment
# says why.
INSTALL_REQUIRES = [
    'absl-py>=2.1',  # the command line's flags
    'array_record>=0.8.1',  # random access to prepared TFDS datasets
    'filelock>=3.16',  # several processes of a host, one download
    'flatbuffers>=24.3.25',  # jax.export writes its artifacts in it, undeclared
    # Linen, whose parameter tree is the published one. Before 0.12.2 its remat uses
    # what JAX has deprecated.
    'flax>=0.12.2',
    # Data loading in threads and worker processes. Before 0.2.16 an error in a
    # worker process arrives without its type.
    'grain>=0.2.16',
    'importlib_resources>=6.4',  # TFDS imports it when it downloads, undeclared
    # The whole point. Before 0.9, the time that hosts wait for each other at the end
    # was fixed, and its own handler of SIGTERM could not be switched off.
    'jax>=0.9.0',
    'jaxtyping>=0.3.6',  # shapes in signatures; before, its pytest hook comes too late
    'ml_collections>=1.1',  # the configuration and its command line
    'ml_dtypes>=0.5.0',  # bfloat16 for NumPy, in weight files
    'msgpack>=1.0.8',  # the format of the original's checkpoints, and its errors
    'numpy>=2.0',  # arrays on the host
    'opencv-python-headless>=4.10.0.84',  # resizing that agrees with tf.image.resize
    'optax>=0.2.5',  # optimizers
    # Asynchronous, atomic, multi-host checkpoints. Before 0.12.3 it insists on JAX's
    # handler of SIGTERM.
    'orbax-checkpoint>=0.12.3',
    'pillow>=10.4',  # every image format that is not JPEG, and EXIF
    'pooch>=1.8.2',  # downloads: progress, retries, checksums, whole files only
    # What TFDS's records are written in. With 6.31 Grain's generated code warns on
    # every start, with 6.32 and 6.33 TFDS does.
    'protobuf>=7.34',
    'requests>=2.32.3',  # what pooch downloads with, and its errors
    # Weights of the Hugging Face hub. Before 0.8 it has no bfloat16 for NumPy.
    'safetensors>=0.8.0',
    'scipy>=1.14',  # the published resize of position embeddings
    'simplejpeg>=1.8',  # JPEG decoding bit-identical to TensorFlow's
    'tensorboardX>=2.6.2.2',  # TensorBoard event files without TensorFlow
    # The catalogue of datasets. 4.9.9 asks protobuf for what 7.34 has removed.
    'tensorflow-datasets>=4.9.10',
    'tqdm>=4.66.3',  # the progress bar
]

PANDAS = ['pandas>=2.2.2', 'pyarrow>=26.0.1']  # tables, and .parquet files
PLOT = [
    'jinja2>=3.1.4',  # the page of vit_jax.report
    'matplotlib>=3.9',  # figures
]
HEIC = ['pillow-heif>=0.18.0']  # the photos of iPhones
HF = ['datasets>=3.0', 'huggingface_hub>=0.26']

EXTRAS_REQUIRE = {
    # CUDA 12, because cuDNN attention had no execution plans on CUDA 13.0.
    'cuda': ['jax[cuda12]'],
    'tpu': ['jax[tpu]'],
    'hf': HF,  # datasets and weights of the Hugging Face hub
    'augreg': PANDAS,  # checkpoint.get_augreg_df, and vit_jax.features to .parquet
    # vit_jax.export --to onnx; the runtime runs what it writes. It asks for an Orbax
    # older than the tested one.
    'onnx': ['jax2onnx>=0.17.1', 'onnxruntime>=1.24.1'],
    # The real libraries, for tests/system/parity_test.py; requirements/parity.txt
    # has the versions that belong together.
    'parity': ['timm>=1.0.20', 'torch>=2.8', 'torchvision', 'transformers>=5.0'],
    'heic': HEIC,
    'plot': PLOT,  # vit_jax.visualize, vit_jax.report, the figures of vit_jax.evaluate
    'test': [
        *HEIC,  # so that no test is skipped
        *HF,
        *PANDAS,
        *PLOT,
        'beartype>=0.19',  # checks the shapes in signatures under pytest
        'ipykernel>=6.29.0',  # runs the notebooks
        'nbclient>=0.10.0',  # executes them in a test
        'nbformat>=5.10.0',  # their format
        'playwright>=1.48',  # drives the Chromium in which a test opens the report
        'pytest>=8.3',
        'pytest-xdist>=3.6.1',  # the suite on all cores
        'ruff>=0.17.0',  # lint and format; others format in another way
        'scikit-learn>=1.5',  # the digits of the quickstart
        'setuptools>=70.1',  # one test builds the wheel, without a network
    ],
}

setup(
    name='vit_jax',
    version='0.1.0',
    description='Vision Transformers in JAX/Flax: load weights, fine-tune, use.',
    license='Apache-2.0',
    python_requires='>=3.11',
    # configs/ stands at the top of the repository, where people look for it, and
    # is installed inside the package, where `--config=vit.py:b16,cifar10` finds it.
    packages=[*find_packages(include=['vit_jax', 'vit_jax.*']), 'vit_jax.configs'],
    package_dir={'vit_jax.configs': 'configs'},
    package_data={
        'vit_jax': [
            'py.typed',
            'checkpoint/imagenet/*.txt',
            'models/zoo/google_files.csv',
            'report/page.html',
        ]
    },
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
)
