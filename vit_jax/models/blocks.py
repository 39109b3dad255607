"""The transformer block, and blocks one after another."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models import fields
from vit_jax.models.attention import ATTENTIONS, MultiHeadDotProductAttention
from vit_jax.models.layers import INTERMEDIATES, MlpBlock, layer_norm

# Published names of the parts of a block.
ATTENTION, MLP = 'MultiHeadDotProductAttention_0', 'MlpBlock_0'
# What the backward pass finds stored; the rest it computes again.
REMAT_POLICIES = {
    'none': jax.checkpoint_policies.everything_saveable,
    'full': jax.checkpoint_policies.nothing_saveable,  # the input of every block
    # The results of multiplications by parameters, not the attention's.
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclasses.dataclass(frozen=True)
class Block:
    """Every option of a transformer block, handed on whole from the model to it.

    A configuration says in `transformer` what no field of the model says, and none of
    these names is written anywhere else on the way: a new option is a field here and
    its use in `EncoderBlock`.

    Attributes:
        num_heads: k.
        mlp_dim: m.
        dtype: of the computation.
        dropout_rate: after attention, and in the MLP.
        attention_dropout_rate: of the attention weights.
        gelu: of fields.GELUS.
        norm_epsilon: of LayerNorm.
        attention: of ATTENTIONS.
        layer_scale: what the factors of LayerScale begin with (Touvron et al., 2021),
            (d) after attention and (d) after the MLP; None: without.
    """

    num_heads: int
    mlp_dim: int
    dtype: jnp.dtype
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.1
    gelu: str = 'tanh'
    norm_epsilon: float = fields.NORM_EPSILON
    attention: str = 'auto'
    layer_scale: float | None = None

    def __post_init__(self):
        fields.check_one_of('gelu', self.gelu, fields.GELUS)
        fields.check_one_of('attention', self.attention, ATTENTIONS)


class EncoderBlock(nn.Module):
    """A pre-LayerNorm transformer block."""

    options: Block

    @nn.compact
    def __call__(self, x: Float[Array, 'b n d'], train: bool) -> Float[Array, 'b n d']:
        """Returns x + MSA(LN(x)), and to that its MLP(LN(·)) added (eq. 2 and 3)."""
        options = self.options
        ln_1, ln_2 = (
            layer_norm(options.dtype, f'LayerNorm_{i}', options.norm_epsilon)
            for i in range(2)
        )
        attention = MultiHeadDotProductAttention(
            options.num_heads,
            options.attention_dropout_rate,
            options.dtype,
            options.attention,
            name=ATTENTION,
        )
        mlp = MlpBlock(
            options.mlp_dim, options.dropout_rate, options.dtype, options.gelu, name=MLP
        )
        dropout = nn.Dropout(options.dropout_rate, deterministic=not train)

        def scaled(y: Float[Array, 'b n d'], name: str) -> Float[Array, 'b n d']:
            if options.layer_scale is None:
                return y
            first = nn.initializers.constant(options.layer_scale)
            return y * self.param(name, first, y.shape[-1:]).astype(options.dtype)

        x = x + scaled(dropout(attention(ln_1(x), train)), 'layer_scale_attention')
        x = x + scaled(mlp(ln_2(x), train), 'layer_scale_mlp')
        self.sow(INTERMEDIATES, 'tokens', x)
        return x


def apply_blocks(
    block: type[nn.Module],
    options: Any,
    x: Float[Array, 'b n d'],
    train: bool,
    *,
    stem: str,
    num_layers: int,
    remat: str,
    scan_layers: bool,
) -> Float[Array, 'b n d']:
    """Returns x after so many blocks; called inside the module that owns them.

    Args:
        block: its only field are its options; it is called with (x, train).
        options: of each block.
        x: tokens.
        train: whether dropout is on.
        stem: the blocks become {stem}_0, {stem}_1, …; stacked, they are one: {stem}.
        num_layers: how many.
        remat: of REMAT_POLICIES.
        scan_layers: compile one block and loop over stacked parameters.
    """
    if remat != 'none':
        block = nn.remat(
            block,
            policy=REMAT_POLICIES[remat],
            static_argnums=(2,),  # train, where 0 is the module
            prevent_cse=not scan_layers,  # a loop prevents it already
        )
    if not scan_layers:
        for i in range(num_layers):
            x = block(options, name=f'{stem}_{i}')(x, train)
        return x
    scan = nn.scan(
        lambda block, x: (block(x, train), None),
        length=num_layers,
        variable_axes={'params': 0, INTERMEDIATES: 0},
        split_rngs={'params': True, 'dropout': True},
    )
    x, _ = scan(block(options, name=stem), x)
    return x
