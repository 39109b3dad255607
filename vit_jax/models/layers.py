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

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.products import matrix_product

# Where features are sown: `model.apply(..., mutable=[INTERMEDIATES])` returns them.
INTERMEDIATES = 'intermediates'

HEAD_INITS = {
    'zeros': nn.initializers.zeros,
    'lecun_normal': nn.initializers.lecun_normal(),
}


def layer_norm(dtype: jnp.dtype, name: str, epsilon: float) -> nn.LayerNorm:
    """Returns a LayerNorm."""
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, name=name)


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
