"""Runs what `python -m vit_jax.export` has written. Needs only jax and flatbuffers.

    python run_exported.py exported images.npy --out outputs.npz
    python run_exported.py exported photo.jpg another.png --top_k 3

Photos need Pillow; where the export was made with `--preprocessing normalize`, they
must be of just the right size. Arrays (b h w c) are what the export takes: `model.json`
says whether these are uint8 pixels or normalized floats.

This file may be copied: it is also an example of how to use an export.
"""

import argparse
import json
import math
import pathlib
import sys
from collections.abc import Callable, Iterator

import jax
import jax.export
import ml_dtypes
import numpy as np

DTYPES = {'F32': np.float32, 'F16': np.float16, 'BF16': ml_dtypes.bfloat16}


def load(folder: pathlib.Path) -> tuple[Callable, dict]:
    """Returns (function of images -> outputs by name, the card)."""
    card = json.loads((folder / 'model.json').read_text(encoding='utf-8'))
    told = card['source']['export']
    if told['file'] != 'model.stablehlo':
        raise ValueError(f'{folder} holds {told["file"]}: another runtime reads that')
    exported = jax.export.deserialize(
        bytearray((folder / 'model.stablehlo').read_bytes())
    )
    platform = jax.default_backend()
    platform = 'cuda' if platform == 'gpu' else platform
    if platform not in exported.platforms:
        raise ValueError(
            f'{folder} was exported for {", ".join(exported.platforms)}; this is '
            f'{platform}: export it with --platforms {platform}'
        )
    # Compiled once for each shape of images.
    call = jax.jit(exported.call)
    if told['weights'] == 'inside':
        return call, card
    weights = jax.device_put(dict(read_safetensors(folder / told['weights'])))
    return lambda images: call(weights, images), card


def read_safetensors(path: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the arrays of a file by name."""
    with path.open('rb') as file:
        length = int.from_bytes(file.read(8), 'little')
        header = json.loads(file.read(length))
    header.pop('__metadata__', None)
    for name, entry in header.items():
        offset = 8 + length + entry['data_offsets'][0]
        count = math.prod(entry['shape'])
        array = np.fromfile(path, DTYPES[entry['dtype']], count, offset=offset)
        yield name, array.reshape(entry['shape'])


def read_array(path: str, card: dict) -> np.ndarray:
    """Returns the images of a .npy."""
    images = np.load(path, allow_pickle=False)
    check(path, images, card)
    return images


def read_photo(path: str, card: dict) -> np.ndarray:
    """Returns a photo as (1 h w c)."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise ValueError(
            f'{path}: photos need Pillow (pip install pillow); arrays (.npy) do not'
        ) from None
    channels = card['source']['export']['input']['shape'][-1]
    if channels not in (1, 3):
        raise ValueError(f'{path}: the model sees {channels} channels: give a .npy')
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image).convert('L' if channels == 1 else 'RGB')
        pixels = np.asarray(image)
    images = pixels.reshape(1, *pixels.shape[:2], channels)
    check(path, images, card)
    return images


def check(path: str, images: np.ndarray, card: dict) -> None:
    """Raises a ValueError if images are not what the export takes."""
    told = card['source']['export']
    wanted = told['input']
    good = images.ndim == 4 and all(
        isinstance(want, str) or want == found
        for want, found in zip(wanted['shape'], images.shape, strict=True)
    )
    if not good or images.dtype != wanted['dtype'] or not images.size:
        raise ValueError(
            f'{path} is {images.dtype}{list(images.shape)}, this export takes '
            f'{wanted["dtype"]}[{", ".join(map(str, wanted["shape"]))}]; with '
            '--preprocessing resize it takes photos of any size'
        )


def rows(run: Callable, images: np.ndarray, batch: int) -> dict[str, np.ndarray]:
    """Returns the outputs of images, computed some at a time."""
    parts = [
        jax.device_get(run(images[i : i + batch])) for i in range(0, len(images), batch)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def tell(name: str, logits: np.ndarray, card: dict, top_k: int) -> None:
    """Prints the most probable classes of an image."""
    odds = np.exp(logits - logits.max())
    probabilities = odds / odds.sum()
    names = card['class_names'] or [str(i) for i in range(len(logits))]
    best = np.argsort(-probabilities, kind='stable')[:top_k]
    print(name, *(f'{names[i]} {probabilities[i]:.4f}' for i in best), sep='\t')


def main() -> int:
    """Runs an export from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('folder', type=pathlib.Path, help='made by vit_jax.export')
    parser.add_argument('images', nargs='+', help='one or more .npy or photos')
    parser.add_argument('--out', type=pathlib.Path, help='a .npz for all outputs')
    parser.add_argument('--top_k', type=int, default=5, help='classes printed (5)')
    parser.add_argument('--batch', type=int, default=64, help='images at once (64)')
    args = parser.parse_args()
    try:
        run, card = load(args.folder)
        found = []
        for path in args.images:
            is_array = path.endswith('.npy')
            images = (read_array if is_array else read_photo)(path, card)
            outputs = rows(run, images, max(args.batch, 1))
            found.append(outputs)
            for i, logits in enumerate(outputs.get('logits', ())):
                tell(f'{path}[{i}]' if is_array else path, logits, card, args.top_k)
        if args.out:
            with args.out.open('wb') as file:
                np.savez(
                    file,
                    **{
                        k: np.concatenate([part[k] for part in found]) for k in found[0]
                    },
                )
    except (ValueError, OSError, KeyError) as error:
        print(f'run_exported: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
