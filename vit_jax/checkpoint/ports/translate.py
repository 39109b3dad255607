"""The names of timm and of Hugging Face's transformers, and ours: one table each.

A row says what a parameter is called there, what it is called here, and how the arrays
differ. The same rows read and write. `{i}` is the number of an encoder block; `{s}` and
`{u}` are stage and unit of a ResNet root: they count from 1 here and from 0 there.

Sources: timm's `vision_transformer.py`, `vision_transformer_hybrid.py` and
`mlp_mixer.py`; transformers' `modeling_vit.py` and the checkpoints on its hub.
"""

import itertools
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from vit_jax.checkpoint.card import ModelCard
from vit_jax.checkpoint.formats import safetensors
from vit_jax.checkpoint.weights import TreeWeights, Weights
from vit_jax.models.vit import POSITION_EMBEDDING
from vit_jax.models.zoo import google

Shape = tuple[int, ...]


class Change(NamedTuple):
    """How an array there becomes one here, and back.

    Attributes:
      shape: from the shape there and the number of attention heads to the shape here;
        None if no array here comes of it.
      read: from the array there, and the shape here.
      write: the inverse.
      there: from the shape here to the shape there.
    """

    shape: Callable[[Shape, int], Shape | None]
    read: Callable[[np.ndarray, Shape], np.ndarray]
    write: Callable[[np.ndarray], np.ndarray]
    there: Callable[[Shape], Shape]


