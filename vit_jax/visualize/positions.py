"""Which positions a model takes to be alike (Dosovitskiy et al. 2020, figure 7)."""

import dataclasses

import numpy as np
from jaxtyping import Float, Shaped


@dataclasses.dataclass(frozen=True)
class Similarity:
    """Cosine similarities of position embeddings, -1 … 1.

    Attributes:
        patches: (h w H W) of the patch in row h, column w to that in row H, column W.
        prefix: (p h w) of each token before those of the patches, such as the class
            token, to the patches.
    """

    patches: Float[np.ndarray, 'h w h w']
    prefix: Float[np.ndarray, 'p h w']


def similarity(
    embedding: Shaped[np.ndarray, 'n d'], grid: tuple[int, int]
) -> Similarity:
    """Returns the similarities of position embeddings, laid out as the grid.

    Args:
        embedding: one row for each token: first those that are no patches, then the
            patches row by row.
        grid: (rows, columns) of patches.

    Raises:
        ValueError: there are fewer embeddings than patches.
    """
    rows, columns = grid
    prefix = len(embedding) - rows * columns
    if prefix < 0:
        raise ValueError(
            f'{len(embedding)} position embeddings cannot be those of a grid of '
            f'{rows}x{columns} patches'
        )
    vectors = np.asarray(embedding, np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors / np.maximum(norms, np.finfo(np.float64).tiny)
    # Rounding must not take a cosine beyond 1.
    cosine = np.clip(vectors @ vectors[prefix:].T, -1, 1).astype(np.float32)
    return Similarity(
        patches=cosine[prefix:].reshape(rows, columns, rows, columns),
        prefix=cosine[:prefix].reshape(prefix, rows, columns),
    )
