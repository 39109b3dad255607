"""Whether cuDNN's kernel can compute attention here, and why not."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array


def obstacle(shape: tuple, dtype: jnp.dtype, dropout_rate: float) -> str:
    """Returns why cuDNN's attention cannot run, or ''.

    Args:
        shape: of the queries, (b n k e).
        dtype: of the queries.
        dropout_rate: of the attention weights.
    """
    if dtype == jnp.float32:
        return 'it computes in bfloat16 or float16, and dtype is float32'
    if dropout_rate:
        return f'attention_dropout_rate is {dropout_rate}, and it drops nothing'
    if not all(isinstance(size, int) for size in shape):
        return 'it needs to know the number of images, which an export leaves open'
    # Only now: a float32 model can be traced before hosts have found each other.
    if (backend := jax.default_backend()) != 'gpu':
        return f'this is a {backend}, and it needs an NVIDIA GPU'
    device = jax.local_devices()[0]
    # '9.0'; other makers have names here.
    capability = str(getattr(device, 'compute_capability', ''))
    if not capability[:1].isdigit() or float(capability) < 8:
        return (
            f'this is a {device.device_kind}, and it needs an NVIDIA GPU of compute '
            'capability 8.0 or more (A100 and later)'
        )
    return _refusal(*shape[1:], dtype)


@functools.cache
def _refusal(length: int, num_heads: int, head_dim: int, dtype: jnp.dtype) -> str:
    """Returns why cuDNN has no kernel and gradient for such images, or ''.

    It is asked, not known: that depends on its version, on the GPU and on CUDA's
    version (github.com/jax-ml/jax/issues/32430).
    """
    query = jax.ShapeDtypeStruct((2, length, num_heads, head_dim), dtype)

    def total(query: Array, key: Array, value: Array) -> Array:
        attend = jax.nn.dot_product_attention
        return attend(query, key, value, implementation='cudnn').sum()

    try:
        gradient = jax.jit(jax.grad(total, argnums=(0, 1, 2)))
        gradient.lower(query, query, query).compile()
    except (RuntimeError, NotImplementedError, ValueError) as error:
        first = str(error).strip().partition('\n')[0]
        return (
            f'cuDNN has no kernel for {num_heads} heads of {head_dim} dimensions and '
            f'{length} tokens in {dtype} here ({first})'
        )
    return ''
