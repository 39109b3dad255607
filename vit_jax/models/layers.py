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

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Where features are sown: `model.apply(..., mutable=[INTERMEDIATES])` returns them.
INTERMEDIATES = 'intermediates'


def layer_norm(dtype: jnp.dtype, name: str) -> nn.LayerNorm:
    """Returns a LayerNorm with the paper's epsilon (timm has the same, HF 1e-12)."""
    return nn.LayerNorm(epsilon=1e-6, dtype=dtype, name=name)


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
    """The MLP of a transformer block: d -> m -> d with a GELU in between."""

    mlp_dim: int
    dropout_rate: float = 0.0
    dtype: jnp.dtype = jnp.dtype('float32')

    @nn.compact
    def __call__(self, x: Float[Array, 'b n d'], train: bool) -> Float[Array, 'b n d']:
        """Returns the MLP of every token."""

        def dense(features: int, name: str) -> nn.Dense:
            return nn.Dense(
                features,
                dtype=self.dtype,
                kernel_init=nn.initializers.xavier_uniform(),
                bias_init=nn.initializers.normal(1e-6),
                name=name,
            )

        width = x.shape[-1]
        dropout = nn.Dropout(self.dropout_rate, deterministic=not train)
        x = dense(self.mlp_dim, 'Dense_0')(x)
        # The tanh approximation: the published weights were trained with it. PyTorch
        # ports use the exact form; it is one reason why their outputs differ by 1e-3.
        x = dropout(nn.gelu(x, approximate=True))
        return dropout(dense(width, 'Dense_1')(x))


class MultiHeadDotProductAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2)."""

    num_heads: int
    dropout_rate: float = 0.0  # of the attention weights
    dtype: jnp.dtype = jnp.dtype('float32')

    @nn.compact
    def __call__(self, x: Float[Array, 'b n d'], train: bool) -> Float[Array, 'b n d']:
        """Returns what every token gathers; sows attention_weights (b k n n)."""
        width = x.shape[-1]
        head_dim = width // self.num_heads

        def project(name: str) -> Float[Array, 'b n k e']:
            return nn.DenseGeneral(
                (self.num_heads, head_dim),
                dtype=self.dtype,
                kernel_init=nn.initializers.xavier_uniform(),
                name=name,
            )(x)

        query, key, value = project('query'), project('key'), project('value')
        query = query * head_dim**-0.5
        # The product is computed in dtype and cast, not asked for in float32: otherwise
        # the backward pass would multiply float32 by bfloat16 matrices, at the speed of
        # float32 and with a copy.
        scores = jnp.einsum('bnke,bNke->bknN', query, key).astype(jnp.float32)
        weights = jax.nn.softmax(scores, axis=-1)
        self.sow(INTERMEDIATES, 'attention_weights', weights)
        weights = weights.astype(self.dtype)
        # Every head draws its own mask.
        weights = nn.Dropout(self.dropout_rate, deterministic=not train)(weights)
        gathered = jnp.einsum('bknN,bNke->bnke', weights, value)
        return nn.DenseGeneral(
            width,
            axis=(-2, -1),
            dtype=self.dtype,
            kernel_init=nn.initializers.xavier_uniform(),
            name='out',
        )(gathered)


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
