"""Weights in and out.

- `open`, `load`: weights array by array, or as a tree; `save`: a published-format .npz;
- `load_pretrained`: weights adapted to a new model (head, position embeddings);
- `load_model`: a run or a file as a model that can be used;
- `ModelCard`, `find_card`: what stands beside the weights to make that possible;
- `checkpoint.train_state` (imported on its own): a training run's whole state.
"""

from vit_jax.checkpoint import augreg, readers, references
from vit_jax.checkpoint.adapt import interpolate_posembed, resize_posembed
from vit_jax.checkpoint.augreg import get_augreg_df
from vit_jax.checkpoint.card import ModelCard, find_card
from vit_jax.checkpoint.formats.npz import save
from vit_jax.checkpoint.model import card_of, load_model, num_channels
from vit_jax.checkpoint.pretrained import load_pretrained
from vit_jax.checkpoint.readers import load, open
from vit_jax.checkpoint.weights import Weights

__all__ = [
    'ModelCard',
    'Weights',
    'augreg',
    'card_of',
    'find_card',
    'get_augreg_df',
    'interpolate_posembed',
    'load',
    'load_model',
    'load_pretrained',
    'num_channels',
    'open',
    'readers',
    'references',
    'resize_posembed',
    'save',
]
