"""Split strings as in TFDS: 'train[:98%]', 'train[2000:]', 'train+validation'.

The grammar and the rounding are those of `tfds.core.ReadInstruction` (percent
boundaries go to the closest example), for sources that TFDS knows nothing of. Only
its unit 'shard' is missing: other sources have no shards.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping

from vit_jax.words import suggest

# Names of splits in the wild: train, Training, training_set, seg_train, valid, dev, …
_NAMES = {
    'train': 'train|training|trn',
    'validation': 'validation|valid|val|dev|development|eval|evaluation',
    'test': 'test|testing|tst',
}
_AFFIXES = r'(?:seg[_-])?(?:{})(?:[ _-]?(?:set|split|data|images|imgs))?'
_PIECE = re.compile(r'(?P<name>[\w-]+)(\[(?P<slice>[\w%:.-]+)\])?')
_BOUNDARY = re.compile(r'(?P<value>-?[\d_.]+)(?P<unit>%|shard)?')


@dataclasses.dataclass(frozen=True)
class _Piece:
    """One summand: examples start..stop-1 of a split, and how they were written."""

    name: str
    start: int
    stop: int
    texts: tuple[str, str] = ('', '')


@functools.cache  # a manifest asks for each of its rows
def canonical(name: str) -> str | None:
    """The split that a name in the wild means: train, validation or test; or None.

    So it is for folders, columns of CSV files, the hub and TFDS alike.
    """
    for split, names in _NAMES.items():
        if re.fullmatch(_AFFIXES.format(names), name, re.IGNORECASE):
            return split
    return None


def parse(split: str, sizes: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """Returns what a split string selects, as (name, start, stop) in its order.

    Args:
      split: for example 'train', 'train[:98%]', 'train[-500:]', 'train+test', 'all'.
      sizes: the number of examples of each split that exists.

    Raises:
      ValueError: unknown split, malformed string, or boundaries beyond the split.
    """
    pieces = _pieces(split, sizes)
    return [(piece.name, piece.start, piece.stop) for piece in pieces]


def complement(split: str, sizes: Mapping[str, int]) -> str | None:
    """Returns what a split string leaves out of the splits it names.

    'train[:98%]' gives 'train[98%:]'; boundaries keep their spelling where they can.

    Returns:
      A split string, or None where nothing is left out.
    """
    by_name: dict[str, list[_Piece]] = {}
    for piece in _pieces(split, sizes):
        chosen = by_name.setdefault(piece.name, [])
        if piece.stop > piece.start:
            chosen.append(piece)
    rest = []
    for name, pieces in by_name.items():
        position, text = 0, ''
        for piece in sorted(pieces, key=lambda piece: (piece.start, piece.stop)):
            if piece.start > position:
                rest.append(_write(name, position, piece.start, text, piece.texts[0]))
            if piece.stop > position:
                position, text = piece.stop, piece.texts[1]
        if position < sizes[name]:
            rest.append(_write(name, position, None, text, ''))
    return '+'.join(rest) or None


def _pieces(split: str, sizes: Mapping[str, int]) -> list[_Piece]:
    pieces = []
    for spec in re.split(r'\s*\+\s*', split.strip()):
        match = _PIECE.fullmatch(spec)
        if not match:
            raise ValueError(
                f'{spec!r} in the split string {split!r} is not of the form name, '
                "name[from:to], such as 'train[:98%]' or 'test[500:]'"
            )
        name = match['name']
        if name == 'all' and name not in sizes:
            if match['slice']:
                raise ValueError(f"{spec!r}: 'all' cannot be sliced; slice each split")
            pieces += [_Piece(name, 0, size) for name, size in sizes.items()]
            continue
        # 'val' is another name of 'validation'.
        name = name if name in sizes else canonical(name) or name
        if name not in sizes:
            found = ', '.join(f'{key} ({size})' for key, size in sizes.items())
            raise ValueError(
                f'unknown split {name!r} in {split!r}: the splits are '
                f'{found}.{suggest.did_you_mean(name, sizes, cutoff=0.5)}'
            )
        pieces.append(_slice(spec, name, match['slice'], sizes[name]))
    return pieces


def _slice(spec: str, name: str, selector: str | None, size: int) -> _Piece:
    """Turns the part in brackets into positions; -3 counts from the end."""
    if selector is None:
        return _Piece(name, 0, size)
    written = selector.split(':')
    bounds = [_BOUNDARY.fullmatch(text) if text else None for text in written]
    if (
        len(bounds) != 2
        or not any(bounds)
        or any(text and not bound for text, bound in zip(written, bounds, strict=True))
    ):
        raise ValueError(
            f'{spec!r}: a slice is [from:to], [from:] or [:to], in examples (2000) or '
            'percent (98%), negative from the end'
        )
    # One unit serves both sides, as in TFDS: [10:20%] is [10%:20%].
    unit = next((bound['unit'] for bound in bounds if bound and bound['unit']), '')
    if unit == 'shard':
        raise ValueError(f'{spec!r}: slices count examples or percent, not shards')
    positions, texts = [], []
    for bound, default in zip(bounds, (0, size), strict=True):
        if bound is None:
            positions.append(default)
            texts.append('')
            continue
        try:
            value = float(bound['value']) if unit else int(bound['value'])
        except ValueError:
            raise ValueError(
                f'{spec!r}: {bound["value"]!r} is not a number of examples; '
                'fractions are for percent'
            ) from None
        if unit and abs(value) > 100:
            raise ValueError(f'{spec!r}: percent lie between -100 and 100')
        position = round(value * size / 100.0) if unit else value
        if abs(position) > size:
            raise ValueError(f'{spec!r}: the split {name!r} has only {size} examples')
        positions.append(position + size if position < 0 else position)
        texts.append(bound['value'] + unit)
    start, stop = positions
    return _Piece(name, start, max(start, stop), (texts[0], texts[1]))


def _write(name: str, start: int, stop: int | None, *texts: str) -> str:
    """Writes a slice with the given spellings, or with plain numbers if they mix."""
    units = {text.endswith('%') for text in texts if text}
    if len(units) > 1:
        texts = (str(start) if start else '', '' if stop is None else str(stop))
    return f'{name}[{texts[0]}:{texts[1]}]' if any(texts) else name
