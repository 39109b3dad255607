"""MLP-Mixer (Tolstikhin et al. 2021, An all-MLP Architecture for Vision).

An image is cut into patches and each patch is embedded as a token, as in a Vision
Transformer. The blocks mix in two ways: across tokens, by an MLP that every channel
goes through, and across channels, by an MLP that every token goes through. The weights
of the first know the number of tokens, so that a Mixer takes images of one size only.

Features come out by name, as described in vit.py: 'Mixer' has no attention and no
position embedding; what there is are `MixerBlock_{i}/tokens`, and `embedded`, `encoded`
and `pre_logits/features` under the same names as there.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from vit_jax.models import fields
from vit_jax.models.blocks import REMAT_POLICIES, apply_blocks
from vit_jax.models.family import WORDS, Facts, Family, Shapes, count_blocks
from vit_jax.models.grid import grid_of_patches
from vit_jax.models.layers import (
    HEAD_INITS,
    INTERMEDIATES,
    Head,
    MlpBlock,
    PreLogits,
    layer_norm,
)

STEM = 'MixerBlock'  # of the blocks' names


@dataclasses.dataclass(frozen=True)
class Mixing:
    """Every option of a Mixer's block; see the fields of `MlpMixer`."""

    tokens_mlp_dim: int
    channels_mlp_dim: int
    gelu: str
    norm_epsilon: float
    dtype: jnp.dtype


class MixerBlock(nn.Module):
    """Token mixing, then channel mixing."""

    options: Mixing

    @nn.compact
    def __call__(self, x: Float[Array, 'b n d'], train: bool) -> Float[Array, 'b n d']:
        """Returns x + MLP(LN(x)ᵀ)ᵀ, and to that its MLP(LN(·)) added (eq. 1)."""
        self._check_tokens(x.shape[1])
        options = self.options

        def mlp(width: int, name: str) -> MlpBlock:
            return MlpBlock(
                width,
                dtype=options.dtype,
                gelu=options.gelu,
                kernel_init=nn.initializers.lecun_normal(),
                bias_init=nn.initializers.zeros,
                name=name,
            )

        ln_1, ln_2 = (
            layer_norm(options.dtype, f'LayerNorm_{i}', options.norm_epsilon)
            for i in range(2)
        )
        mix_tokens = mlp(options.tokens_mlp_dim, 'token_mixing')
        mix_channels = mlp(options.channels_mlp_dim, 'channel_mixing')

        x = x + mix_tokens(ln_1(x).swapaxes(1, 2), train).swapaxes(1, 2)
        x = x + mix_channels(ln_2(x), train)
        self.sow(INTERMEDIATES, 'tokens', x)
        return x

    def _check_tokens(self, num_tokens: int) -> None:
        stored = self.get_variable('params', 'token_mixing')
        n = stored['Dense_0']['kernel'].shape[0] if stored else num_tokens
        if n != num_tokens:
            raise ValueError(
                f'This Mixer mixes {n} tokens, but these images make {num_tokens}: a '
                'Mixer is bound to its number of tokens. Feed images of the size the '
                'parameters were made for.'
            )


