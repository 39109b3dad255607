"""What must change in published weights before they fit another model.

Pure functions: none of them reads a file or places an array.
"""

import math
import re
from collections.abc import Sequence
from typing import Literal

import jax
import numpy as np
import scipy.ndimage
from jaxtyping import Float

from vit_jax.models.family import Grid, Shapes

HEAD = ('head/kernel', 'head/bias')
PRE_LOGITS = ('pre_logits/kernel', 'pre_logits/bias')


_BLOCK = re.compile(r'(?<=_)\d+(?=/)')


def interpolate_posembed(
    posemb: Float[np.ndarray | jax.Array, '1 n d'],
    num_tokens: int,
    has_class_token: bool,
) -> Float[np.ndarray, '1 m d']:
    """Resizes position embeddings between square grids, as the original does.

    Args:
      posemb: position embeddings, the class token's first if there is one.
      num_tokens: wanted number of tokens, class token included.
      has_class_token: whether the first position is a class token's.

    Raises:
      ValueError: one of the two grids is not square; see `resize_posembed`.
    """
    prefix = int(has_class_token)
    old = square_grid(posemb.shape[1] - prefix)
    new = square_grid(num_tokens - prefix)
    return resize_posembed(posemb, old, new, prefix)


def resize_posembed(
    posemb: Float[np.ndarray | jax.Array, '1 n d'],
    old_grid: Grid,
    new_grid: Grid,
    num_prefix_tokens: int,
    method: Literal['official', 'bilinear', 'bicubic'] = 'official',
) -> Float[np.ndarray, '1 m d']:
    """Resizes position embeddings from one (rows, columns) grid to another.

    Args:
      posemb: position embeddings, those of class tokens and the like first.
      old_grid: rows and columns that the embeddings were made for.
      new_grid: rows and columns wanted; the same grid changes nothing.
      num_prefix_tokens: number of positions before the grid; they are kept.
      method: 'official' interpolates linearly with the corners of both grids
        aligned, as the original repository (its `scipy.ndimage.zoom`, order 1).
        'bilinear' and 'bicubic' align the grids' outer edges and smooth when
        shrinking, as timm's `resample_abs_pos_embed`.

    Raises:
      ValueError: the grid does not account for the tokens, or a side is not positive.
    """
    posemb = np.asarray(posemb)
    tokens = posemb.shape[1] - num_prefix_tokens
    if min(*old_grid, *new_grid) < 1 or math.prod(old_grid) != tokens:
        raise ValueError(
            f'cannot resize position embeddings from a grid of {_by(old_grid)} to '
            f'{_by(new_grid)}: the array has {tokens} positions after '
            f'{num_prefix_tokens} prefix tokens, and sides must be positive'
        )
    if method not in ('official', 'bilinear', 'bicubic'):
        raise ValueError(
            f"unknown method {method!r}; expected 'official', 'bilinear' or 'bicubic'"
        )
    if tuple(old_grid) == tuple(new_grid):
        return posemb
    prefix, grid = np.split(posemb[0], [num_prefix_tokens])
    grid = grid.reshape(*old_grid, -1)
    if method == 'official':
        grid = _zoom(grid, new_grid)
    else:
        kind = {'bilinear': 'linear', 'bicubic': 'cubic'}[method]
        grid = jax.image.resize(grid, (*new_grid, grid.shape[-1]), kind)
    grid = np.asarray(grid).reshape(math.prod(new_grid), -1)
    return np.concatenate([prefix, grid])[None]


def input_channels(
    kernel: Float[np.ndarray, 'h w 3 d'], channels: int
) -> Float[np.ndarray, 'h w c d']:
    """Returns a kernel for images of another number of channels than three.

    For one channel, the sum over the three: a grey image then gives what its copy in
    red, green and blue gave. For others, the three in turn (red, green, blue, red, …)
    times 3 / channels, which keeps the size of the response.
    """
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    turns = kernel[:, :, np.arange(channels) % 3]
    return turns * np.asarray(3 / channels, kernel.dtype)


def square_grid(num_tokens: int) -> Grid:
    """Returns the square grid of that many tokens.

    Raises:
      ValueError: there is none.
    """
    side = math.isqrt(max(num_tokens, 0))
    if side < 1 or side * side != num_tokens:
        raise ValueError(
            f'{num_tokens} position embeddings do not form a square grid; say which '
            'image size (height, width) they belong to'
        )
    return side, side


def compare(found: Shapes, wanted: Shapes) -> list[str]:
    """Returns one line per difference between a file's shapes and a model's.

    `- missing` is only in the model, `+ unexpected` only in the file, `! misshapen`
    in both. Lines that differ in the number of the block alone are put together as
    `encoderblock_{4..11}`. No line means that the two fit.
    """
    lines = [f'- missing: {n} {wanted[n]}' for n in wanted if n not in found]
    lines += [f'+ unexpected: {n} {found[n]}' for n in found if n not in wanted]
    lines += [
        f'! misshapen: {n} is {found[n]} in the file, {wanted[n]} in the model'
        for n in wanted
        if n in found and found[n] != wanted[n]
    ]
    blocks: dict[str, list[int]] = {}
    for line in lines:
        number = _BLOCK.search(line)
        numbers = blocks.setdefault(_BLOCK.sub('{}', line, count=1), [])
        if number:
            numbers.append(int(number[0]))
    return [
        line.replace('{}', _ranges(numbers), 1) if numbers else line
        for line, numbers in blocks.items()
    ]


def class_order(old_names: Sequence[str], new_names: Sequence[str]) -> list[int] | None:
    """Returns for each new class the column of the old head that knows it.

    None means that the order is the same already.

    Raises:
      ValueError: the names are not the same set, or a name stands for two classes.
    """
    if list(old_names) == list(new_names):
        return None
    lines = [f'- only in the dataset: {n}' for n in new_names if n not in old_names]
    lines += [f'+ only in the weights: {n}' for n in old_names if n not in new_names]
    if lines:
        raise ValueError(
            'the head cannot be kept, because the class names do not agree:\n  '
            + '\n  '.join(lines)
            + '\nTrain a new head (keep_head=False), or rename the classes.'
        )
    position = {name: i for i, name in enumerate(old_names)}
    if len(position) < len(old_names) or len(old_names) != len(new_names):
        raise ValueError(
            'the head cannot be kept, because one name stands for several classes and '
            'the order differs; give the classes different names, or train a new head '
            '(keep_head=False)'
        )
    return [position[name] for name in new_names]


def _zoom(
    grid: Float[np.ndarray, 'h w d'], new_grid: Grid
) -> Float[np.ndarray, 'hh ww d']:
    rows, columns, _ = grid.shape
    # The original's call but for `mode`: with its default ('constant') the last row
    # and column come out as zeros where (old-1)/(new-1)*(new-1) rounds to more than
    # old-1 (a grid of 24 to 22, for instance). Elsewhere the results are identical.
    return scipy.ndimage.zoom(
        grid, (new_grid[0] / rows, new_grid[1] / columns, 1), order=1, mode='nearest'
    )


def _ranges(numbers: Sequence[int]) -> str:
    """Returns `7`, `{4..11}` or `{0,3,5}`."""
    numbers = sorted(numbers)
    if len(numbers) == 1:
        return str(numbers[0])
    if numbers[-1] - numbers[0] == len(numbers) - 1:
        return f'{{{numbers[0]}..{numbers[-1]}}}'
    return f'{{{",".join(map(str, numbers))}}}'


def _by(grid: Grid) -> str:
    return f'{grid[0]}x{grid[1]}'
