"""How many patches, and so how many tokens, a model makes of an image."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vit_jax.models import resnet

# Classifiers whose tokens begin with a class token.
_WITH_CLASS_TOKEN = ('token', 'token_unpooled')


def grid_of_patches(model_config: Any, image_size: tuple[int, int]) -> tuple[int, int]:
    """Returns the (rows, columns) of patches that a model makes of an image.

    Plain models (ViT-*, patches of p×p pixels): p must divide both sides of the image;
    384×512 pixels are 24×32 patches of 16×16. No pixel is dropped silently.

    Hybrids (R…+ViT-*, patches of p×p positions of the ResNet's output): the root
    shrinks a side by s and rounds up, because its paddings are SAME; s is 4 for the
    stem alone (R+ViT-Ti_16), 16 for three stages (R50+ViT-B_16) and 32 for four. Then
    p must divide the result. With p = 1 any size will do; R+ViT-Ti_16 has p = 8.

    Args:
        model_config: as in MODEL_CONFIGS, or a `VisionTransformer`.
        image_size: (height, width) in pixels.

    Raises:
        ValueError: if the model cannot take the size; it names the nearest that work.
    """
    patch_size = tuple(_get(_get(model_config, 'patches'), 'size'))
    root = _get(model_config, 'resnet')
    scale = 1 if root is None else resnet.downscaling(_get(root, 'num_layers'))
    sides = list(zip(image_size, patch_size, strict=True))
    rows, columns = (_patches(side, patch, scale) for side, patch in sides)
    if rows and columns:
        return rows, columns

    name = _get(model_config, 'model_name') or 'This model'
    smaller, larger = zip(*(_nearest(*side, scale) for side in sides), strict=True)
    works = [f'{h}x{w}' for h, w in dict.fromkeys([smaller, larger]) if h and w]
    rule = f'multiples of {patch_size[0]} (height) and {patch_size[1]} (width) pixels'
    if scale > 1:
        rule = f'{rule[:-7]} after the ResNet root has divided them by {scale}'
    raise ValueError(
        f'{name} cannot take images of {image_size[0]}x{image_size[1]} pixels: its '
        f'patches have to cover the image, so its sides have to be {rule}. The nearest '
        f'sizes (height x width) that work: {", ".join(works)}.'
    )


def num_prefix_tokens(model_config: Any) -> int:
    """Returns how many tokens stand before those of the patches: 1 or 0."""
    return int(_get(model_config, 'classifier') in _WITH_CLASS_TOKEN)


def _patches(side: int, patch: int, scale: int) -> int:
    """Returns how many patches cover a side, or 0 if they do not fit."""
    positions = -(-side // scale)  # the root rounds up
    return 0 if positions % patch else max(0, positions // patch)


def _nearest(side: int, patch: int, scale: int) -> tuple[int, int]:
    """Returns the next smaller (0 if there is none) and larger side that works."""
    if _patches(side, patch, scale):
        return side, side
    patches = max(0, -(-side // scale)) // patch
    # The smallest side that the root rounds up to the next whole number of patches.
    return patches * patch * scale, ((patches + 1) * patch - 1) * scale + 1


def _get(config: Any, name: str) -> Any:
    if isinstance(config, Mapping | ConfigDict):
        return config.get(name)
    return getattr(config, name, None)