class MlpMixer(nn.Module):
    """The model; `models.get_model` makes it by a published name.

    All values are checked when the model is made, and a wrong one is a ValueError.

    Attributes:
        num_classes: width of the head; 0 or None for no head: the result is pre-logits.
        patches: {'size': (height, width)} in pixels; a dict or a ConfigDict.
        num_blocks: how many blocks.
        hidden_dim: width d of the tokens.
        tokens_mlp_dim: width of the MLPs across tokens.
        channels_mlp_dim: width of the MLPs across channels.
        model_name: for messages only.
        head_bias_init, head_init, dtype, remat, scan_layers, gelu, norm_epsilon: as in
            VisionTransformer.
    """

    num_classes: int | None
    patches: Any
    num_blocks: int
    hidden_dim: int
    tokens_mlp_dim: int
    channels_mlp_dim: int
    model_name: str | None = None
    head_bias_init: float = 0.0
    head_init: str = 'zeros'
    dtype: Any = 'float32'
    remat: str = 'none'
    scan_layers: bool = False
    gelu: str | None = None
    norm_epsilon: float | None = None

    def __post_init__(self):
        self.patches = fields.frozen('patches', self.patches, ['size'])
        self.dtype = fields.compute_dtype(self.dtype)
        fields.check_patch_size(self.patches.size)
        fields.check_one_of('head_init', self.head_init, HEAD_INITS)
        fields.check_one_of('remat', self.remat, REMAT_POLICIES)
        self.gelu, self.norm_epsilon = fields.numerics(self.gelu, self.norm_epsilon)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        images: Shaped[Array | np.ndarray, 'b h w c'] | None = None,
        train: bool = False,
        *,
        inputs: Shaped[Array | np.ndarray, 'b h w c'] | None = None,
    ) -> Float[Array, 'b y']:
        """Returns float32 logits, or pre-logits if there is no head.

        Args:
            images: floats, from -1 (black) to 1 in the published models; of one size.
            train: has no effect: a Mixer has no dropout.
            inputs: the images, by the name that the original has for them.

        Raises:
            ValueError: if the images are not floats, patches do not cover them, or they
                make another number of tokens than the parameters are for.
        """
        images = inputs if images is None else images
        fields.check_images(images)
        rows, columns = grid_of_patches(self, images.shape[1:3])
        size = self.patches.size
        stem = nn.Conv(
            self.hidden_dim,
            kernel_size=size,
            strides=size,
            padding='VALID',
            dtype=self.dtype,
            name='stem',
        )
        x = stem(jnp.asarray(images, self.dtype))
        x = x.reshape(-1, rows * columns, self.hidden_dim)
        self.sow(INTERMEDIATES, 'embedded', x)

        names = (field.name for field in dataclasses.fields(Mixing))
        options = Mixing(**{name: getattr(self, name) for name in names})
        x = apply_blocks(
            MixerBlock,
            options,
            x,
            train,
            stem=STEM,
            num_layers=self.num_blocks,
            remat=self.remat,
            scan_layers=self.scan_layers,
        )
        x = layer_norm(self.dtype, 'pre_head_layer_norm', self.norm_epsilon)(x)
        self.sow(INTERMEDIATES, 'encoded', x)
        x = PreLogits(None, self.dtype, name='pre_logits')(x.mean(axis=1))
        if not self.num_classes:
            return x
        head = Head(self.num_classes, self.head_init, self.head_bias_init, name='head')
        return head(x)


_TOKEN_KERNEL = 'token_mixing/Dense_0/kernel'


def _facts_of_shapes(shapes: Shapes) -> Facts | None:
    kernel, depth = shapes.get('stem/kernel', ()), count_blocks(shapes, STEM)
    if len(kernel) != 4 or not depth:
        return None
    tokens, channels = (
        shapes.get(f'{STEM}_0/{side}_mixing/Dense_0/kernel', (None,))[-1]
        for side in ('token', 'channel')
    )
    return {
        'width': kernel[-1],
        'depth': depth,
        'token MLP width': tokens,
        'channel MLP width': channels,
        'patch': tuple(kernel[:2]),
    }


# What people say -> the field that says it.
_FIELDS = {
    'width': 'hidden_dim',
    'depth': 'num_blocks',
    'token MLP width': 'tokens_mlp_dim',
    'channel MLP width': 'channels_mlp_dim',
}


def _facts_of_config(config: Any) -> Facts:
    facts = {fact: config[field] for fact, field in _FIELDS.items()}
    return facts | {'patch': tuple(config['patches']['size'])}


def _config_of_facts(facts: Facts) -> dict[str, Any]:
    config = {field: facts[fact] for fact, field in _FIELDS.items()}
    return config | {'patches': {'size': facts['patch']}}


FAMILY = Family(
    name='MLP-Mixer',
    module=MlpMixer,
    stems=(STEM,),
    after=r'(^|/)(pre_head_layer_norm|pre_logits|head)/',
    token_kernel=_TOKEN_KERNEL,
    input_kernels=('stem/kernel',),
    grid=grid_of_patches,
    num_patches=lambda shapes: shapes.get(f'{STEM}_0/{_TOKEN_KERNEL}', (0,))[0],
    facts_of_shapes=_facts_of_shapes,
    facts_of_config=_facts_of_config,
    config_of_facts=_config_of_facts,
    words={
        **WORDS,
        'stem': 'patches, each embedded',
        'token_mixing/Dense_0': 'MLP over tokens, hidden units',
        'token_mixing/Dense_1': 'MLP over tokens, output',
        'channel_mixing/Dense_0': 'MLP over channels, hidden units',
        'channel_mixing/Dense_1': 'MLP over channels, output',
        'pre_head_layer_norm': 'last LayerNorm',
    },
)
