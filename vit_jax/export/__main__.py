"""Exports a model to run elsewhere: StableHLO for anything that has XLA, or ONNX.

    python -m vit_jax.export runs/flowers exported
    python scripts/run_exported.py exported images.npy

OUT is a new folder:

    model.stablehlo     what jax.export.deserialize reads; `.call(images)` runs it
    model.json          the card: class names, normalization; and what is in the file
    model.safetensors   the weights, if they are not inside (more than 1.5 GB)

Images come in any number b, at once, on any of the platforms. What they are:

    --preprocessing none        float32 (b h w c) of the card's size, already normalized
                                by its mean and std: what the model itself takes
    --preprocessing normalize   uint8 (b h w c) of the card's size
    --preprocessing resize      uint8 (b h w c) of any size: decoded photos

Decoding files is never included. The outputs are those of the model to the bit where
both run on the same backend; with `resize`, whose arithmetic is OpenCV's only up to
rounding, to about 1e-6 of the inputs' range.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib
import importlib.metadata
import logging
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Array, Shaped

from vit_jax import checkpoint
from vit_jax.checkpoint.formats import safetensors
from vit_jax.command_line import arguments
from vit_jax.export.preprocessing import check_resize, normalize, resize
from vit_jax.files import atomic
from vit_jax.models import fields

FORMATS = ('stablehlo', 'onnx')
PREPROCESSING = ('none', 'normalize', 'resize')
WEIGHTS = ('auto', 'inside', 'beside')
PLATFORMS = ('cpu', 'cuda', 'tpu')
KNOWN_PLATFORMS = (*PLATFORMS, 'rocm')
# Not a platform of its own, but what many will type.
_ALIASES = {'gpu': 'cuda'}
# Both formats are buffers of at most 2 GB (flatbuffers, protobuf), and not all of that
# is weights.
MAX_INSIDE = 1_500_000_000
# The first with GELU as one operator; runtimes of many years read it.
OPSET = 20
ONNX_NEEDS = "'vit_jax[onnx]'"


def export(
    reference: str,
    out: str,
    to: str = 'stablehlo',
    *,
    best: bool = False,
    dtype: str = '',
    preprocessing: str = 'none',
    outputs: Sequence[str] = (),
    weights: str = 'auto',
    platforms: Sequence[str] = PLATFORMS,
) -> dict[str, Any]:
    """Writes a folder with the exported model and its card.

    Args:
        reference: what `vit_jax.load` takes.
        out: the folder, which must not exist.
        to: of FORMATS.
        best: of a run, the parameters that were best on val.
        dtype: of the computation; default: as in training. ONNX: float32.
        preprocessing: of PREPROCESSING, what is done inside; see the module.
        outputs: of `Predictor.feature_names`; default: logits, of a model without head
            the pre-logits.
        weights: of WEIGHTS; 'auto' puts up to MAX_INSIDE bytes inside.
        platforms: of KNOWN_PLATFORMS; not for ONNX.

    Returns:
        What was written: the part `source['export']` of the card.

    Raises:
        ValueError: the model does not load, `out` exists, an option has another value,
            a library is missing, or the format cannot hold the model.
        OSError: the disk is full, for instance; nothing half-made stays.
    """
    from vit_jax.runtime import extras

    # Before any work.
    path = pathlib.Path(out).expanduser()
    if path.exists() or path.is_symlink():
        raise ValueError(f'{path} exists: remove it, or name a folder to be made')
    fields.check_one_of('format', to, FORMATS)
    fields.check_one_of('preprocessing', preprocessing, PREPROCESSING)
    fields.check_one_of('weights', weights, WEIGHTS)
    platforms = [_ALIASES.get(platform, platform) for platform in platforms]
    for platform in platforms:
        fields.check_one_of('platform', platform, KNOWN_PLATFORMS)
    if not platforms or len(set(platforms)) < len(platforms):
        raise ValueError(f'platforms: found {list(platforms)}, expected each once')
    if to == 'onnx':
        extras.require('jax2onnx', purpose='--to onnx', install=ONNX_NEEDS)
        if dtype not in ('', 'float32') or preprocessing == 'resize':
            raise ValueError(
                '--to onnx computes in float32 and takes images of one size: leave out '
                '--dtype and --preprocessing resize'
            )
        dtype = 'float32'
    else:
        extras.require('flatbuffers', purpose='export', install='flatbuffers')

    from vit_jax.inference.predictor import Predictor

    predictor = Predictor.load(reference, best=best, dtype=dtype)
    if preprocessing == 'resize':
        check_resize(predictor.card)
    if not outputs:
        outputs = ['logits' if predictor.model.num_classes else 'pre_logits/features']
    for name in outputs:
        fields.check_one_of('output', name, predictor.feature_names())
    # On the host: the artifact must not remember the devices of this machine.
    params = jax.device_get(traverse_util.flatten_dict(predictor.params, sep='/'))
    size = sum(array.nbytes for array in params.values())
    inside = weights == 'inside' or (weights == 'auto' and size <= MAX_INSIDE)
    if inside and size > MAX_INSIDE:
        raise ValueError(
            f'{size / 1e9:.1f} GB of weights do not fit inside, where '
            f'{MAX_INSIDE / 1e9} GB do: leave out --weights inside'
        )
    function = serving_function(predictor, preprocessing, outputs)
    images = _images(predictor, preprocessing)

    with _new_folder(path) as folder:
        write = _write_stablehlo if to == 'stablehlo' else _write_onnx
        told = write(folder, function, params, images, inside, platforms)
        told |= {
            'input': {
                'name': 'images',
                'shape': list(images[0]),
                'dtype': images[1],
            },
            'preprocessing': preprocessing,
            'dtype': str(predictor.model.dtype),
        }
        source = {**predictor.card.source, 'export': told}
        dataclasses.replace(predictor.card, source=source).save(folder / 'model.json')
    return told


def serving_function(
    predictor: Any, preprocessing: str, outputs: Sequence[str]
) -> Callable[..., dict[str, Array]]:
    """Returns the function that is exported.

    Args:
        predictor: a `Predictor`.
        preprocessing: of PREPROCESSING.
        outputs: of `Predictor.feature_names`.

    Returns:
        A function of parameters by their published names, 'head/kernel', …, and of
        images; it returns the outputs by name.
    """
    card = predictor.card

    def serve(
        params: Mapping[str, Any], images: Shaped[Array, 'b h w c']
    ) -> dict[str, Array]:
        if preprocessing == 'resize':
            images = resize(images, card.image_size, card.resize)
            images = (images - jnp.float32(card.mean)) / jnp.float32(card.std)
        elif preprocessing == 'normalize':
            images = normalize(images, card)
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


def _write_stablehlo(
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
        'outputs': _described(outputs),
    }


def _write_onnx(
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
        'outputs': _described(outputs),
    }


def _described(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns shapes and dtypes as plain JSON."""
    return {
        name: {
            'shape': [n if isinstance(n, int) else str(n) for n in x.shape],
            'dtype': str(x.dtype),
        }
        for name, x in outputs.items()
    }


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


