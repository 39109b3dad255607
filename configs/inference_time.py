r"""Measure how fast a published model infers; nothing is trained.

    python -m vit_jax.main --config=configs/inference_time.py:b16 \
        --config.batch=512 --workdir=runs/inference-b16

The argument is a model (b16 or ViT-B_16; any of `models.list_models()`), ViT-B_32
without it. The keys are the original's, and can be set one by one:

    python -m vit_jax.main --config=configs/inference_time.py \
        --config.model_name=ViT-L_16 --config.image_size=384 --config.num_classes=10 \
        --config.batch=64 --config.initial_steps=5 --config.steps=50 \
        --workdir=runs/inference-l16

Parameters are random and images constant, on the devices from the start: what is
measured is the network alone. vit_jax/training/inference_time.py says what is noted.
`scripts/benchmark model` compares with other formulations, and measures training.
"""

from ml_collections import ConfigDict


def get_config(model_name: str = 'ViT-B_32') -> ConfigDict:
    """Returns the recipe for a published model."""
    config = ConfigDict()
    config.trainer = 'inference_time'
    config.model_name = model_name
    # Images at once, shared by all devices.
    config.batch = 64
    # Side of the square images.
    config.image_size = 224
    # Width of the head.
    config.num_classes = 1000
    # Batches before those that are measured, and those.
    config.initial_steps = 10
    config.steps = 30
    # What the network computes in: float32, bfloat16 or float16.
    config.dtype = 'float32'
    # Over how many devices each parameter is split; 1: every device holds all.
    config.sharding = ConfigDict({'fsdp': 1})
    return config
