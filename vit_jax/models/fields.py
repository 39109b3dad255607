"""Checks of what users pass to the models, and what they are told."""

import dataclasses
from collections.abc import Container, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from vit_jax.words.suggest import check_one_of

# The forms of GELU. All weights that Google published were trained with the tanh
# approximation; PyTorch's ports compute the exact one (erf), which is one reason why
# the outputs of a port differ from the original's by 1e-3.
GELUS = ('tanh', 'exact')
# Of LayerNorm in the original and in timm; Hugging Face's ViT has 1e-12.
NORM_EPSILON = 1e-6
DTYPES = ('float32', 'bfloat16', 'float16')


def numerics(gelu: str | None, norm_epsilon: float | None) -> tuple[str, float]:
    """Returns which GELU and which LayerNorm epsilon; None is the published one."""
    if gelu is not None:
        check_one_of('gelu', gelu, GELUS)
    if norm_epsilon is not None and not norm_epsilon > 0:
        raise ValueError(
            f'norm_epsilon is {norm_epsilon!r}, expected a positive number'
        )
    return gelu or GELUS[0], norm_epsilon or NORM_EPSILON


def compute_dtype(dtype: Any) -> np.dtype:
    """Returns the dtype of that name or type; a ValueError if models have it not."""
    try:
        name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    except TypeError:
        name = dtype
    check_one_of('dtype', name, DTYPES)
    return jnp.dtype(name)


def frozen(
    what: str, fields: Any, required: Sequence[str], optional: Sequence[str] = ()
) -> FrozenConfigDict:
    """Returns the mapping immutable and hashable, with its keys checked."""
    if not isinstance(fields, Mapping | ConfigDict):
        raise ValueError(
            f'{what} is {fields!r}, expected a mapping with {", ".join(required)}.'
        )
    for key in fields:
        check_one_of(f'key of {what}', key, (*required, *optional))
    if missing := [key for key in required if key not in fields]:
        raise ValueError(f'{what} lacks {", ".join(missing)}: found {dict(fields)}.')
    # JSON makes lists of tuples; a FrozenConfigDict would tell them apart.
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return FrozenConfigDict(values)


def options(record: type, without: Container[str] = ()) -> tuple[list[str], list[str]]:
    """Returns the fields of a dataclass that must be given, and those that may be."""
    names = [f for f in dataclasses.fields(record) if f.name not in without]
    required = [f.name for f in names if f.default is dataclasses.MISSING]
    return required, [f.name for f in names if f.name not in required]


def check_images(images: Any) -> None:
    """Raises a ValueError unless there are images, and they are floats."""
    if images is None:
        raise ValueError('There are no images: model.apply(variables, images).')
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f'Expected images as floats, found {images.dtype}. Published models '
            'take pixels from 0 to 255 as (x - 127.5) / 127.5.'
        )


def check_patch_size(size: Any) -> None:
    """Raises a ValueError unless it is a (height, width) of positive numbers."""
    is_pair = isinstance(size, Sequence) and len(size) == 2
    if not (is_pair and all(isinstance(p, int) and p > 0 for p in size)):
        raise ValueError(f'patches.size is {size!r}, expected (height, width).')


def check_heads(hidden_size: int, num_heads: int) -> None:
    """Raises a ValueError unless all heads can have the same dimension."""
    if num_heads < 1 or hidden_size % num_heads:
        raise ValueError(
            f'hidden_size {hidden_size} does not divide into {num_heads} attention '
            'heads (transformer.num_heads) of equal dimension.'
        )
