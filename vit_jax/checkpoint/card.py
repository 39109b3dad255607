"""The card beside a model's weights: all it takes to use them, as plain JSON."""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from vit_jax.files import atomic
from vit_jax.words.units import MID_GREY

Number = int | float

_FORMAT = 'vit_jax model card'
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """What `model.npz` does not say.

    Attributes:
      model: the model's configuration (`config.model` of a run), a plain dict.
      num_classes: number of outputs of the head.
      image_size: (height, width) in pixels of the images the model takes.
      class_names: one name per output, or None.
      task: what it was trained for: `config.task`; it says what its outputs mean.
      resize: shorter side in pixels before the centre crop (`pp.resize`); None
        resizes straight to `image_size`.
      mean: a pixel x of 0..255 enters the model as (x - mean) / std; one number, or
        one per channel.
      std: see `mean`.
      source: where the weights come from (dataset, step, metrics …); plain JSON.
    """

    # What is given; __post_init__ makes dicts, tuples and a list of names of it.
    model: Mapping[str, Any] | ConfigDict
    num_classes: int
    image_size: Sequence[int]
    class_names: Sequence[str] | None = None
    resize: int | None = None
    mean: Number | Sequence[Number] = MID_GREY
    std: Number | Sequence[Number] = MID_GREY
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    task: str = 'classes'

    def __post_init__(self):
        model = (
            self.model.to_dict() if isinstance(self.model, ConfigDict) else self.model
        )
        self._set(model=_tuples(dict(model)))
        self._set(image_size=tuple(self.image_size), source=dict(self.source))
        for key in ('mean', 'std'):
            value = getattr(self, key)
            if isinstance(value, Sequence):
                self._set(**{key: tuple(value)})
        if self.class_names is not None:
            self._set(class_names=list(self.class_names))
        self._check()

    def save(self, path: str | os.PathLike) -> None:
        """Writes the card as JSON, atomically."""
        content = {'format': _FORMAT, 'format_version': _VERSION}
        content |= dataclasses.asdict(self)
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        with atomic.replacing(path) as file:
            file.write(f'{text}\n'.encode())

    @contextlib.contextmanager
    def saved_before(self, weights: str | os.PathLike) -> Iterator[None]:
        """Writes the card beside a file of weights that is written inside.

        So weights are never without what must be known to use them. If they cannot be
        written, all is as it was.
        """
        path = pathlib.Path(weights).with_suffix('.json')
        before = path.read_bytes() if path.exists() else None
        self.save(path)
        try:
            yield
        except BaseException:
            if before is None:
                path.unlink()
            else:
                with atomic.replacing(path) as file:
                    file.write(before)
            raise

    @classmethod
    def load(cls, path: str | os.PathLike) -> 'ModelCard':
        """Reads a card.

        Raises:
          ValueError: the file is missing, no JSON, of a newer format, or its keys or
            values are not those of a card.
        """
        path = pathlib.Path(path).expanduser()
        try:
            content = json.loads(path.read_text(encoding='utf-8'))
        except (OSError, ValueError) as e:
            raise ValueError(f'{path} is not a readable model card: {e}') from e
        if not isinstance(content, dict) or content.pop('format', None) != _FORMAT:
            raise ValueError(f"{path} is not a model card: no format: '{_FORMAT}'")
        version = content.pop('format_version', None)
        if version != _VERSION:
            raise ValueError(
                f'{path} has format version {version}; this vit_jax reads version '
                f'{_VERSION}. Update vit_jax, or write the card again.'
            )
        fields = dataclasses.fields(cls)
        required = {'model', 'num_classes', 'image_size'}
        missing = sorted(required - content.keys())
        unknown = sorted(content.keys() - {field.name for field in fields})
        if missing or unknown:
            raise ValueError(
                f'{path} does not fit a model card: missing keys {missing}, unknown '
                f'keys {unknown}; expected {[field.name for field in fields]}'
            )
        try:
            return cls(**content)
        except (TypeError, ValueError) as e:
            raise ValueError(f'{path} does not fit a model card: {e}') from e

    def _set(self, **values: Any) -> None:
        for key, value in values.items():
            object.__setattr__(self, key, value)

    def _check(self) -> None:
        def expect(good: bool, key: str, expected: str) -> None:
            if not good:
                raise ValueError(
                    f'{key} is {getattr(self, key)!r}, expected {expected}'
                )

        size = self.image_size
        expect(_is_count(self.num_classes), 'num_classes', 'a number of classes')
        expect(
            len(size) == 2 and all(_is_count(n) and n > 0 for n in size),
            'image_size',
            '(height, width) in pixels',
        )
        expect(
            self.resize is None or (_is_count(self.resize) and self.resize > 0),
            'resize',
            'pixels or None',
        )
        for key in ('mean', 'std'):
            value = getattr(self, key)
            values = value if isinstance(value, tuple) else (value,)
            good = bool(values) and all(map(_is_number, values))
            expect(good and (key == 'mean' or all(values)), key, 'numbers, std not 0')
        names = self.class_names
        if names is not None:
            expect(all(isinstance(n, str) for n in names), 'class_names', 'strings')
            if len(names) != self.num_classes:
                raise ValueError(
                    f'{len(names)} class names for {self.num_classes} classes'
                )


def find_card(weights_path: str | os.PathLike) -> ModelCard | None:
    """Returns the card that belongs to a file of weights, or None.

    It is `model.json` for `model.npz` and `model_best.npz`; `flowers.json` for
    `flowers.npz`, if that is a card and not some other JSON.

    Raises:
      ValueError: the card cannot be read.
    """
    weights_path = pathlib.Path(weights_path).expanduser()
    own = weights_path.stem in ('model', 'model_best')
    path = weights_path.with_name('model.json' if own else f'{weights_path.stem}.json')
    if not path.is_file():
        return None
    if not own and _FORMAT not in path.read_text(encoding='utf-8', errors='replace'):
        return None
    return ModelCard.load(path)


def _tuples(value: Any) -> Any:
    """Returns what JSON gives back with tuples for lists, as configurations have."""
    if isinstance(value, Mapping):
        return {key: _tuples(v) for key, v in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)
