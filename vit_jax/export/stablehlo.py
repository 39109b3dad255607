"""A model as StableHLO, for anything that has XLA."""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.export

from vit_jax.checkpoint.formats import safetensors
from vit_jax.files import atomic


def write(
    folder: pathlib.Path,
    function: Callable,
    params: Mapping[str, Any],
    images: tuple[tuple[int | str, ...], str],
    inside: bool,
    platforms: Sequence[str],
) -> dict[str, Any]:
    """Writes model.stablehlo, maybe model.safetensors; returns what the card says."""
    shape = jax.export.symbolic_shape(', '.join(map(str, images[0])))
    argument = jax.ShapeDtypeStruct(shape, images[1])
    if inside:
        function = functools.partial(function, params)
        exported = jax.export.export(jax.jit(function), platforms=platforms)(argument)
    else:
        # Any dict of arrays with these names will do; safetensors.numpy.load_file
        # makes one.
        exported = jax.export.export(jax.jit(function), platforms=platforms)(
            {k: jax.ShapeDtypeStruct(x.shape, x.dtype) for k, x in params.items()},
            argument,
        )
        arrays = {
            name: safetensors.Array(x.dtype, x.shape, lambda x=x: x)
            for name, x in params.items()
        }
        safetensors.save(folder / 'model.safetensors', arrays)
    with atomic.replacing(folder / 'model.stablehlo') as file:
        file.write(exported.serialize())
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    return {
        'file': 'model.stablehlo',
        'weights': 'inside' if inside else 'model.safetensors',
        'platforms': list(platforms),
        'jax': jax.__version__,
        'calling_convention': exported.calling_convention_version,
        'outputs': described(outputs),
    }


def described(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns shapes and dtypes as plain JSON."""
    return {
        name: {
            'shape': [n if isinstance(n, int) else str(n) for n in x.shape],
            'dtype': str(x.dtype),
        }
        for name, x in outputs.items()
    }
