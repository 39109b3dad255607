"""Matrix products in the form that XLA's programs for CPUs compute fastest."""

import math
from typing import Any

import jax
from jaxtyping import Array, Float


def matrix_product(
    x: Array, kernel: Array, dimension_numbers: tuple, **options: Any
) -> Array:
    """Returns `jax.lax.dot_general` as a product of two matrices; for `nn.Dense`.

    The tokens of all images are rows of one matrix. XLA's programs for CPUs multiply
    two matrices faster than (b n d) by (d m) (docs/benchmarks.md).

    Args:
        x: any leading axes, and those that are summed over.
        kernel: those that are summed over, and any others.
        dimension_numbers: of `dot_general`; these axes, and no batch axes.
        **options: of `dot_general`.
    """
    ((summed, _), _) = dimension_numbers
    rows, columns = x.shape[: -len(summed)], kernel.shape[len(summed) :]
    inner = math.prod(kernel.shape[: len(summed)])
    product = jax.lax.dot_general(
        x.reshape(-1, inner), kernel.reshape(inner, -1), (((1,), (0,)), ((), ())),
        **options,
    )  # fmt: skip
    return product.reshape(*rows, *columns)


def patch_product(
    x: Float[Array, 'b h w c'], kernel: Array, *_: Any, **options: Any
) -> Float[Array, 'b h2 w2 d']:
    """Returns the convolution whose stride is its kernel's size; for `nn.Conv`.

    Each patch is a row of one matrix. XLA's programs for CPUs train about 4 % faster
    so (docs/benchmarks.md).

    Args:
        x: images, which patches cover.
        kernel: (p_h p_w c d).
        **options: of `jax.lax.conv_general_dilated`; the precision counts.
    """
    batch, height, width, channels = x.shape
    patch = kernel.shape[:2]
    rows, columns = height // patch[0], width // patch[1]
    x = x.reshape(batch, rows, patch[0], columns, patch[1], channels)
    x = x.swapaxes(2, 3).reshape(batch, rows, columns, math.prod(kernel.shape[:-1]))
    kernel = kernel.reshape(-1, kernel.shape[-1])
    contracted = (((3,), (0,)), ((), ()))
    return matrix_product(x, kernel, contracted, precision=options['precision'])
