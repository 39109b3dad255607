"""How far attention reaches, and where it comes from.

Attention weights are (b k n n): of images, heads, and of each token (a row, which sums
to one) to each token that it gathers from. The first `prefix` tokens are no patches.
"""

import numpy as np
from jaxtyping import Float


def patch_distances(
    grid: tuple[int, int], patch: tuple[float, float]
) -> Float[np.ndarray, 'n n']:
    """Returns the distances between the centres of patches, in pixels.

    Args:
        grid: (rows, columns) of patches.
        patch: (height, width) of a patch in pixels.
    """
    rows, columns = np.indices(grid).reshape(2, -1).astype(np.float64)
    down = (rows[:, None] - rows) * patch[0]
    across = (columns[:, None] - columns) * patch[1]
    return np.hypot(down, across)


def mean_distance(
    weights: Float[np.ndarray, 'b k n n'],
    grid: tuple[int, int],
    patch: tuple[float, float],
) -> Float[np.ndarray, 'b k']:
    """Returns the mean attention distance of each head, in pixels.

    From each patch, the mean of its distances to all patches, weighted by attention;
    then the mean over the patches (Dosovitskiy et al. 2020, section 4.5 and figure 7,
    right). Other tokens are nowhere: they are left out, and what remains of a row is
    made to sum to one.

    Args:
        weights: attention; the patches are its last tokens, row by row.
        grid: (rows, columns) of patches.
        patch: (height, width) of a patch in pixels.
    """
    patches = weights[..., -grid[0] * grid[1] :, -grid[0] * grid[1] :]
    distances = patch_distances(grid, patch).astype(np.float32)
    weighted = np.einsum('bknN,nN->bkn', patches, distances)
    total = patches.sum(axis=-1)
    # A patch may look at the class token and nowhere else.
    looks = total > np.finfo(np.float32).tiny
    reach = np.divide(weighted, total, out=np.zeros_like(weighted), where=looks)
    return reach.sum(axis=-1) / np.maximum(looks.sum(axis=-1), 1)


def rollout_start(
    num_images: int, num_tokens: int, prefix: int
) -> Float[np.ndarray, 'b n']:
    """Returns the part of the head's input that each token is, after the last block.

    The head sees the class token, which is the first, if there is one; else the mean
    of all tokens.
    """
    parts = np.zeros((num_images, num_tokens))
    if prefix:
        parts[:, 0] = 1
    else:
        parts[:] = 1 / num_tokens
    return parts


def rollout_step(
    parts: Float[np.ndarray, 'b n'], weights: Float[np.ndarray, 'b k n n']
) -> Float[np.ndarray, 'b n']:
    """Returns the parts before a block, given those after it; each row sums to one.

    Attention rollout (Abnar & Zuidema 2020, section 3): half of a token comes through
    the shortcut, half by attention, averaged over the heads; layers multiply. Beginning
    at the last block, one row is multiplied by matrices instead of matrices by
    matrices.

    Args:
        parts: of the tokens after the block.
        weights: attention in the block.
    """
    gathered = np.einsum('bn,bnN->bN', parts, weights.mean(axis=1, dtype=np.float64))
    return (parts + gathered) / 2


def rollout_map(
    parts: Float[np.ndarray, 'b n'], grid: tuple[int, int]
) -> Float[np.ndarray, 'b h w']:
    """Returns the parts that come from each patch; each map sums to one.

    What comes from other tokens is left out. (Everything may: then a map is even.)
    """
    patches = parts[:, -grid[0] * grid[1] :]
    total = patches.sum(axis=1, keepdims=True)
    even = np.full_like(patches, 1 / patches.shape[1])
    maps = np.divide(patches, total, out=even, where=total > np.finfo(np.float32).tiny)
    return maps.reshape(-1, *grid).astype(np.float32)


def rollout(
    weights: Float[np.ndarray, 'l b k n n'], grid: tuple[int, int]
) -> Float[np.ndarray, 'b h w']:
    """Returns attention rollout from the head's input to the patches.

    Args:
        weights: attention of all blocks, the first block first.
        grid: (rows, columns) of patches.
    """
    _, num_images, _, num_tokens, _ = weights.shape
    prefix = num_tokens - grid[0] * grid[1]
    parts = rollout_start(num_images, num_tokens, prefix)
    for layer in weights[::-1]:
        parts = rollout_step(parts, layer)
    return rollout_map(parts, grid)
