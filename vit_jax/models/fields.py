"""Checks of what users pass to the models, and what they are told."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

DTYPES = ('float32', 'bfloat16', 'float16')


def unknown(what: str, found: Any, valid: Iterable[str]) -> ValueError:
    """Returns the error for a name that is none of the valid ones."""
    valid = list(valid)
    # Compared without case: 'vit-b16' should find 'ViT-B_16'.
    by_lower = {name.lower(): name for name in valid}
    near = difflib.get_close_matches(str(found).lower(), by_lower, n=5, cutoff=0.6)
    suggestion = f'did you mean {" or ".join(by_lower[name] for name in near)}? '
    return ValueError(
        f'Unknown {what} {found!r}: {suggestion if near else ""}'
        f'Expected one of {", ".join(valid)}.'
    )


def check_one_of(what: str, found: Any, valid: Iterable[str]) -> None:
    """Raises a ValueError unless the value is one of the valid ones."""
    valid = list(valid)
    if found not in valid:
        raise unknown(what, found, valid)


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
