"""A port: one kind of model as another library keeps it, names and files."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from vit_jax.checkpoint.card import ModelCard
from vit_jax.checkpoint.ports.rows import Row
from vit_jax.checkpoint.weights import Weights

Json = dict[str, Any]


class Description(NamedTuple):
    """What a library's config.json says of a model.

    Attributes:
      name: of the model and its training, such as 'vit_base_patch16_224.augreg_in21k'.
      num_heads: of the attention; None: it does not say.
      width: of the tokens, if `num_heads` holds for that alone.
      refused: what it asks for that no model here does, in words.
      pooling: what the head sees: 'token', 'avg', ….
      activation: of the MLPs, as the library calls it.
      norm_epsilon: of LayerNorm.
      sizes: of images, (height, width) or a side; the first that fits the weights.
      crop: part of the resized image's side that is cut out; None: it is not cut.
      mean: of pixels from 0 to 1.
      std: likewise.
    """

    name: str = ''
    num_heads: int | None = None
    width: int | None = None
    pooling: str = 'token'
    activation: str = 'gelu'
    norm_epsilon: float = 1e-6
    sizes: tuple[Any, ...] = ()
    crop: float | None = None
    mean: Any = None
    std: Any = None
    refused: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Port:
    """One kind of model of another library.

    Attributes:
      name: for messages.
      library: where it is from: what `convert --to` calls it.
      tell: the name of a parameter there that no port further down has.
      rows: all parameters.
      describe: from the content of config.json, {} if there is none.
      files: from a card and weights to what stands beside them in a repository, by
        the files' names; raises a ValueError if the library has no such model.
      prefix: of all names but the head's, in models with a head.
      head: the head's name there.
      numerics: fields of a model here that computes as the library does, beside the
        form of GELU and LayerNorm's epsilon, by their dotted names.
      numerics_said: the same in words.
    """

    name: str
    library: str
    tell: str
    rows: tuple[Row, ...]
    describe: Callable[[Json], Description]
    files: Callable[[ModelCard, Weights], dict[str, Json]]
    prefix: str = ''
    head: str = 'head'
    numerics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    numerics_said: str = ''


def unit(values: Any, channels: int) -> list[float]:
    """Returns a mean or deviation for pixels of 0 … 1, one for each channel."""
    values = values if isinstance(values, tuple) else (values,) * channels
    return [value / 255 for value in values]


def refuse(library: str, obstacles: Mapping[str, bool]) -> None:
    """Raises a ValueError if a library cannot express a model.

    Args:
      library: its name.
      obstacles: what would have to be otherwise, and whether it is so.
    """
    if reasons := [reason for reason, is_so in obstacles.items() if is_so]:
        raise ValueError(
            f'{library} cannot be this model: {", ".join(reasons)}. What works: a .npz '
            'or a .safetensors, which this library reads with its card.'
        )


def heads(number: Any) -> int | None:
    """Returns a number of attention heads, or None for what is none."""
    return number if isinstance(number, int) and number > 0 else None
