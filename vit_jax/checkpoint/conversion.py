"""Weights in another format, read and written one array at a time."""

import math
import pathlib
import shutil
from collections.abc import Iterator

import numpy as np
import tqdm

from vit_jax.checkpoint import model, readers
from vit_jax.checkpoint.formats import npz
from vit_jax.checkpoint.ports import repository
from vit_jax.checkpoint.weights import Weights

FORMATS = ('npz', 'timm', 'huggingface')


def convert(
    reference: str,
    out: str,
    to: str | None = None,
    *,
    best: bool | None = None,
    num_heads: int | None = None,
    head: bool = True,
    overwrite: bool = False,
) -> pathlib.Path:
    """Writes weights in another format; returns where.

    Args:
        reference: what `vit_jax.load` takes.
        out: a .npz, a .safetensors (timm) or a folder (timm, huggingface).
        to: of FORMATS; None: npz or timm by the suffix of `out`.
        best: as in `vit_jax.load`.
        num_heads: as in `vit_jax.load`.
        head: False leaves the head out.
        overwrite: replace what is there.

    Raises:
        ValueError: the weights cannot be read or have no place in the format, or
            there is something already.
        OSError: the disk is full, for instance; nothing half-made stays.
    """
    path = pathlib.Path(out).expanduser()
    to = to or {'.npz': 'npz', '.safetensors': 'timm'}.get(path.suffix)
    if to is None:
        raise ValueError(
            f'{out}: is it for timm or for huggingface? Say --to; or name a .npz or a '
            '.safetensors.'
        )
    if to == 'npz' and path.suffix != '.npz':
        raise ValueError(f'{out}: expected a name that ends with .npz')
    if to == 'huggingface' and path.suffix in ('.npz', '.safetensors'):
        raise ValueError(f'{out}: huggingface is a folder, not a file')
    if path.exists() and not overwrite:
        raise ValueError(f'{path} exists; --overwrite replaces it')
    with readers.open(reference, best=best, num_heads=num_heads) as weights:
        card = model.card_of(weights)
        watched = _Watched(weights, head)
        if not head:
            card = model.without_head(card)
        existed = path.exists()
        try:
            if to == 'npz':
                with card.saved_before(path):
                    npz.save(path, watched)
            else:
                repository.save(path, watched, card, to)
        except BaseException:
            if not existed and path.is_dir():
                shutil.rmtree(path)
            raise
        finally:
            watched.bar.close()
    return path


class _Watched(Weights):
    """Weights that show how many of their bytes have been read."""

    def __init__(self, weights: Weights, head: bool):
        self._weights = weights
        self.path, self.card = weights.path, weights.card
        self._names = [n for n in weights if head or not n.startswith('head/')]
        total = sum(
            math.prod(weights.shape(n)) * weights.dtype(n).itemsize for n in self._names
        )
        self.bar = tqdm.tqdm(total=total, unit='B', unit_scale=True, leave=False)

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._weights[name]
        self.bar.update(array.nbytes)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names  # Mapping's own would read the array

    def shape(self, name: str) -> tuple[int, ...]:
        """See `Weights`."""
        return self._weights.shape(name)

    def dtype(self, name: str) -> np.dtype:
        """See `Weights`."""
        return self._weights.dtype(name)
