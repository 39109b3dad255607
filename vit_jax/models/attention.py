"""Multi-head self-attention, by XLA or by cuDNN's kernel."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models import cudnn
from vit_jax.models.layers import INTERMEDIATES
from vit_jax.models.products import matrix_product

# How attention is computed: by cuDNN's kernel where it can run and by XLA elsewhere, by
# XLA, or by cuDNN's kernel or not at all.
ATTENTIONS = ('auto', 'xla', 'cudnn')


class MultiHeadDotProductAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2).

    Attributes:
        num_heads: k.
        dropout_rate: of the attention weights.
        dtype: of the computation.
        attention: of ATTENTIONS.
    """

    num_heads: int
    dropout_rate: float = 0.0
    dtype: jnp.dtype = jnp.dtype('float32')
    attention: str = 'auto'

    @nn.compact
    def __call__(self, x: Float[Array, 'b n d'], train: bool) -> Float[Array, 'b n d']:
        """Returns what every token gathers; sows attention_weights (b k n n).

        Raises:
            ValueError: cuDNN's kernel is asked for where it cannot run.
        """
        width = x.shape[-1]
        head_dim = width // self.num_heads

        def project(name: str) -> Float[Array, 'b n k e']:
            return nn.DenseGeneral(
                (self.num_heads, head_dim),
                dtype=self.dtype,
                kernel_init=nn.initializers.xavier_uniform(),
                dot_general=matrix_product,
                name=name,
            )(x)

        query, key, value = project('query'), project('key'), project('value')
        if self._use_cudnn(query.shape, train):
            gathered = jax.nn.dot_product_attention(
                query, key, value, implementation='cudnn'
            )
            # The kernel never holds the weights: they are computed if they are wanted.
            if self.is_mutable_collection(INTERMEDIATES):
                self._sow(softmax_numerator(heads_first(query), heads_first(key)))
        else:
            query, key, value = map(heads_first, (query, key, value))
            weights = softmax_numerator(query, key)
            if self.is_mutable_collection(INTERMEDIATES):
                self._sow(weights)
            # Every head draws its own mask.
            dropout = nn.Dropout(self.dropout_rate, deterministic=not train)
            dropped = dropout(weights.astype(self.dtype))
            # Divided after the product: that has e columns, the weights have n.
            gathered = jnp.einsum('bknN,bkNe->bkne', dropped, value)
            gathered = gathered / weights.sum(axis=-1, keepdims=True)
            gathered = heads_first(gathered.astype(self.dtype))
        return nn.DenseGeneral(
            width,
            axis=(-2, -1),
            dtype=self.dtype,
            kernel_init=nn.initializers.xavier_uniform(),
            dot_general=matrix_product,
            name='out',
        )(gathered)

    def _sow(self, numerator: Float[Array, 'b k n n']) -> None:
        weights = numerator / numerator.sum(axis=-1, keepdims=True)
        self.sow(INTERMEDIATES, 'attention_weights', weights)

    def _use_cudnn(self, shape: tuple, train: bool) -> bool:
        if self.attention == 'xla':
            return False
        dropout_rate = self.dropout_rate if train else 0.0
        obstacle = cudnn.obstacle(shape, self.dtype, dropout_rate)
        if obstacle and self.attention == 'cudnn':
            raise ValueError(
                f"attention is 'cudnn', but its kernel cannot run: {obstacle}. "
                "'auto' takes it wherever it can, 'xla' runs everywhere."
            )
        return not obstacle


def heads_first(x: Float[Array, 'b i j e']) -> Float[Array, 'b j i e']:
    """Returns (b n k e) as (b k n e), where every head is a matrix; or the reverse."""
    return x.swapaxes(1, 2)


def softmax_numerator(
    query: Float[Array, 'b k n e'], key: Float[Array, 'b k n e']
) -> Float[Array, 'b k n n']:
    """Returns softmax(q k^T / sqrt(e)), each row a multiple of it; float32, at most 1.

    Rows are what tokens look at.
    """
    query = query * query.shape[-1] ** -0.5
    # The product is computed in its own type and cast, not asked for in float32:
    # otherwise the backward pass would multiply float32 by bfloat16 matrices, at the
    # speed of float32 and with a copy.
    scores = jnp.einsum('bkne,bkNe->bknN', query, key).astype(jnp.float32)
    largest = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    return jnp.exp(scores - largest)
