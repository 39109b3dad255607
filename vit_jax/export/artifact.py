"""A folder with an exported model and its card."""

import contextlib
import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from flax import traverse_util
from jaxtyping import Array, Shaped

from vit_jax import checkpoint
from vit_jax.data.images.preprocess import Preprocess
from vit_jax.export import onnx, stablehlo
from vit_jax.export.options import Options
from vit_jax.export.preprocessing import (
    check_resize,
    normalize,
    prepare,
    resizes_like_evaluation,
)
from vit_jax.words.suggest import check_one_of

# How each format is written.
_WRITERS = {'stablehlo': stablehlo.write, 'onnx': onnx.write}


def export(
    reference: str,
    out: str,
    to: str = 'stablehlo',
    *,
    best: bool | None = None,
    num_heads: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Writes a folder with the exported model and its card.

    Args:
        reference: what `vit_jax.load` takes.
        out: the folder, which must not exist.
        to: see `Options`.
        best: as in `vit_jax.load`.
        num_heads: as in `vit_jax.load`.
        **options: dtype, preprocessing, outputs, weights, platforms: see `Options`.

    Returns:
        What was written: the part `source['export']` of the card.

    Raises:
        ValueError: the model does not load, `out` exists, an option has another value,
            a library is missing, or the format cannot hold the model.
        OSError: the disk is full, for instance; nothing half-made stays.
    """
    # Before any work.
    path = pathlib.Path(out).expanduser()
    if path.exists() or path.is_symlink():
        raise ValueError(f'{path} exists: remove it, or name a folder to be made')
    options = Options(to, **options)

    from vit_jax.inference.predictor import Predictor

    predictor = Predictor.load(
        reference, best=best, num_heads=num_heads, dtype=options.dtype
    )
    preprocessing = _included(options, predictor.preprocess)
    outputs = options.outputs or [
        'logits' if predictor.model.num_classes else 'pre_logits/features'
    ]
    for name in outputs:
        check_one_of('output', name, predictor.feature_names())
    # On the host: the artifact must not remember the devices of this machine.
    params = jax.device_get(traverse_util.flatten_dict(predictor.params, sep='/'))
    inside = options.inside(sum(array.nbytes for array in params.values()))
    function = serving_function(predictor, preprocessing, outputs)
    images = _images(predictor, preprocessing)

    with _new_folder(path) as folder:
        write = _WRITERS[to]
        written = write(folder, function, params, images, inside, options.platforms)
        written |= {
            'input': {
                'name': 'images',
                'shape': list(images[0]),
                'dtype': images[1],
            },
            'preprocessing': preprocessing,
            'dtype': str(getattr(predictor.model, 'dtype', 'float32')),
        }
        source = {**predictor.card.source, 'export': written}
        dataclasses.replace(predictor.card, source=source).save(folder / 'model.json')
    return written


def _included(options: Options, preprocess: Preprocess) -> str:
    """Returns what is done inside, 'auto' resolved.

    Raises:
        ValueError: 'resize' would not do what evaluation does with photos.
    """
    if options.preprocessing == 'resize':
        check_resize(preprocess)
    if options.preprocessing != 'auto':
        return options.preprocessing
    can_resize = options.to != 'onnx' and resizes_like_evaluation(preprocess)
    return 'resize' if can_resize else 'normalize'


def serving_function(
    predictor: Any, preprocessing: str, outputs: Sequence[str]
) -> Callable[..., dict[str, Array]]:
    """Returns the function that is exported.

    Args:
        predictor: a `Predictor`.
        preprocessing: of PREPROCESSING, resolved.
        outputs: of `Predictor.feature_names`.

    Returns:
        A function of parameters by their published names, 'head/kernel', …, and of
        images; it returns the outputs by name.
    """

    def serve(
        params: Mapping[str, Any], images: Shaped[Array, 'b h w c']
    ) -> dict[str, Array]:
        if preprocessing == 'resize':
            images = prepare(images, predictor.preprocess)
        elif preprocessing == 'normalize':
            images = normalize(images, predictor.preprocess)
        # Behind the barrier the compiler cannot see that these are constants: it would
        # compute with them while it compiles, and the last bits would be others than
        # those of the model. (XLA:CPU of jaxlib 0.10.0 and before sees it for one image
        # alone; weights beside the artifact are arguments, as in the model.)
        params = jax.lax.optimization_barrier(dict(params))
        tree = traverse_util.unflatten_dict(params, sep='/')
        found = predictor.all_outputs(tree, images)
        return {name: found[name] for name in outputs}

    return serve


def _images(predictor: Any, preprocessing: str) -> tuple[tuple[int | str, ...], str]:
    """Returns shape, with letters for what is free, and dtype of the input."""
    size = ('h', 'w') if preprocessing == 'resize' else predictor.card.image_size
    shape = ('b', *size, checkpoint.num_channels(predictor.params))
    return shape, 'float32' if preprocessing == 'none' else 'uint8'


@contextlib.contextmanager
def _new_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a folder to fill; it becomes `path` when all went well, or is removed."""
    # One fixed name: what a killed process left is overwritten, not collected.
    temporary = path.with_name(f'.{path.name}.tmp')
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def summary(path: pathlib.Path, written: Mapping[str, Any]) -> str:
    """Returns what the user is written about an export, some lines."""
    sizes = [
        f'{file}  {file.stat().st_size / 1e6:.1f} MB' for file in sorted(path.iterdir())
    ]
    shape = ', '.join(map(str, written['input']['shape']))
    images = {
        'none': 'already resized and normalized: model.json says how',
        'normalize': 'already resized, pixels 0 to 255; normalization is inside',
        'resize': 'pixels 0 to 255 of any size; resize and normalization are inside',
    }[written['preprocessing']]
    lines = [*sizes, f'images: {written["input"]["dtype"]} ({shape}), {images}']
    for name, x in written['outputs'].items():
        lines.append(f'{name}: {x["dtype"]} ({", ".join(map(str, x["shape"]))})')
    lines.append(f'computed in {written["dtype"]}; weights: {written["weights"]}')
    if 'platforms' in written:
        lines.append(f'platforms: {", ".join(written["platforms"])}')
    return '\n'.join(lines)
