"""A model as ONNX, for its runtimes."""

import importlib
import importlib.metadata
import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.export

from vit_jax.export.stablehlo import described

# The first with GELU as one operator; runtimes of many years read it.
OPSET = 20


def write(
    folder: pathlib.Path,
    function: Callable,
    params: Mapping[str, Any],
    images: tuple[tuple[int | str, ...], str],
    inside: bool,
    platforms: Sequence[str],
) -> dict[str, Any]:
    """Writes model.onnx, maybe model.onnx.data; returns what the card says."""
    del platforms  # the runtime's affair
    jax2onnx, onnx = map(importlib.import_module, ('jax2onnx', 'onnx'))
    # It speaks of values whose shape it does not write down, which is harmless.
    logging.getLogger('onnx_ir').setLevel(logging.ERROR)
    shape = jax.export.symbolic_shape(', '.join(map(str, images[0])))
    # What is wrong in our own function is told here.
    outputs = jax.eval_shape(function, params, jax.ShapeDtypeStruct(shape, images[1]))
    names = list(outputs)
    version = importlib.metadata.version('jax2onnx')

    def in_order(images: Any) -> tuple[Any, ...]:
        found = function(params, images)
        return tuple(found[name] for name in names)

    path, beside = folder / 'model.onnx', folder / 'model.onnx.data'
    try:
        jax2onnx.to_onnx(
            in_order,
            [jax.ShapeDtypeStruct(*images)],
            model_name='vit_jax',
            opset=OPSET,
            input_names=['images'],
            output_names=names,
            return_mode='file',
            output_path=str(path),
            export_mode='web' if inside else 'standard',  # one file, or two
        )
        onnx.checker.check_model(str(path))
    except OSError:
        raise
    except Exception as error:  # what a converter raises is not bounded
        raise ValueError(
            f'jax2onnx {version} does not convert this model: {error}. The way through '
            'timm or Hugging Face: vit_jax.convert --to huggingface, then their export.'
        ) from error
    return {
        'file': path.name,
        'weights': beside.name if beside.exists() else 'inside',
        'opset': OPSET,
        'jax2onnx': version,
        'outputs': described(outputs),
    }
