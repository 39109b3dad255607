"""Layers that several networks share.

Axis letters, in signatures, einsums and comments of the whole package:

    b batch            n tokens           l layers (encoder blocks)
    h w height, width of an image or of a grid of patches
    c channels         d width            y classes
    p patch side       k attention heads  e head dimension    m MLP width

Parameters are float32. `dtype` is the type of the computation: every layer casts
its input and its parameters to it. Three things stay in float32 whatever it is,
because half precision loses accuracy there and float32 costs next to nothing: the
statistics of normalisations, the softmax of attention, and the logits.

Module names equal those in the published checkpoints; changing one breaks every file.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Where features are sown: `model.apply(..., mutable=[INTERMEDIATES])` returns them.
INTERMEDIATES = 'intermediates'


HEAD_INITS = {
    'zeros': nn.initializers.zeros,
    'lecun_normal': nn.initializers.lecun_normal(),
}
# What the backward pass finds stored; the rest it computes again.
REMAT_POLICIES = {
    'none': jax.checkpoint_policies.everything_saveable,
    'full': jax.checkpoint_policies.nothing_saveable,  # the input of every block
    # The results of multiplications by parameters, not the attention's.
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def layer_norm(dtype: jnp.dtype, name: str, epsilon: float) -> nn.LayerNorm:
    """Returns a LayerNorm."""
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, name=name)


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


class AddPositionEmbs(nn.Module):
    """Adds a learned position embedding, one vector per token."""

    dtype: jnp.dtype = jnp.dtype('float32')

    @nn.compact
    def __call__(self, x: Float[Array, 'b n d']) -> Float[Array, 'b n d']:
        """Returns x plus the embedding; a ValueError if there is one for another n."""
        shape = (1, *x.shape[1:])
        stored = self.get_variable('params', 'pos_embedding')
        if stored is not None and stored.shape != shape:
            raise ValueError(
                f'The position embedding has shape {stored.shape}, but these images '
                f'make {shape[1]} tokens of width {shape[2]}. Feed images of the size '
                'the parameters were made for, or resize the embedding with '
                'checkpoint.resize_posembed.'
            )
        embedding = self.param('pos_embedding', nn.initializers.normal(0.02), shape)
        return x + embedding.astype(self.dtype)


class MlpBlock(nn.Module):
    """The MLP of a block: d -> m -> d with a GELU in between."""

    mlp_dim: int
    dropout_rate: float = 0.0
    dtype: jnp.dtype = jnp.dtype('float32')
    gelu: str = 'tanh'
    kernel_init: Callable = nn.initializers.xavier_uniform()
    bias_init: Callable = nn.initializers.normal(1e-6)

    @nn.compact
    def __call__(self, x: Float[Array, 'b n d'], train: bool) -> Float[Array, 'b n d']:
        """Returns the MLP of every token."""

        def dense(features: int, name: str) -> nn.Dense:
            return nn.Dense(
                features,
                dtype=self.dtype,
                kernel_init=self.kernel_init,
                bias_init=self.bias_init,
                dot_general=matrix_product,
                name=name,
            )

        width = x.shape[-1]
        dropout = nn.Dropout(self.dropout_rate, deterministic=not train)
        x = dense(self.mlp_dim, 'Dense_0')(x)
        x = dropout(nn.gelu(x, approximate=self.gelu == 'tanh'))
        return dropout(dense(width, 'Dense_1')(x))


class PreLogits(nn.Module):
    """tanh(W x + b) of the given width, or x itself where that is None."""

    width: int | None
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, 'b *n d']) -> Float[Array, 'b *n r']:
        """Returns the features that the head sees, in float32."""
        if self.width is not None:
            dense = nn.Dense(self.width, dtype=self.dtype)
            nn.share_scope(self, dense)  # published as pre_logits/kernel
            x = nn.tanh(dense(x))
        x = x.astype(jnp.float32)
        self.sow(INTERMEDIATES, 'features', x)
        return x


class Head(nn.Module):
    """A linear layer in float32: from features to logits."""

    num_classes: int
    kernel_init: str = 'zeros'  # of HEAD_INITS
    bias_init: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, 'b *n d']) -> Float[Array, 'b *n y']:
        """Returns the logits."""
        dense = nn.Dense(
            self.num_classes,
            kernel_init=HEAD_INITS[self.kernel_init],
            bias_init=nn.initializers.constant(self.bias_init),
        )
        nn.share_scope(self, dense)  # published as head/kernel
        return dense(x)


def apply_blocks(
    block: Callable[..., nn.Module],
    name: str,
    num_layers: int,
    x: Float[Array, 'b n d'],
    train: bool,
    *,
    remat: str,
    scan_layers: bool,
) -> Float[Array, 'b n d']:
    """Returns x after so many blocks; called inside the module that owns them.

    Args:
        block: a module class with its fields bound (`functools.partial`); its modules
            are called with (x, train).
        name: the blocks become {name}_0, {name}_1, …; stacked, they are one: {name}.
        num_layers: how many.
        x: tokens.
        train: whether dropout is on.
        remat: of REMAT_POLICIES.
        scan_layers: compile one block and loop over stacked parameters.
    """
    make = block
    if remat != 'none':
        rematerialized = nn.remat(
            block.func,
            policy=REMAT_POLICIES[remat],
            static_argnums=(2,),  # train, where 0 is the module
            prevent_cse=not scan_layers,  # a loop prevents it already
        )
        make = functools.partial(rematerialized, *block.args, **block.keywords)
    if not scan_layers:
        for i in range(num_layers):
            x = make(name=f'{name}_{i}')(x, train)
        return x
    scan = nn.scan(
        lambda block, x: (block(x, train), None),
        length=num_layers,
        variable_axes={'params': 0, INTERMEDIATES: 0},
        split_rngs={'params': True, 'dropout': True},
    )
    x, _ = scan(make(name=name), x)
    return x
