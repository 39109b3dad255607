"""What the first layer looks for, and what token mixing puts together.

Dosovitskiy et al. 2020, figure 7, left; Tolstikhin et al. 2021, figure 5.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Shaped


@dataclasses.dataclass(frozen=True)
class Components:
    """Principal components of filters.

    Attributes:
        components: (i h w c), of norm 1, the one that explains most first.
        variance: (i,) the part of the filters' variance that each explains.
    """

    components: Float[np.ndarray, 'i h w c']
    variance: Float[np.ndarray, ' i']


def principal_components(
    kernel: Shaped[np.ndarray, 'h w c d'], count: int = 28
) -> Components:
    """Returns the principal components of the d filters of a kernel.

    A filter is one vector of all its pixels and channels. The sign of a component
    means nothing; here the largest value is positive.

    Args:
        kernel: d filters of h × w pixels.
        count: how many; fewer come out where there are fewer pixels or filters.
    """
    *shape, num_filters = kernel.shape
    filters = np.asarray(kernel, np.float64).reshape(-1, num_filters).T
    filters = filters - filters.mean(axis=0)
    _, scales, components = np.linalg.svd(filters, full_matrices=False)
    largest = np.abs(components).argmax(axis=1)
    signs = np.sign(np.take_along_axis(components, largest[:, None], axis=1))
    variance = scales**2 / max(np.sum(scales**2), np.finfo(np.float64).tiny)
    components = (components * signs).reshape(-1, *shape)
    return Components(components[:count], variance[:count])


def token_mixing(
    kernel: Shaped[np.ndarray, 'n m'], grid: tuple[int, int], count: int = 64
) -> Float[np.ndarray, 'i h w']:
    """Returns what the hidden units of a token-mixing MLP gather from where.

    Args:
        kernel: of its first layer, from n tokens to m hidden units.
        grid: (rows, columns) of the tokens.
        count: how many units; those with the largest weights, the largest first.
    """
    units = np.asarray(kernel, np.float64).T.reshape(-1, *grid)
    order = np.argsort(-np.linalg.norm(units, axis=(1, 2)), kind='stable')
    return units[order[:count]]
