"""What is compared with: the same network, written plainly or by others."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class PlainBlock(nn.Module):
    """A transformer block of flax's own layers."""

    num_heads: int
    mlp_dim: int
    dropout_rate: float
    attention_dropout_rate: float
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, 'b n d'], train: bool) -> Float[Array, 'b n d']:
        """Returns the tokens after the block."""
        y = nn.LayerNorm(dtype=self.dtype, name='LayerNorm_0')(x)
        y = nn.MultiHeadDotProductAttention(
            self.num_heads,
            broadcast_dropout=False,
            dropout_rate=self.attention_dropout_rate,
            deterministic=not train,
            dtype=self.dtype,
            name='MultiHeadDotProductAttention_0',
        )(y, y)
        x = x + nn.Dropout(self.dropout_rate, deterministic=not train)(y)
        y = nn.LayerNorm(dtype=self.dtype, name='LayerNorm_1')(x)
        mlp = PlainMlp(self.mlp_dim, self.dropout_rate, self.dtype, name='MlpBlock_0')
        return x + mlp(y, train)


class PlainMlp(nn.Module):
    """Two `nn.Dense` with a GELU between them."""

    mlp_dim: int
    dropout_rate: float
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, 'b n d'], train: bool) -> Float[Array, 'b n d']:
        """Returns the MLP of every token."""
        width = x.shape[-1]
        x = nn.gelu(nn.Dense(self.mlp_dim, dtype=self.dtype)(x))
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        x = nn.Dense(width, dtype=self.dtype)(x)
        return nn.Dropout(self.dropout_rate, deterministic=not train)(x)


