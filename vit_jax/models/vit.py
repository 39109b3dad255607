"""Vision Transformers, plain and hybrid.

Dosovitskiy et al. 2020, An Image is Worth 16x16 Words (the models); Steiner et al.
2021, How to train your ViT? (sizes Ti and S, more hybrids).

An image is cut into patches, each patch is embedded as a token, a class token may be
put before them, position embeddings are added, transformer blocks follow, and a linear
head looks at the class token or at the mean of all tokens.

Features come out by name, for instance for visualisation:

    logits, state = model.apply(variables, images, mutable=['intermediates'])
    state['intermediates'] = {
        'Transformer': {
            'embedded': (b n d),        # tokens as the first block sees them
            'encoderblock_0': {
                'MultiHeadDotProductAttention_0': {'attention_weights': (b k n n)},
                'tokens': (b n d)},     # after the block
            …
            'encoded': (b n d)},        # after the last LayerNorm
        'pre_logits': {'features': (b d)}}   # what the head sees

where each leaf is a tuple of one array, as `sow` makes it. With `scan_layers` the
blocks are stacked, and `models.unstack` separates them.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from vit_jax.models import fields
from vit_jax.models.blocks import (
    ATTENTION,
    MLP,
    REMAT_POLICIES,
    Block,
    EncoderBlock,
    apply_blocks,
)
from vit_jax.models.family import WORDS, Facts, Family, Shapes, count_blocks
from vit_jax.models.grid import grid_of_patches, num_prefix_tokens
from vit_jax.models.layers import (
    HEAD_INITS,
    INTERMEDIATES,
    AddPositionEmbs,
    Head,
    PreLogits,
    layer_norm,
)
from vit_jax.models.products import patch_product
from vit_jax.models.resnet import STANDARDIZATIONS, UNIT, ResNetRoot, num_units

STEM = 'encoderblock'  # of the blocks' names
CLASSIFIERS = ('token', 'gap', 'unpooled', 'token_unpooled')


class Encoder(nn.Module):
    """Position embedding, blocks and the last LayerNorm."""

    num_layers: int
    block: Block
    remat: str = 'none'
    scan_layers: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, 'b n d'], train: bool) -> Float[Array, 'b n d']:
        """Returns the encoded tokens."""
        block = self.block
        x = AddPositionEmbs(block.dtype, name='posembed_input')(x)
        x = nn.Dropout(block.dropout_rate, deterministic=not train)(x)
        self.sow(INTERMEDIATES, 'embedded', x)
        x = apply_blocks(
            EncoderBlock,
            block,
            x,
            train,
            stem=STEM,
            num_layers=self.num_layers,
            remat=self.remat,
            scan_layers=self.scan_layers,
        )
        x = layer_norm(block.dtype, 'encoder_norm', block.norm_epsilon)(x)
        self.sow(INTERMEDIATES, 'encoded', x)
        return x


class VisionTransformer(nn.Module):
    """The model; `models.get_model` makes it by a published name.

    Mappings may be dicts or ConfigDicts. All values are checked when the model is made,
    and a wrong one is a ValueError.

    Attributes:
        num_classes: width of the head; 0 or None for no head: the result is pre-logits.
        patches: {'size': (height, width)}, in pixels, or in positions of the root.
        transformer: num_layers, and the options of a `Block`: num_heads, mlp_dim,
            dropout_rate (0.1), attention_dropout_rate (0.1).
        hidden_size: width d of the tokens.
        resnet: {'num_layers': units of each stage, 'width_factor': …} for hybrids;
            see resnet.py.
        representation_size: width of a tanh layer before the head, or None.
        classifier: what the head sees: 'token' (the class token), 'gap' (the mean of
            the patches' tokens), 'unpooled' (all of these tokens) or 'token_unpooled'
            (all, the class token first).
        head_bias_init: initial value of the head's bias.
        model_name: for messages only.
        head_init: of the head's kernel, 'zeros' or 'lecun_normal'.
        dtype: of the computation, 'float32', 'bfloat16' or 'float16'; see layers.py.
        remat: what the backward pass computes again instead of storing it: 'none',
            'full' (everything inside a block) or 'dots' (all but matrix products).
        scan_layers: whether one compiled block runs in a loop over stacked parameters
            (`models.stack`). Compiles faster, runs slower.
        gelu: 'tanh', the approximation with which the published weights were trained
            (None means it too), or 'exact', as in PyTorch's ports.
        norm_epsilon: of LayerNorm; None: 1e-6, as published and in timm.
        attention: 'auto' takes cuDNN's kernel where it can run (NVIDIA GPUs, bfloat16
            or float16, no dropout of attention weights), 'xla' never, 'cudnn' always,
            with an error where it cannot run.
    """

    num_classes: int | None
    patches: Any
    transformer: Any
    hidden_size: int
    resnet: Any = None
    representation_size: int | None = None
    classifier: str = 'token'
    head_bias_init: float = 0.0
    model_name: str | None = None
    head_init: str = 'zeros'
    dtype: Any = 'float32'
    remat: str = 'none'
    scan_layers: bool = False
    gelu: str | None = None
    norm_epsilon: float | None = None
    attention: str = 'auto'

    def __post_init__(self):
        # Frozen, so that a model can be hashed and is not changed through a config.
        self.patches = fields.frozen('patches', self.patches, ['size'])
        required, optional = fields.options(Block, without=self.__dataclass_fields__)
        self.transformer = fields.frozen(
            'transformer',
            self.transformer,
            required=['num_layers', *required],
            optional=optional,
        )
        if self.resnet is not None:
            self.resnet = fields.frozen(
                'resnet',
                self.resnet,
                required=['num_layers'],
                optional=['width_factor', 'norm_epsilon', 'standardize'],
            )
            if by := self.resnet.get('standardize'):
                fields.check_one_of('resnet.standardize', by, STANDARDIZATIONS)
        self.dtype = fields.compute_dtype(self.dtype)
        fields.check_patch_size(self.patches.size)
        fields.check_heads(self.hidden_size, self.transformer.num_heads)
        fields.check_one_of('classifier', self.classifier, CLASSIFIERS)
        fields.check_one_of('head_init', self.head_init, HEAD_INITS)
        fields.check_one_of('remat', self.remat, REMAT_POLICIES)
        self.gelu, self.norm_epsilon = fields.numerics(self.gelu, self.norm_epsilon)
        self._block()  # checks its options
        super().__post_init__()

    @nn.nowrap
    def _block(self) -> Block:
        """Returns the options of every block: `transformer`'s and the model's own."""
        options = {k: v for k, v in self.transformer.items() if k != 'num_layers'}
        return Block(
            **options,
            gelu=self.gelu,
            norm_epsilon=self.norm_epsilon,
            attention=self.attention,
            dtype=self.dtype,
        )

    @nn.compact
    def __call__(
        self,
        images: Shaped[Array | np.ndarray, 'b h w c'] | None = None,
        train: bool = False,
        *,
        inputs: Shaped[Array | np.ndarray, 'b h w c'] | None = None,
    ) -> Float[Array, 'b *n y']:
        """Returns float32 logits, or pre-logits if there is no head.

        Args:
            images: floats, from -1 (black) to 1 in the published models. `patch_grid`
                says which sizes the model takes.
            train: whether dropout is on; then `rngs={'dropout': key}` is needed.
            inputs: the images, by the name that the original has for them.

        Returns:
            (b, y); for unpooled classifiers (b, n, y).

        Raises:
            ValueError: if the images are not floats, or patches do not cover them.
        """
        images = inputs if images is None else images
        fields.check_images(images)
        rows, columns = grid_of_patches(self, images.shape[1:3])
        x = jnp.asarray(images, self.dtype)

        if self.resnet is not None:
            root = ResNetRoot(**self.resnet, dtype=self.dtype)
            nn.share_scope(self, root)  # published beside the transformer
            x = root(x)

        # (b h w c) -> (b n d): a linear map of every patch.
        size = self.patches.size
        embedding = nn.Conv(
            self.hidden_size,
            kernel_size=size,
            strides=size,
            padding='VALID',
            dtype=self.dtype,
            conv_general_dilated=patch_product,
            name='embedding',
        )
        x = embedding(x).reshape(-1, rows * columns, self.hidden_size)

        if num_prefix_tokens(self):
            shape = (1, 1, self.hidden_size)
            cls = self.param('cls', nn.initializers.zeros, shape).astype(self.dtype)
            x = jnp.concatenate([jnp.tile(cls, (x.shape[0], 1, 1)), x], axis=1)

        encoder = Encoder(
            self.transformer.num_layers,
            self._block(),
            self.remat,
            self.scan_layers,
            name='Transformer',
        )
        x = encoder(x, train)

        if self.classifier == 'token':
            x = x[:, 0]
        elif self.classifier == 'gap':
            x = x.mean(axis=1)

        x = PreLogits(self.representation_size, self.dtype, name='pre_logits')(x)
        if not self.num_classes:
            return x
        head = Head(self.num_classes, self.head_init, self.head_bias_init, name='head')
        return head(x)


POSITION_EMBEDDING = 'Transformer/posembed_input/pos_embedding'


def _facts_of_shapes(shapes: Shapes) -> Facts | None:
    depth = count_blocks(shapes, f'Transformer/{STEM}')
    if not depth:
        return None
    first = f'Transformer/{STEM}_0'
    kernel = shapes.get('embedding/kernel', (None,) * 4)
    query = shapes.get(f'{first}/{ATTENTION}/query/kernel', (None,) * 3)
    mlp = shapes.get(f'{first}/{MLP}/Dense_0/kernel', (None,) * 2)
    root = shapes.get('conv_root/kernel')
    return {
        'width': kernel[-1],
        'depth': depth,
        'heads': query[1] if len(query) == 3 else None,
        'MLP width': mlp[-1],
        'patch': tuple(kernel[:2]),
        'ResNet units': num_units(shapes) if root else None,
        'ResNet width': root[-1] if root else None,
        'class token': 'cls' in shapes,
    }


def _facts_of_config(config: Any) -> Facts:
    transformer, root = config['transformer'], config.get('resnet')
    return {
        'width': config['hidden_size'],
        'depth': transformer['num_layers'],
        'heads': transformer['num_heads'],
        'MLP width': transformer['mlp_dim'],
        'patch': tuple(config['patches']['size']),
        'ResNet units': tuple(root['num_layers']) if root else None,
        'ResNet width': int(64 * (root.get('width_factor') or 1)) if root else None,
        'class token': _has_class_token(config),
    }


def _has_class_token(config: Any) -> bool:
    # The model's own default, where a configuration says nothing.
    return num_prefix_tokens({'classifier': 'token', **config}) == 1


def _config_of_facts(facts: Facts) -> dict[str, Any]:
    config = {
        'patches': {'size': facts['patch']},
        'hidden_size': facts['width'],
        'transformer': {
            'num_layers': facts['depth'],
            'num_heads': facts['heads'],
            'mlp_dim': facts['MLP width'],
            'dropout_rate': 0.0,
            'attention_dropout_rate': 0.0,
        },
        'classifier': 'token' if facts['class token'] else 'gap',
    }
    if facts['ResNet units'] is not None:
        width_factor = facts['ResNet width'] / 64
        units = facts['ResNet units']
        config['resnet'] = {'num_layers': units, 'width_factor': width_factor}
    return config


def _refine(config: dict[str, Any], shapes: Shapes) -> dict[str, Any]:
    """Files of one name exist with and without pre-logits and class token."""
    pre_logits = shapes.get('pre_logits/kernel')
    config = {**config, 'representation_size': pre_logits[-1] if pre_logits else None}
    if _has_class_token(config) and 'cls' not in shapes:
        config['classifier'] = 'gap'
    return config


def _num_patches(shapes: Shapes) -> int:
    embedding = shapes.get(POSITION_EMBEDDING, ())
    return embedding[1] - ('cls' in shapes) if len(embedding) == 3 else 0


FAMILY = Family(
    name='Vision Transformer',
    module=VisionTransformer,
    stems=(STEM,),
    units=(UNIT,),
    after=r'(^|/)(encoder_norm|pre_logits|head)/',
    attention=ATTENTION,
    position_embedding=POSITION_EMBEDDING,
    input_kernels=('conv_root/kernel', 'embedding/kernel'),
    grid=grid_of_patches,
    num_patches=_num_patches,
    facts_of_shapes=_facts_of_shapes,
    facts_of_config=_facts_of_config,
    config_of_facts=_config_of_facts,
    refine=_refine,
    words={
        **WORDS,
        'conv_root': 'first convolution',
        'embedding': 'patches, each embedded',
        'cls': 'tokens, the class token first',
        'posembed_input': 'position embedding added',
        'query': 'queries of each head',
        'key': 'keys of each head',
        'value': 'values of each head',
        'out': 'heads joined',
        f'{MLP}/Dense_0': 'MLP, hidden units',
        f'{MLP}/Dense_1': 'MLP, output',
        'encoder_norm': 'last LayerNorm',
    },
)