def _split(width: int, heads: int) -> Shape | None:
    return (heads, width // heads) if heads and width % heads == 0 else None


def _heads_in(shape: Shape, heads: int) -> Shape | None:
    split = _split(shape[0], heads) if len(shape) == 2 else None
    return split and (shape[1], *split)


def _heads_out(shape: Shape, heads: int) -> Shape | None:
    split = _split(shape[1], heads) if len(shape) == 2 else None
    return split and (*split, shape[0])


SAME = Change(lambda s, _: s, lambda x, _: x, lambda x: x, lambda s: s)
# A PyTorch kernel is (out, in), ours (in, out).
DENSE = Change(
    lambda s, _: s[::-1] if len(s) == 2 else None,
    lambda x, _: x.T,
    lambda x: x.T,
    lambda s: s[::-1],
)
# OIHW, ours HWIO.
CONV = Change(
    lambda s, _: (s[2], s[3], s[1], s[0]) if len(s) == 4 else None,
    lambda x, _: x.transpose(2, 3, 1, 0),
    lambda x: x.transpose(3, 2, 0, 1),
    lambda s: (s[3], s[2], s[0], s[1]),
)
# Into query, key or value: (heads · e, d), ours (d, heads, e); and its bias.
HEADS_IN = Change(
    _heads_in,
    lambda x, shape: x.T.reshape(shape),
    lambda x: x.reshape(len(x), -1).T,
    lambda s: (s[1] * s[2], s[0]),
)
HEADS_BIAS = Change(
    lambda s, heads: _split(s[0], heads) if len(s) == 1 else None,
    lambda x, shape: x.reshape(shape),
    lambda x: x.reshape(-1),
    lambda s: (s[0] * s[1],),
)
# Out of all heads: (d, heads · e), ours (heads, e, d).
HEADS_OUT = Change(
    _heads_out,
    lambda x, shape: x.T.reshape(shape),
    lambda x: x.reshape(-1, x.shape[-1]).T,
    lambda s: (s[2], s[0] * s[1]),
)


class Row(NamedTuple):
    """A parameter there and here; `part` of 3 where theirs holds three of ours."""

    theirs: str
    ours: str
    change: Change
    part: int | None = None
    optional: bool = False


def _pair(theirs: str, ours: str, change: Change, optional: bool = False) -> list[Row]:
    """Returns the rows of a layer: its weight and its bias."""
    leaf = 'scale' if change is SAME else 'kernel'
    return [
        Row(f'{theirs}.weight', f'{ours}/{leaf}', change, optional=optional),
        Row(f'{theirs}.bias', f'{ours}/bias', SAME, optional=optional),
    ]


_BLOCK = 'Transformer/encoderblock_{i}'
_ATTENTION = f'{_BLOCK}/MultiHeadDotProductAttention_0'
_QKV = ('query', 'key', 'value')

_TIMM_BLOCKS = [
    *_pair('blocks.{i}.norm1', f'{_BLOCK}/LayerNorm_0', SAME),
    *(
        Row(f'blocks.{{i}}.attn.qkv.{theirs}', f'{_ATTENTION}/{ours}/{leaf}', change, k)
        for k, ours in enumerate(_QKV)
        for theirs, leaf, change in (
            ('weight', 'kernel', HEADS_IN),
            ('bias', 'bias', HEADS_BIAS),
        )
    ),
    Row('blocks.{i}.attn.proj.weight', f'{_ATTENTION}/out/kernel', HEADS_OUT),
    Row('blocks.{i}.attn.proj.bias', f'{_ATTENTION}/out/bias', SAME),
    *_pair('blocks.{i}.norm2', f'{_BLOCK}/LayerNorm_1', SAME),
    *_pair('blocks.{i}.mlp.fc1', f'{_BLOCK}/MlpBlock_0/Dense_0', DENSE),
    *_pair('blocks.{i}.mlp.fc2', f'{_BLOCK}/MlpBlock_0/Dense_1', DENSE),
]
_TIMM_ENDS = [
    Row('cls_token', 'cls', SAME, optional=True),
    Row('pos_embed', POSITION_EMBEDDING, SAME),
    *_pair('patch_embed.proj', 'embedding', CONV),
    *_pair('norm', 'Transformer/encoder_norm', SAME),
    *_pair('pre_logits.fc', 'pre_logits', DENSE, optional=True),
    *_pair('head', 'head', DENSE, optional=True),
]
_BACKBONE = 'patch_embed.backbone'
_UNIT = f'{_BACKBONE}.stages.{{s}}.blocks.{{u}}'


def _root(stem: str) -> list[Row]:
    return [
        Row(f'{_BACKBONE}.{stem}conv.weight', 'conv_root/kernel', CONV),
        *_pair(f'{_BACKBONE}.{stem}norm', 'gn_root', SAME),
    ]


_UNITS = [
    row
    for theirs, ours, norm in (
        *((f'conv{r}', f'conv{r}', (f'norm{r}', f'gn{r}')) for r in (1, 2, 3)),
        ('downsample.conv', 'conv_proj', ('downsample.norm', 'gn_proj')),
    )
    for row in (
        Row(
            f'{_UNIT}.{theirs}.weight',
            f'block{{s}}/unit{{u}}/{ours}/kernel',
            CONV,
            optional=ours == 'conv_proj',
        ),
        *_pair(
            f'{_UNIT}.{norm[0]}',
            f'block{{s}}/unit{{u}}/{norm[1]}',
            SAME,
            optional=ours == 'conv_proj',
        ),
    )
]

_MIXER = [
    *_pair('stem.proj', 'stem', CONV),
    *_pair('blocks.{i}.norm1', 'MixerBlock_{i}/LayerNorm_0', SAME),
    *_pair('blocks.{i}.norm2', 'MixerBlock_{i}/LayerNorm_1', SAME),
    *(
        row
        for theirs, ours in (('tokens', 'token'), ('channels', 'channel'))
        for k in (0, 1)
        for row in _pair(
            f'blocks.{{i}}.mlp_{theirs}.fc{k + 1}',
            f'MixerBlock_{{i}}/{ours}_mixing/Dense_{k}',
            DENSE,
        )
    ),
    *_pair('norm', 'pre_head_layer_norm', SAME),
    *_pair('head', 'head', DENSE, optional=True),
]

_HF_ENDS = [
    Row('embeddings.cls_token', 'cls', SAME),
    Row('embeddings.position_embeddings', POSITION_EMBEDDING, SAME),
    *_pair('embeddings.patch_embeddings.projection', 'embedding', CONV),
    *_pair('layernorm', 'Transformer/encoder_norm', SAME),
    *_pair('pooler.dense', 'pre_logits', DENSE, optional=True),
    *_pair('classifier', 'head', DENSE, optional=True),
]


def _hf_blocks(layer: str, names: Mapping[str, str]) -> list[Row]:
    """Returns the rows of transformers' blocks, whose names changed with version 5."""
    return [
        *_pair(f'{layer}.layernorm_before', f'{_BLOCK}/LayerNorm_0', SAME),
        *_pair(f'{layer}.layernorm_after', f'{_BLOCK}/LayerNorm_1', SAME),
        *(
            row
            for ours in _QKV
            for row in (
                Row(
                    f'{layer}.{names[ours]}.weight',
                    f'{_ATTENTION}/{ours}/kernel',
                    HEADS_IN,
                ),
                Row(
                    f'{layer}.{names[ours]}.bias',
                    f'{_ATTENTION}/{ours}/bias',
                    HEADS_BIAS,
                ),
            )
        ),
        Row(f'{layer}.{names["out"]}.weight', f'{_ATTENTION}/out/kernel', HEADS_OUT),
        Row(f'{layer}.{names["out"]}.bias', f'{_ATTENTION}/out/bias', SAME),
        *_pair(f'{layer}.{names["fc1"]}', f'{_BLOCK}/MlpBlock_0/Dense_0', DENSE),
        *_pair(f'{layer}.{names["fc2"]}', f'{_BLOCK}/MlpBlock_0/Dense_1', DENSE),
    ]


_HF4 = {
    **{name: f'attention.attention.{name}' for name in _QKV},
    'out': 'attention.output.dense',
    'fc1': 'intermediate.dense',
    'fc2': 'output.dense',
}
_HF5 = {
    **{name: f'attention.{name[0]}_proj' for name in _QKV},
    'out': 'attention.o_proj',
    'fc1': 'mlp.fc1',
    'fc2': 'mlp.fc2',
}

TABLES: dict[str, list[Row]] = {
    'timm ViT': [*_TIMM_ENDS, *_TIMM_BLOCKS],
    'timm hybrid': [*_TIMM_ENDS, *_root('stem.'), *_UNITS, *_TIMM_BLOCKS],
    'timm hybrid without stages': [*_TIMM_ENDS, *_root(''), *_TIMM_BLOCKS],
    'timm Mixer': _MIXER,
    'Hugging Face ViT': [*_HF_ENDS, *_hf_blocks('encoder.layer.{i}', _HF4)],
    'Hugging Face ViT 5': [*_HF_ENDS, *_hf_blocks('layers.{i}', _HF5)],
}
# The name of a parameter that only one of the families has.
_TELLS = {
    'timm hybrid': f'{_BACKBONE}.stem.conv.weight',
    'timm hybrid without stages': f'{_BACKBONE}.conv.weight',
    'timm Mixer': 'blocks.0.mlp_tokens.fc1.weight',
    'timm ViT': 'blocks.0.attn.qkv.weight',
    'Hugging Face ViT': 'encoder.layer.0.layernorm_before.weight',
    'Hugging Face ViT 5': 'layers.0.layernorm_before.weight',
}
# Attention heads by width.
HEADS = {size.hidden_size: size.num_heads for size in google.SIZES.values()}
_WRAPPER = 'vit.'  # of all but the classifier, in models for classification


class Found(NamedTuple):
    """Where a parameter of ours comes from."""

    theirs: str
    row: Row
    shape: Shape


def family_of(names: Iterable[str]) -> str | None:
    """Returns the table for a file with these names, or None."""
    names = {name.removeprefix(_WRAPPER) for name in names}
    return next((family for family, tell in _TELLS.items() if tell in names), None)


def translate(shapes: Mapping[str, Shape], num_heads: int) -> dict[str, Found]:
    """Returns for each parameter of ours where it comes from.

    Args:
      shapes: of the arrays there, by name.
      num_heads: attention heads, which the shapes do not tell.

    Raises:
      ValueError: parameters are unknown, missing, doubled or misshapen: all of them
        are listed.
    """
    family = family_of(shapes)
    if family is None:
        raise ValueError(
            'these are the names of no Vision Transformer or Mixer that is known '
            f'({", ".join(itertools.islice(shapes, 4))}, …): expected those of timm or '
            "of Hugging Face's ViT"
        )
    table = TABLES[family]
    found: dict[str, Found] = {}
    lines: list[str] = []
    for name, shape in shapes.items():
        rows = list(_matching(name.removeprefix(_WRAPPER), table))
        if not rows:
            lines.append(f'+ unknown: {name} {shape}')
        for row, ours in rows:
            part = shape
            if row.part is not None:
                part = (shape[0] // 3, *shape[1:]) if _thirds(shape) else (0,) * 9
            new = row.change.shape(part, num_heads)
            if new is None:
                lines.append(
                    f'! misshapen: {name} {shape}, for {ours} with {num_heads} heads'
                )
            elif ours in found:
                lines.append(f'! doubled: {name} and {found[ours].theirs} are {ours}')
            else:
                found[ours] = Found(name, row, new)
    present = {f.theirs.removeprefix(_WRAPPER) for f in found.values()}
    lines += [f'- missing: {name}' for name in _required(table, shapes) - present]
    if lines:
        raise ValueError(f'not the parameters of a {family}:\n  ' + '\n  '.join(lines))
    return found


def _thirds(shape: Shape) -> bool:
    return bool(shape) and shape[0] % 3 == 0


def _required(table: list[Row], names: Iterable[str]) -> set[str]:
    """Returns the names there that a whole model has, with as many blocks as found."""
    counts: dict[str, set[tuple[str, ...]]] = {}
    for name in names:
        for row, _ in _matching(name.removeprefix(_WRAPPER), table):
            match = _pattern(row.theirs).fullmatch(name.removeprefix(_WRAPPER))
            for letters in ('i', 'su'):
                if all(f'{{{letter}}}' in row.theirs for letter in letters):
                    values = tuple(match[letter] for letter in letters)
                    counts.setdefault(letters, set()).add(values)
    required = set()
    for row in table:
        if row.optional:
            continue
        letters = 'i' if '{i}' in row.theirs else 'su' if '{s}' in row.theirs else ''
        if not letters:
            required.add(row.theirs)
        for values in counts.get(letters, ()):
            required.add(row.theirs.format(**dict(zip(letters, values, strict=True))))
    return required


_PATTERNS: dict[str, re.Pattern] = {}


def _pattern(template: str) -> re.Pattern:
    """Returns what matches the names that a template makes."""
    if template not in _PATTERNS:
        text = re.sub(r'\\{([isu])\\}', r'(?P<\1>0|[1-9]\\d{0,3})', re.escape(template))
        _PATTERNS[template] = re.compile(text)
    return _PATTERNS[template]


def _matching(name: str, table: list[Row]) -> Iterator[tuple[Row, str]]:
    """Yields the rows that know a name there, and the names here."""
    for row in table:
        if match := _pattern(row.theirs).fullmatch(name):
            numbers = {k: int(v) + (k in 'su') for k, v in match.groupdict().items()}
            yield row, row.ours.format(**numbers)


class PortWeights(Weights):
    """The parameters in a .safetensors with the names of timm or of transformers.

    Args:
      path: as in `safetensors.entries`.
      num_heads: of the attention; default: see `default_heads`.
      card: what came with the weights.

    Raises:
      ValueError: the file cannot be read, or its parameters are not those of a model
        that is known: all differences are listed.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        num_heads: int | None = None,
        card: ModelCard | None = None,
    ):
        self.path, self.card = pathlib.Path(path), card
        self._entries = safetensors.entries(path)
        shapes = {name: entry.shape for name, entry in self._entries.items()}
        try:
            self._found = translate(shapes, num_heads or default_heads(shapes))
        except ValueError as error:
            raise ValueError(f'{self.path}: {error}') from error

    def __getitem__(self, name: str) -> np.ndarray:
        theirs, row, shape = self._found[name]
        entry = self._entries[theirs]
        rows = slice(None)
        if row.part is not None:
            third = entry.shape[0] // 3
            rows = slice(row.part * third, (row.part + 1) * third)
        # Mostly a transposed view: written to another port, it is turned back unmoved.
        return row.change.read(safetensors.read(entry, rows), shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, name: object) -> bool:
        return name in self._found

    def shape(self, name: str) -> Shape:
        """See `Weights`."""
        return self._found[name].shape

    def dtype(self, name: str) -> np.dtype:
        """See `Weights`."""
        return self._entries[self._found[name].theirs].dtype


def default_heads(shapes: Mapping[str, Shape]) -> int:
    """Returns the number of heads that published models of this width have.

    For other widths, heads have 64 channels, as in all of them but ViT-H.
    """
    width = next(
        (s[-1] for name, s in shapes.items() if name.endswith('layernorm.weight')),
        shapes.get('norm.weight', (64,))[-1],
    )
    return HEADS.get(width, max(1, width // 64))


def arrays(
    params: Mapping[str, Any], family: str, prefix: str = ''
) -> dict[str, safetensors.Array]:
    """Returns parameters of ours in the names of a family, read when written.

    Args:
      params: nested dict of arrays, or open `Weights`.
      family: of TABLES.
      prefix: of all names but the classifier's.

    Raises:
      ValueError: the family has no place for some of them: all are listed.
    """
    weights = params if isinstance(params, Weights) else TreeWeights(params)
    places: dict[str, list[tuple[str, Row]]] = {}
    lost = []
    for ours in weights:
        rows = [
            (row, match)
            for row in TABLES[family]
            if (match := _pattern(row.ours).fullmatch(ours))
        ]
        if not rows:
            lost.append(ours)
        for row, match in rows:
            numbers = {k: int(v) - (k in 'su') for k, v in match.groupdict().items()}
            places.setdefault(row.theirs.format(**numbers), []).append((ours, row))
    lost += [
        f'{name} (query, key and value belong together)'
        for name, parts in places.items()
        if parts[0][1].part is not None and len(parts) != 3
    ]
    if lost:
        raise ValueError(f'a {family} has no place for: {", ".join(lost)}')

    def array(parts: list[tuple[str, Row]]) -> safetensors.Array:
        parts = sorted(parts, key=lambda place: place[1].part or 0)
        ours, row = parts[0]
        rows, *rest = row.change.there(weights.shape(ours))

        def make() -> np.ndarray:
            written = [row.change.write(weights[ours]) for ours, row in parts]
            return written[0] if len(written) == 1 else np.concatenate(written)

        return safetensors.Array(weights.dtype(ours), (rows * len(parts), *rest), make)

    return {
        name if name.startswith('classifier') else f'{prefix}{name}': array(parts)
        for name, parts in places.items()
    }