class PlainEncoder(nn.Module):
    """The blocks, unrolled, between position embedding and LayerNorm."""

    num_layers: int
    num_heads: int
    mlp_dim: int
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.1
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, 'b n d'], train: bool) -> Float[Array, 'b n d']:
        """Returns the encoded tokens."""
        x = PlainPositions(name='posembed_input')(x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        for i in range(self.num_layers):
            x = PlainBlock(
                self.num_heads,
                self.mlp_dim,
                self.dropout_rate,
                self.attention_dropout_rate,
                self.dtype,
                name=f'encoderblock_{i}',
            )(x, train)
        return nn.LayerNorm(dtype=self.dtype, name='encoder_norm')(x)


class PlainPositions(nn.Module):
    """Adds the position embedding."""

    @nn.compact
    def __call__(self, x: Float[Array, 'b n d']) -> Float[Array, 'b n d']:
        """Returns x plus the embedding."""
        init = nn.initializers.normal(0.02)
        return x + self.param('pos_embedding', init, (1, *x.shape[1:]))


class PlainViT(nn.Module):
    """A Vision Transformer as flax's documentation would have it.

    Its parameters are those of `models.VisionTransformer` with the same fields.
    """

    num_classes: int
    patches: Any
    transformer: Any
    hidden_size: int
    representation_size: int | None = None
    dtype: Any = None

    @nn.compact
    def __call__(
        self, images: Float[Array, 'b h w c'], train: bool = False
    ) -> Float[Array, 'b y']:
        """Returns the logits."""
        size = tuple(self.patches['size'])
        x = nn.Conv(
            self.hidden_size,
            size,
            strides=size,
            padding='VALID',
            dtype=self.dtype,
            name='embedding',
        )(images)
        x = x.reshape(x.shape[0], -1, self.hidden_size)
        cls = self.param('cls', nn.initializers.zeros, (1, 1, self.hidden_size))
        x = jnp.concatenate([jnp.tile(cls, (x.shape[0], 1, 1)), x], axis=1)
        encoder = PlainEncoder(**self.transformer, dtype=self.dtype, name='Transformer')
        x = encoder(x, train)[:, 0]
        if self.representation_size:
            x = nn.Dense(self.representation_size, dtype=self.dtype, name='pre_logits')(
                x
            )
            x = nn.tanh(x)
        return nn.Dense(self.num_classes, name='head')(x)


def plain(config: Any, num_classes: int, dtype: str = 'float32') -> PlainViT:
    """Returns the plain model of a configuration as in MODEL_CONFIGS.

    Raises:
        ValueError: for hybrids, Mixers, and classifiers other than the class token.
    """
    values = {k: v for k, v in config.items() if k != 'model_name' and v is not None}
    known = {*PlainViT.__dataclass_fields__, 'classifier'}
    if unknown := sorted(set(values) - known):
        raise ValueError(
            f'The plain formulation knows Vision Transformers, not {unknown[0]}: '
            'leave out --baseline linen, or choose a model such as ViT-S_16'
        )
    if values.pop('classifier', 'token') != 'token':
        raise ValueError('The plain formulation has the class token as classifier')
    for name in ('patches', 'transformer'):
        values[name] = dict(values[name])
    return PlainViT(num_classes=num_classes, dtype=jnp.dtype(dtype), **values)


class Timm:
    """A Vision Transformer of timm with random weights, on PyTorch's device.

    On a GPU compiled by `torch.compile`, with channels last and a fused optimizer; in
    bfloat16 by autocast where `dtype` says so.
    Attention is `scaled_dot_product_attention`, timm's default.

    Args:
        config: as in MODEL_CONFIGS.
        num_classes: width of the head.
        size: of the square images.
        batch: number of images.
        dtype: 'float32', 'bfloat16' or 'float16'.

    Raises:
        ValueError: timm or PyTorch is missing, or timm has no such model.
    """

    def __init__(
        self, config: Any, num_classes: int, size: int, batch: int, dtype: str
    ):
        try:
            import timm
            import torch
        except ImportError as error:
            raise ValueError(
                f'{error.name} is not installed. It is no requirement of this library: '
                'pip install torch timm'
            ) from None
        if config.get('resnet') or 'transformer' not in config:
            raise ValueError('--baseline timm knows Vision Transformers only')
        self._torch = torch
        self.device = 'cuda' if torch.cuda.is_available() else 'cpu'
        self.name = f'timm {timm.__version__}, torch {torch.__version__}'
        self.dtype = getattr(torch, dtype)
        transformer = config.transformer
        model = timm.models.vision_transformer.VisionTransformer(
            img_size=size,
            patch_size=config.patches.size[0],
            num_classes=num_classes,
            embed_dim=config.hidden_size,
            depth=transformer.num_layers,
            num_heads=transformer.num_heads,
            mlp_ratio=transformer.mlp_dim / config.hidden_size,
        ).to(self.device)
        on_gpu = self.device == 'cuda'
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr=1e-3, momentum=0.9, fused=on_gpu
        )
        self.parameters = list(model.parameters())
        if on_gpu:
            torch.set_float32_matmul_precision('high')
            model = torch.compile(model.to(memory_format=torch.channels_last))
        self.model = model
        rng = np.random.default_rng(0)
        images = rng.normal(size=(batch, 3, size, size)).astype('f')
        self.images = torch.from_numpy(images).to(self.device)
        if on_gpu:
            self.images = self.images.to(memory_format=torch.channels_last)
        labels = rng.integers(0, num_classes, batch)
        self.labels = torch.from_numpy(labels).to(self.device)

    def _autocast(self) -> Any:
        torch = self._torch
        enabled = self.dtype is not torch.float32
        return torch.autocast(self.device, self.dtype, enabled=enabled)

    def infer(self) -> None:
        """Computes the logits of a batch."""
        self.model.eval()
        with self._torch.inference_mode(), self._autocast():
            self.model(self.images)

    def train(self) -> None:
        """Takes one step of SGD with momentum and gradients clipped at 1."""
        torch = self._torch
        self.model.train()
        with self._autocast():
            logits = self.model(self.images)
        loss = torch.nn.functional.cross_entropy(logits.float(), self.labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()

    def wait(self) -> None:
        """Returns when the device has finished."""
        if self.device == 'cuda':
            self._torch.cuda.synchronize()
