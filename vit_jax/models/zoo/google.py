"""The models that Google Research published: sizes and names."""

import dataclasses
import re

from ml_collections import ConfigDict, config_dict


@dataclasses.dataclass(frozen=True)
class Size:
    """Width d, MLP width m, heads k and layers l of a transformer."""

    hidden_size: int
    mlp_dim: int
    num_heads: int
    num_layers: int


SIZES = {
    'Ti': Size(192, 768, 3, 12),
    'S': Size(384, 1536, 6, 12),
    'B': Size(768, 3072, 12, 12),
    'L': Size(1024, 4096, 16, 24),
    'H': Size(1280, 5120, 16, 32),
    'testing': Size(10, 10, 2, 1),
}


@dataclasses.dataclass(frozen=True)
class ViT:
    """A row of the table: what makes a published Vision Transformer."""

    size: str
    patch: int  # side, in pixels; in positions of the ResNet's output for hybrids
    dropout: float = 0.0
    resnet: tuple[int, ...] | None = None  # units of each stage; () is the stem alone
    classifier: str = 'token'

    def config(self, name: str) -> ConfigDict:
        """Returns the configuration under which the original knows the model."""
        transformer = dataclasses.asdict(SIZES[self.size])
        config = ConfigDict({
            'model_name': name,
            'patches': {'size': (self.patch, self.patch)},
            'hidden_size': transformer.pop('hidden_size'),
            'transformer': {
                **transformer,
                'attention_dropout_rate': 0.0,
                'dropout_rate': self.dropout,
            },
            'classifier': self.classifier,
            # A placeholder, so that the command line can set it.
            'representation_size': config_dict.placeholder(int),
        })  # fmt: skip
        if self.resnet is not None:
            config.resnet = ConfigDict({'num_layers': self.resnet, 'width_factor': 1.0})
        return config


@dataclasses.dataclass(frozen=True)
class MixerSize:
    """Blocks l, width d, and widths of the MLPs across tokens and channels."""

    num_blocks: int
    hidden_dim: int
    tokens_mlp_dim: int
    channels_mlp_dim: int


MIXER_SIZES = {
    'S': MixerSize(8, 512, 256, 2048),
    'B': MixerSize(12, 768, 384, 3072),
    'L': MixerSize(24, 1024, 512, 4096),
}


@dataclasses.dataclass(frozen=True)
class Mixer:
    """A row of the table: what makes a published MLP-Mixer."""

    size: str
    patch: int  # side, in pixels

    def config(self, name: str) -> ConfigDict:
        """Returns the configuration under which the original knows the model."""
        patches = {'size': (self.patch, self.patch)}
        size = dataclasses.asdict(MIXER_SIZES[self.size])
        return ConfigDict({'model_name': name, 'patches': patches, **size})


TABLE: dict[str, ViT | Mixer] = {
    'ViT-Ti_16': ViT('Ti', 16),
    'ViT-S_16': ViT('S', 16),
    'ViT-S_32': ViT('S', 32),
    'ViT-B_8': ViT('B', 8),
    'ViT-B_16': ViT('B', 16),
    'ViT-B_32': ViT('B', 32),
    'ViT-L_16': ViT('L', 16, dropout=0.1),
    'ViT-L_32': ViT('L', 32),
    'ViT-H_14': ViT('H', 14, dropout=0.1),
    # "norep": without pre_logits, as all here; the name is the published one.
    'ViT-S_16-gap-norep': ViT('S', 16, classifier='gap'),
    'ViT-S_32-gap-norep': ViT('S', 32, classifier='gap'),
    'ViT-B_16-gap-norep': ViT('B', 16, classifier='gap'),
    'ViT-B_32-gap-norep': ViT('B', 32, classifier='gap'),
    # Hybrids. The number in the name is not the patch's side in pixels everywhere:
    # R+ViT-Ti_16 has 8x8 patches of a stem that shrinks by 4, so 32 pixels.
    'R+ViT-Ti_16': ViT('Ti', 8, resnet=()),
    'R26+ViT-S_32': ViT('S', 1, resnet=(2, 2, 2, 2)),
    'R26+ViT-B_32': ViT('B', 1, resnet=(2, 2, 2, 2)),
    # Three stages of a ResNet-50, whose third also has the units of the fourth.
    'R50+ViT-B_16': ViT('B', 1, dropout=0.1, resnet=(3, 4, 9)),
    'R50+ViT-L_32': ViT('L', 1, dropout=0.1, resnet=(3, 4, 6, 3)),
    'Mixer-S_8': Mixer('S', 8),
    'Mixer-S_16': Mixer('S', 16),
    'Mixer-S_32': Mixer('S', 32),
    'Mixer-B_16': Mixer('B', 16),
    'Mixer-B_32': Mixer('B', 32),
    'Mixer-L_16': Mixer('L', 16),
    # Made to be fast, never published.
    'testing': ViT('testing', 16, dropout=0.1),
    'testing-unpooled': ViT('testing', 16, dropout=0.1, classifier='unpooled'),
}

# Not among the checkpoints of "How to train your ViT?".
_NOT_AUGREG = ('testing', 'ViT-L_32', 'R50+ViT-B_16', 'ViT-H_14')


def augreg_name(name: str) -> str:
    """Returns the name in AugReg's file names: R_Ti_16 for R+ViT-Ti_16."""
    return name.replace('ViT-', '').replace('+', '_')


def short_name(name: str) -> str:
    """Returns what stands in `configs/vit.py:b16`: r50_b16 for R50+ViT-B_16."""
    short = augreg_name(name).replace('-', '_').lower()
    return re.sub(r'(ti|s|b|l|h)_(\d+)', r'\1\2', short)


AUGREG_NAMES = {
    augreg_name(name): name
    for name, row in TABLE.items()
    if isinstance(row, ViT) and name not in _NOT_AUGREG
}
SHORT_NAMES = {short_name(name): name for name in TABLE}
