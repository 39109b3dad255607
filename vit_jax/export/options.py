"""What an export can be, and what is refused before any work."""

import dataclasses
from collections.abc import Sequence

from vit_jax.runtime import extras
from vit_jax.words.suggest import check_one_of

FORMATS = ('stablehlo', 'onnx')
PREPROCESSING = ('auto', 'none', 'normalize', 'resize')
WEIGHTS = ('auto', 'inside', 'beside')
PLATFORMS = ('cpu', 'cuda', 'tpu')
KNOWN_PLATFORMS = (*PLATFORMS, 'rocm')
# Not a platform of its own, but what many will type.
_ALIASES = {'gpu': 'cuda'}
# Both formats are buffers of at most 2 GB (flatbuffers, protobuf), and not all of that
# is weights.
MAX_INSIDE = 1_500_000_000
ONNX_NEEDS = "'vit_jax[onnx]'"


@dataclasses.dataclass(frozen=True)
class Options:
    """What an export is.

    Attributes:
        to: of FORMATS.
        dtype: of the computation; default: as in training. ONNX: float32.
        preprocessing: of PREPROCESSING, what is done inside; 'auto': as much as the
            format and the card let, so that the artifact takes photos.
        outputs: of `Predictor.feature_names`; default: logits, of a model without head
            the pre-logits.
        weights: of WEIGHTS; 'auto' puts up to MAX_INSIDE bytes inside.
        platforms: of KNOWN_PLATFORMS; not for ONNX.
    """

    to: str = 'stablehlo'
    dtype: str = ''
    preprocessing: str = 'auto'
    outputs: Sequence[str] = ()
    weights: str = 'auto'
    platforms: Sequence[str] = PLATFORMS

    def __post_init__(self):
        check_one_of('format', self.to, FORMATS)
        check_one_of('preprocessing', self.preprocessing, PREPROCESSING)
        check_one_of('weights', self.weights, WEIGHTS)
        platforms = [_ALIASES.get(platform, platform) for platform in self.platforms]
        for platform in platforms:
            check_one_of('platform', platform, KNOWN_PLATFORMS)
        if not platforms or len(set(platforms)) < len(platforms):
            raise ValueError(f'platforms: found {list(platforms)}, expected each once')
        object.__setattr__(self, 'platforms', platforms)
        if self.to == 'onnx':
            extras.require('jax2onnx', purpose='--to onnx', install=ONNX_NEEDS)
            if self.dtype not in ('', 'float32') or self.preprocessing == 'resize':
                raise ValueError(
                    '--to onnx computes in float32 and takes images of one size: leave '
                    'out --dtype and --preprocessing resize'
                )
            object.__setattr__(self, 'dtype', 'float32')
        else:
            extras.require('flatbuffers', purpose='export', install='flatbuffers')

    def inside(self, size: int) -> bool:
        """Returns whether so many bytes of weights are in the artifact itself.

        Raises:
            ValueError: they should be, but there is no room.
        """
        if self.weights == 'inside' and size > MAX_INSIDE:
            raise ValueError(
                f'{size / 1e9:.1f} GB of weights do not fit inside, where '
                f'{MAX_INSIDE / 1e9} GB do: leave out --weights inside'
            )
        return self.weights == 'inside' or (
            self.weights == 'auto' and size <= MAX_INSIDE
        )
