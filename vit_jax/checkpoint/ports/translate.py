"""Weights of other libraries by our names, and ours by theirs.

What the names are stands in the ports, one file for each library.
"""

import itertools
import logging
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from vit_jax.checkpoint.card import ModelCard
from vit_jax.checkpoint.formats import safetensors
from vit_jax.checkpoint.ports import huggingface, relatives, timm
from vit_jax.checkpoint.ports.port import Port
from vit_jax.checkpoint.ports.rows import ATTENTION, BLOCK, Row, Shape
from vit_jax.checkpoint.weights import Weights
from vit_jax.models.zoo import google

PORTS = (*timm.PORTS, *huggingface.PORTS)
_PREFIXES = {port.prefix for port in PORTS} - {''}
log = logging.getLogger(__name__)
_LAST_NORM = 'Transformer/encoder_norm/scale'


class Origin(NamedTuple):
    """Where a parameter of ours comes from."""

    theirs: str
    row: Row
    shape: Shape


def port_of(names: Iterable[str]) -> Port | None:
    """Returns the port of a file with these names, or None."""
    names = set(map(_bare, names))
    return next((port for port in PORTS if port.tell in names), None)


def port_for(library: str, names: Iterable[str]) -> Port:
    """Returns the port of a library that has a place for these names of ours.

    Of several it is the one with the fewest others; where none has, the one with a
    place for most.
    """
    names = list(names)
    return min(
        (port for port in PORTS if port.library == library),
        key=lambda port: (len(_without_place(names, port)), len(port.rows)),
    )


def _without_place(names: Iterable[str], port: Port) -> list[str]:
    return [name for name in names if not list(_places(name, port))]


def _bare(name: str) -> str:
    """Returns a name without what stands before it in models with a head."""
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def unwrapped(path: str | os.PathLike) -> dict[str, safetensors.Entry]:
    """The arrays in a file, without what a wrapper has put before their names.

    That is '_orig_mod.module.', for instance; the log says so.

    Raises:
      ValueError: the file cannot be read.
    """
    entries = safetensors.entries(path)
    if wrapper := _wrapper(entries):
        log.info('%s: %r before the names is left out', path, wrapper)
    return {name.removeprefix(wrapper): entry for name, entry in entries.items()}


def _wrapper(names: Iterable[str]) -> str:
    for name in names:
        for port in PORTS:
            wrapper = name.removesuffix(port.tell).removesuffix(port.prefix)
            if name.endswith(port.tell) and (not wrapper or wrapper[-1] == '.'):
                return wrapper
    return ''


def translate(shapes: Mapping[str, Shape], num_heads: int | None) -> dict[str, Origin]:
    """Returns for each parameter of ours where it comes from.

    Args:
      shapes: of the arrays there, by name.
      num_heads: attention heads, which the shapes do not tell; default: see
        `default_heads`.

    Raises:
      ValueError: parameters are unknown, missing, doubled or misshapen: all of them
        are listed.
    """
    port = port_of(shapes)
    if port is None:
        raise ValueError(
            'these are the names of no Vision Transformer or Mixer that is known '
            f'({", ".join(itertools.islice(shapes, 4))}, …): expected those of timm or '
            f"of Hugging Face's ViT{relatives.families(shapes)}"
        )
    untold = None
    if num_heads is None:
        try:
            num_heads, _ = default_heads(shapes, port)
        except ValueError as error:  # told last: what is wrong otherwise matters more
            num_heads, untold = 1, error
    origins: dict[str, Origin] = {}
    lines: list[str] = []
    for name, shape in shapes.items():
        rows = list(_matching(_bare(name), port))
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
            elif ours in origins:
                lines.append(f'! doubled: {name} and {origins[ours].theirs} are {ours}')
            else:
                origins[ours] = Origin(name, row, new)
    present = {_bare(origin.theirs) for origin in origins.values()}
    lines += [f'- missing: {name}' for name in _required(port, shapes) - present]
    for end in ('head', 'pre_logits'):
        kernel, bias = (origins.get(f'{end}/{leaf}') for leaf in ('kernel', 'bias'))
        if (kernel is None) != (bias is None):
            half = (kernel or bias).theirs
            lines.append(f'- missing: the other half of {half}: weight or bias')
    if lines:
        raise ValueError(
            f'not the parameters of a {port.name}{relatives.families(shapes)}:\n  '
            + '\n  '.join(relatives.grouped(lines))
        )
    if untold is not None:
        raise untold
    return origins


def _thirds(shape: Shape) -> bool:
    return bool(shape) and shape[0] % 3 == 0


def _required(port: Port, names: Iterable[str]) -> set[str]:
    """Returns the names there that a whole model has, with all blocks there are."""
    counts: dict[str, set[tuple[str, ...]]] = {}
    for name in names:
        for row, _ in _matching(_bare(name), port):
            match = _pattern(row.theirs).fullmatch(_bare(name))
            for letters in ('i', 'su'):
                if all(f'{{{letter}}}' in row.theirs for letter in letters):
                    values = tuple(match[letter] for letter in letters)
                    counts.setdefault(letters, set()).add(values)
    required = set()
    for row in port.rows:
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