def summary(path: pathlib.Path, told: Mapping[str, Any]) -> str:
    """Returns what the user is told about an export, some lines."""
    sizes = [
        f'{file}  {file.stat().st_size / 1e6:.1f} MB' for file in sorted(path.iterdir())
    ]
    shape = ', '.join(map(str, told['input']['shape']))
    images = {
        'none': 'already resized and normalized: model.json says how',
        'normalize': 'already resized, pixels 0 to 255; normalization is inside',
        'resize': 'pixels 0 to 255 of any size; resize and normalization are inside',
    }[told['preprocessing']]
    lines = [*sizes, f'images: {told["input"]["dtype"]} ({shape}), {images}']
    for name, x in told['outputs'].items():
        lines.append(f'{name}: {x["dtype"]} ({", ".join(map(str, x["shape"]))})')
    lines.append(f'computed in {told["dtype"]}; weights: {told["weights"]}')
    if 'platforms' in told:
        lines.append(f'platforms: {", ".join(told["platforms"])}')
    return '\n'.join(lines)


def main(argv: list[str] | None = None) -> int:
    """Exports from the command line; returns the exit code."""
    first, _, details = __doc__.partition('\n\n')
    parser = argparse.ArgumentParser(
        prog='python -m vit_jax.export',
        description=first,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_checkpoint(parser)
    parser.add_argument('out', metavar='OUT', nargs='*', help='a folder to be made')
    parser.add_argument('--to', choices=FORMATS, default='stablehlo')
    parser.add_argument(
        '--preprocessing', choices=PREPROCESSING, default='none',
        help='what is included; default: none',
    )  # fmt: skip
    parser.add_argument(
        '--output', metavar='NAME', action='append',
        help='logits (default), probabilities, pre_logits/features, or any other '
        'feature; may be repeated',
    )  # fmt: skip
    parser.add_argument(
        '--weights', choices=WEIGHTS, default='auto',
        help=f'inside up to {MAX_INSIDE / 1e9} GB, beside above, or as said here',
    )  # fmt: skip
    parser.add_argument(
        '--platforms', default=','.join(PLATFORMS),
        help='separated by commas; default: %(default)s',
    )  # fmt: skip
    parser.add_argument(
        '--dtype', default='', help='of the computation; default: as in training'
    )
    args = parser.parse_intermixed_args(argv)
    logging.basicConfig(format='%(message)s', level=logging.WARNING)

    def command() -> int:
        reference = arguments.checkpoint_of(args, args.out)
        if len(args.out) != 1:
            raise ValueError(
                f'expected one folder to be made after the model, found {args.out}'
            )
        told = export(
            reference,
            args.out[0],
            args.to,
            best=args.best,
            dtype=args.dtype,
            preprocessing=args.preprocessing,
            outputs=args.output or (),
            weights=args.weights,
            platforms=[p.strip() for p in args.platforms.split(',') if p.strip()],
        )
        print(summary(pathlib.Path(args.out[0]).expanduser(), told))
        return 0

    return arguments.run('export', command)


if __name__ == '__main__':
    sys.exit(main())
