"""The ResNet root of the hybrid models: a BiT ResNet-v1 with GroupNorm.

Kolesnikov et al. 2019 (Big Transfer): convolutions with standardised weights and
GroupNorm in place of BatchNorm, activation after the normalisation. A hybrid may have
the stem only (R+ViT-Ti_16) or stop after three stages (R50+ViT-B_16).

All paddings are SAME: an input side that a stride does not divide is rounded up.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

# By what kernels are divided: the population's deviation plus 1e-5, as in the original,
# or the root of its variance plus 1e-8, as in timm.
STANDARDIZATIONS = ('deviation', 'variance')
# A unit's published name up to its number.
UNIT = r'block\d+/unit'


def standardize(
    kernel: Float[Array | np.ndarray, 'h w c f'], by: str = 'deviation'
) -> Float[Array, 'h w c f']:
    """Returns the kernel with mean 0 and deviation 1 for every output channel."""
    axes = (0, 1, 2)
    kernel = kernel - jnp.mean(kernel, axis=axes)
    if by == 'deviation':
        return kernel / (jnp.std(kernel, axis=axes) + 1e-5)
    return kernel / jnp.sqrt(jnp.var(kernel, axis=axes) + 1e-8)


@dataclasses.dataclass(frozen=True)
class Numerics:
    """What the original and timm's port of it compute differently.

    Attributes:
        norm_epsilon: of GroupNorm: 1e-6 in the original, 1e-5 in timm.
        standardize: of STANDARDIZATIONS.
        dtype: of the computation.
    """

    norm_epsilon: float
    standardize: str
    dtype: jnp.dtype

    def conv(
        self, features: int, size: int, stride: int = 1, *, name: str
    ) -> 'StdConv':
        """Returns a convolution with standardised weights."""
        return StdConv(features, size, stride, self.dtype, self.standardize, name=name)

    def group_norm(self, name: str, zero_scale: bool = False) -> nn.GroupNorm:
        """Returns a GroupNorm of 32 groups."""
        return nn.GroupNorm(
            num_groups=32,
            epsilon=self.norm_epsilon,
            dtype=self.dtype,
            scale_init=nn.initializers.zeros if zero_scale else nn.initializers.ones,
            name=name,
        )


class StdConv(nn.Module):
    """A convolution without bias whose weights are standardised in float32."""

    features: int
    size: int
    stride: int = 1
    dtype: jnp.dtype = jnp.dtype('float32')
    standardize: str = 'deviation'

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b H W f']:
        """Returns the features at every stride-th pixel."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
        return lax.conv_general_dilated(
            x.astype(self.dtype),
            standardize(kernel, self.standardize).astype(self.dtype),
            window_strides=(self.stride, self.stride),
            padding='SAME',
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        )


class ResidualUnit(nn.Module):
    """A bottleneck unit: 1x1, 3x3 (with the stride) and 1x1 convolutions."""

    features: int  # of the bottleneck; the unit returns four times as many
    stride: int
    numerics: Numerics

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b H W f']:
        """Returns relu(shortcut + residual)."""
        features = self.features
        conv, group_norm = self.numerics.conv, self.numerics.group_norm
        shortcut = x
        if x.shape[-1] != 4 * features or self.stride != 1:
            shortcut = conv(4 * features, 1, self.stride, name='conv_proj')(x)
            shortcut = group_norm('gn_proj')(shortcut)

        y = conv(features, 1, name='conv1')(x)
        y = nn.relu(group_norm('gn1')(y))
        y = conv(features, 3, self.stride, name='conv2')(y)
        y = nn.relu(group_norm('gn2')(y))
        y = conv(4 * features, 1, name='conv3')(y)
        # At first, a unit is its shortcut.
        y = group_norm('gn3', zero_scale=True)(y)
        return nn.relu(shortcut + y)


class ResNetStage(nn.Module):
    """Units at one resolution; the first of them has the stride."""

    num_units: int
    features: int
    stride: int
    numerics: Numerics

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b H W f']:
        """Returns the features of the last unit."""
        for i in range(self.num_units):
            stride = self.stride if i == 0 else 1
            name = f'unit{i + 1}'
            x = ResidualUnit(self.features, stride, self.numerics, name=name)(x)
        return x


class ResNetRoot(nn.Module):
    """The stem and as many stages as num_layers has numbers.

    In the published names its layers stand beside those of the transformer, not in a
    module of their own: `nn.share_scope` puts them there.

    Attributes:
        num_layers: units of each stage; () is the stem alone.
        width_factor: of all widths, 1 being a ResNet-50's.
        norm_epsilon: of GroupNorm, see `Numerics`; None: the original's.
        standardize: of kernels, see `Numerics`; None: the original's.
        dtype: of the computation.
    """

    num_layers: Sequence[int]
    width_factor: float = 1.0
    norm_epsilon: float | None = None
    standardize: str | None = None
    dtype: jnp.dtype = jnp.dtype('float32')

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b H W f']:
        """Returns features at 1/4 (stem), 1/4, 1/8, 1/16 or 1/32 of the size."""
        numerics = Numerics(
            self.norm_epsilon or 1e-6, self.standardize or 'deviation', self.dtype
        )
        width = int(64 * self.width_factor)
        x = numerics.conv(width, 7, 2, name='conv_root')(x)
        x = nn.relu(numerics.group_norm('gn_root')(x))
        x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding='SAME')
        for i, num_units in enumerate(self.num_layers):
            stage = ResNetStage(
                num_units,
                features=width * 2**i,
                stride=1 if i == 0 else 2,
                numerics=numerics,
                name=f'block{i + 1}',
            )
            x = stage(x)
        return x


def downscaling(num_layers: Sequence[int]) -> int:
    """Returns by how much the root shrinks a side: 4, and 2 more per later stage."""
    return 4 * 2 ** max(0, len(num_layers) - 1)


def num_units(names: Iterable[str]) -> tuple[int, ...]:
    """Returns the num_layers of the root that has parameters of these names."""
    units: dict[int, int] = {}
    for name in names:
        if match := re.match(r'block(\d+)/unit(\d+)/', name):
            stage, unit = int(match[1]), int(match[2])
            units[stage] = max(unit, units.get(stage, 0))
    return tuple(units[stage] for stage in sorted(units))