def _matching(name: str, port: Port) -> Iterator[tuple[Row, str]]:
    """Yields the rows that know a name there, and the names here."""
    for row in port.rows:
        if match := _pattern(row.theirs).fullmatch(name):
            numbers = {k: int(v) + (k in 'su') for k, v in match.groupdict().items()}
            yield row, row.ours.format(**numbers)


def _places(ours: str, port: Port) -> Iterator[tuple[Row, str]]:
    """Yields the rows that know a name here, and the names there."""
    for row in port.rows:
        if match := _pattern(row.ours).fullmatch(ours):
            numbers = {k: int(v) - (k in 'su') for k, v in match.groupdict().items()}
            yield row, row.theirs.format(**numbers)


class PortWeights(Weights):
    """The parameters in a .safetensors with the names of timm or of transformers.

    Args:
      path: as in `safetensors.entries`.
      num_heads: of the attention; None: see `default_heads`.
      card: what came with the weights.
      entries: the file's, if it is open already; see `unwrapped`.

    Raises:
      ValueError: the file cannot be read, or its parameters are not those of a model
        that is known: all differences are listed.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        num_heads: int | None = None,
        card: ModelCard | None = None,
        entries: Mapping[str, safetensors.Entry] | None = None,
    ):
        self.path, self.card = pathlib.Path(path), card
        self._entries = unwrapped(path) if entries is None else entries
        shapes = {name: entry.shape for name, entry in self._entries.items()}
        try:
            self._origins = translate(shapes, num_heads)
        except ValueError as error:
            raise ValueError(f'{self.path}: {error}') from error

    def __getitem__(self, name: str) -> np.ndarray:
        theirs, row, shape = self._origins[name]
        entry = self._entries[theirs]
        rows = slice(None)
        if row.part is not None:
            third = entry.shape[0] // 3
            rows = slice(row.part * third, (row.part + 1) * third)
        # Mostly a transposed view: written to another port, it is turned back unmoved.
        return row.change.read(safetensors.read(entry, rows), shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._origins)

    def __len__(self) -> int:
        return len(self._origins)

    def __contains__(self, name: object) -> bool:
        return name in self._origins

    def shape(self, name: str) -> Shape:
        """See `Weights`."""
        return self._origins[name].shape

    def dtype(self, name: str) -> np.dtype:
        """See `Weights`."""
        return self._entries[self._origins[name].theirs].dtype


def default_heads(shapes: Mapping[str, Shape], port: Port) -> tuple[int, str]:
    """Attention heads as in the published model of these sizes, and its name.

    Raises:
      ValueError: there is none. Only whoever has made the weights knows.
    """
    if not any(row.ours == f'{ATTENTION}/query/kernel' for row in port.rows):
        return 1, ''  # no attention, no heads
    width = width_of(shapes, port)
    mlp = _shape_of(f'{BLOCK}/MlpBlock_0/Dense_0/kernel', shapes, port)[0]
    for name, size in google.SIZES.items():
        if (size.hidden_size, size.mlp_dim) == (width, mlp):
            return size.num_heads, f'ViT-{name}'
    raise ValueError(
        f'nothing tells the number of attention heads: no published model has width '
        f'{width} and MLPs of {mlp}. Say it: num_heads=… in Python, --num_heads for '
        'commands, num_attention_heads or model_args.num_heads in a config.json '
        'beside the weights'
    )


def width_of(shapes: Mapping[str, Shape], port: Port) -> int:
    """The width of the tokens, or 0."""
    return _shape_of(_LAST_NORM, shapes, port)[-1]


def _shape_of(ours: str, shapes: Mapping[str, Shape], port: Port) -> Shape:
    theirs = next((r.theirs for r in port.rows if r.ours == ours), '').format(i=0)
    found = (shape for name, shape in shapes.items() if _bare(name) == theirs)
    return next(found, (0,))


def arrays(weights: Weights, port: Port) -> dict[str, safetensors.Array]:
    """Returns parameters of ours in the names of a port, read when written.

    Raises:
      ValueError: the port has no place for some of them: all are listed.
    """
    lost = _without_place(weights, port)
    parts_of: dict[str, list[tuple[str, Row]]] = {}
    for ours in weights:
        for row, theirs in _places(ours, port):
            parts_of.setdefault(theirs, []).append((ours, row))
    lost += [
        f'{name} (query, key and value belong together)'
        for name, parts in parts_of.items()
        if parts[0][1].part is not None and len(parts) != 3
    ]
    if lost:
        raise ValueError(f'a {port.name} has no place for: {", ".join(lost)}')

    def array(parts: list[tuple[str, Row]]) -> safetensors.Array:
        parts = sorted(parts, key=lambda place: place[1].part or 0)
        ours, row = parts[0]
        rows, *rest = row.change.there(weights.shape(ours))

        def make() -> np.ndarray:
            written = [row.change.write(weights[ours]) for ours, row in parts]
            return written[0] if len(written) == 1 else np.concatenate(written)

        return safetensors.Array(weights.dtype(ours), (rows * len(parts), *rest), make)

    prefix = port.prefix if 'head/kernel' in weights else ''
    return {
        name if name.startswith(f'{port.head}.') else f'{prefix}{name}': array(parts)
        for name, parts in parts_of.items()
    }
