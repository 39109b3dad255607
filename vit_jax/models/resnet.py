"""The ResNet root of the hybrid models: a BiT ResNet-v1 with GroupNorm.

Kolesnikov et al. 2019 (Big Transfer): convolutions with standardised weights and
GroupNorm in place of BatchNorm, activation after the normalisation. A hybrid may have
the stem only (R+ViT-Ti_16) or stop after three stages (R50+ViT-B_16).

All paddings are SAME: an input side that a stride does not divide is rounded up.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float


def standardize(
    kernel: Float[Array | np.ndarray, 'h w c f'], eps: float = 1e-5
) -> Float[Array, 'h w c f']:
    """Returns the kernel with mean 0 and deviation 1 for every output channel."""
    # eps is added to the deviation (timm adds it to the variance), and the deviation
    # is the population's.
    kernel = kernel - jnp.mean(kernel, axis=(0, 1, 2))
    return kernel / (jnp.std(kernel, axis=(0, 1, 2)) + eps)


def group_norm(dtype: jnp.dtype, name: str, zero_scale: bool = False) -> nn.GroupNorm:
    """Returns a GroupNorm of 32 groups; its epsilon is 1e-6 here and 1e-5 in timm."""
    scale_init = nn.initializers.zeros if zero_scale else nn.initializers.ones
    return nn.GroupNorm(
        num_groups=32, epsilon=1e-6, dtype=dtype, scale_init=scale_init, name=name
    )


class StdConv(nn.Module):
    """A convolution without bias whose weights are standardised in float32."""

    features: int
    size: int
    stride: int = 1
    dtype: jnp.dtype = jnp.dtype('float32')

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b H W f']:
        """Returns the features at every stride-th pixel."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
        return lax.conv_general_dilated(
            x.astype(self.dtype),
            standardize(kernel).astype(self.dtype),
            window_strides=(self.stride, self.stride),
            padding='SAME',
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        )


class ResidualUnit(nn.Module):
    """A bottleneck unit: 1x1, 3x3 (with the stride) and 1x1 convolutions."""

    features: int  # of the bottleneck; the unit returns four times as many
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b H W f']:
        """Returns relu(shortcut + residual)."""
        features, dtype = self.features, self.dtype
        shortcut = x
        if x.shape[-1] != 4 * features or self.stride != 1:
            shortcut = StdConv(4 * features, 1, self.stride, dtype, name='conv_proj')(x)
            shortcut = group_norm(dtype, 'gn_proj')(shortcut)

        y = StdConv(features, 1, dtype=dtype, name='conv1')(x)
        y = nn.relu(group_norm(dtype, 'gn1')(y))
        y = StdConv(features, 3, self.stride, dtype, name='conv2')(y)
        y = nn.relu(group_norm(dtype, 'gn2')(y))
        y = StdConv(4 * features, 1, dtype=dtype, name='conv3')(y)
        # At first, a unit is its shortcut.
        y = group_norm(dtype, 'gn3', zero_scale=True)(y)
        return nn.relu(shortcut + y)


class ResNetStage(nn.Module):
    """Units at one resolution; the first of them has the stride."""

    num_units: int
    features: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b H W f']:
        """Returns the features of the last unit."""
        for i in range(self.num_units):
            stride = self.stride if i == 0 else 1
            x = ResidualUnit(self.features, stride, self.dtype, name=f'unit{i + 1}')(x)
        return x


class ResNetRoot(nn.Module):
    """The stem and as many stages as num_layers has numbers.

    In the published names its layers stand beside those of the transformer, not in a
    module of their own: `nn.share_scope` puts them there.
    """

    num_layers: Sequence[int]  # units of each stage; () is the stem alone
    width_factor: float = 1.0
    dtype: jnp.dtype = jnp.dtype('float32')

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b H W f']:
        """Returns features at 1/4 (stem), 1/4, 1/8, 1/16 or 1/32 of the size."""
        width = int(64 * self.width_factor)
        x = StdConv(width, 7, 2, self.dtype, name='conv_root')(x)
        x = nn.relu(group_norm(self.dtype, 'gn_root')(x))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding='SAME')
        for i, num_units in enumerate(self.num_layers):
            stage = ResNetStage(
                num_units,
                features=width * 2**i,
                stride=1 if i == 0 else 2,
                dtype=self.dtype,
                name=f'block{i + 1}',
            )
            x = stage(x)
        return x


def downscaling(num_layers: Sequence[int]) -> int:
    """Returns by how much the root shrinks a side: 4, and 2 more per later stage."""
    return 4 * 2 ** max(0, len(num_layers) - 1)
