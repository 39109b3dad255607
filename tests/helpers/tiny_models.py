"""Tiny models to look into, with every parameter drawn at random."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

IMAGE_SIZE = (12, 20)
GRID = (3, 5)
VIT = {
    'model_name': 'tiny',
    'patches': {'size': (4, 4)},
    'hidden_size': 12,
    'transformer': {'num_layers': 3, 'num_heads': 3, 'mlp_dim': 20},
    'classifier': 'token',
}
MIXER = {
    'model_name': 'tiny mixer',
    'patches': {'size': (4, 4)},
    'num_blocks': 2,
    'hidden_dim': 8,
    'tokens_mlp_dim': 9,
    'channels_mlp_dim': 16,
}


def random_params(model, channels: int = 3):
    shapes = jax.eval_shape(
        lambda x: model.init(jax.random.key(0), x, train=False),
        jnp.zeros((1, *IMAGE_SIZE, channels)),
    )['params']
    rng = np.random.default_rng(7)
    return jax.tree.map(
        lambda s: rng.normal(0, 0.5, s.shape).astype(np.float32), shapes
    )


def make_predictor(config=VIT, resize=None, num_classes=4, **changes):
    """Returns the predictor of a tiny model, changed."""
    from vit_jax import models
    from vit_jax.checkpoint import ModelCard
    from vit_jax.inference.predictor import Predictor

    config = {**config, **changes}
    model = models.from_config(config, num_classes=num_classes)
    card = ModelCard(config, num_classes, IMAGE_SIZE, resize=resize)
    return Predictor(model, random_params(model), card)


def save_model(folder: pathlib.Path, config=VIT, **changes) -> pathlib.Path:
    """Writes a tiny model and its card, as a run leaves them; returns the folder."""
    from vit_jax import checkpoint

    predictor = make_predictor(config, **changes)
    folder.mkdir()
    checkpoint.save(folder / 'model.npz', predictor.params)
    predictor.card.save(folder / 'model.json')
    return folder


def make_album(root: pathlib.Path) -> pathlib.Path:
    """Writes nine photos of different sizes into a folder; returns it."""
    folder = root / 'album'
    folder.mkdir()
    for i in range(9):
        rng = np.random.default_rng(i)
        pixels = rng.integers(0, 256, (20 + i, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f'{i}.png')
    return folder
