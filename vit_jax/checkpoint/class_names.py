"""The names of ImageNet's classes, in the order of the published models' outputs."""

import functools
import importlib.resources
from collections.abc import Sequence

from vit_jax.models.zoo.google_files import I1K, I21K

_FILES = {I1K: 'imagenet1k.txt', I21K: 'imagenet21k.txt'}


@functools.cache
def _classes(num_classes: int) -> tuple[tuple[str, str], ...]:
    """Returns (WordNet id, synonyms) of each class."""
    folder = importlib.resources.files('vit_jax.checkpoint') / 'imagenet'
    lines = (folder / _FILES[num_classes]).read_text(encoding='utf-8').splitlines()
    pairs = (line.split('\t') for line in lines if not line.startswith('#'))
    return tuple((wordnet_id, names) for wordnet_id, names in pairs)


def imagenet(num_classes: int) -> tuple[str, ...]:
    """Returns the names of ImageNet-1k's or ImageNet-21k's classes.

    A name holds all synonyms: 'tench, Tinca tinca'. Two classes may have the same name
    ('crane', the bird and the machine, in both); `wordnet_ids` tells them apart.

    Args:
        num_classes: 1000, or 21843: ImageNet-21k as Google trained on it.
    """
    return tuple(names for _, names in _classes(num_classes))


def wordnet_ids(num_classes: int) -> tuple[str, ...]:
    """Returns the WordNet ids ('n01440764') of the same classes, which are sorted."""
    return tuple(wordnet_id for wordnet_id, _ in _classes(num_classes))


def as_named_by(
    dataset_classes: Sequence[str], model_classes: Sequence[str]
) -> Sequence[str]:
    """Returns a model's classes in the words of a dataset.

    Datasets call ImageNet's classes by their WordNet ids, which are unique; then those
    are returned, if the model's are ImageNet's. Otherwise its names are.
    """
    count = len(model_classes)
    if count in _FILES and tuple(model_classes) == imagenet(count):
        ids = wordnet_ids(count)
        if set(dataset_classes) <= set(ids):
            return ids
    return model_classes
