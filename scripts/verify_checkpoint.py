"""Tells whether weights are what they claim to be, and whether we load them.

    python scripts/verify_checkpoint.py ViT-B_16.npz
    python scripts/verify_checkpoint.py hf://google/vit-base-patch16-224

Prints each array's name, shape and statistics, the checksum, what the published file
of that name is known to be like, and the five likeliest classes of a photo that
scikit-learn ships. The exit code is 1 if something is not as it should be.
"""

import argparse
import hashlib
import math
import pathlib
import sys

import numpy as np

from vit_jax import checkpoint
from vit_jax.checkpoint import model as model_lib
from vit_jax.checkpoint import readers
from vit_jax.checkpoint.weights import Weights
from vit_jax.command_line import arguments
from vit_jax.models.zoo import google_files

# Arrays in the published files, head included, pre_logits not.
NUM_ARRAYS = {
    'ViT-Ti_16': 200, 'ViT-S_16': 200, 'ViT-S_32': 200, 'ViT-B_8': 200,
    'ViT-B_16': 200, 'ViT-B_32': 200, 'ViT-L_16': 392, 'ViT-L_32': 392,
    'ViT-H_14': 520, 'R+ViT-Ti_16': 203, 'R26+ViT-S_32': 287, 'R26+ViT-B_32': 287,
    'R50+ViT-B_16': 356, 'R50+ViT-L_32': 551, 'Mixer-B_16': 150, 'Mixer-B_32': 150,
    'Mixer-L_16': 294,
}  # fmt: skip
# Sizes were published with two decimals of a MiB or of a GiB.
_SIZE_TOLERANCE = 0.006
_PHOTO = 'flower.jpg'


def verify(reference: str, all_arrays: bool = True) -> list[str]:
    """Prints what is known of weights; returns what is not as it should be."""
    problems: list[str] = []
    with readers.open(reference) as weights:
        row = google_files.find(reference) or google_files.find(str(weights.path))
        path = weights.path
        print(f'{path}\n')
        _print_files(path, row, problems)
        _print_arrays(weights, all_arrays, problems)
        _compare(weights, row, problems)
        card = model_lib.card_of(weights)
    print(f'\nmodel    {card.model.get("model_name") or "of no published size"}')
    print(f'classes  {card.num_classes}')
    print(f'images   {card.image_size[0]}x{card.image_size[1]} pixels')
    for key, value in card.source.items():
        print(f'{key:8} {value}')
    if card.num_classes:
        _print_top5(reference)
    return problems


def _print_files(
    path: pathlib.Path, row: google_files.Published | None, problems: list[str]
) -> None:
    files = [path] if path.is_file() else sorted(path.glob('*.safetensors'))
    for file in files:
        with file.open('rb') as content:
            digest = hashlib.file_digest(content, 'sha256').hexdigest()
        size = file.stat().st_size
        print(f'sha256   {digest}  {file.name}')
        print(f'bytes    {size:,} ({size / 2**20:.2f} MiB)')
        if row and row.size_mib and path.suffix == '.npz':
            off = abs(size / 2**20 - row.size_mib)
            allowed = max(0.01, _SIZE_TOLERANCE * row.size_mib)
            verdict = 'agrees' if off <= allowed else 'DIFFERS'
            print(f'listed   {row.size_mib} MiB: {verdict}')
            if off > allowed:
                problems.append(f'{size / 2**20:.2f} MiB, listed were {row.size_mib}')


def _print_arrays(weights: Weights, all_arrays: bool, problems: list[str]) -> None:
    print(f'\n{"mean":>11} {"std":>10} {"min":>11} {"max":>10}  name, shape')
    constant = []
    for name in weights:
        array = np.asarray(weights[name], np.float64)
        if not np.isfinite(array).all():
            problems.append(f'{name} holds values that are not finite')
        if array.size > 1 and array.min() == array.max():
            constant.append(name)
        if all_arrays:
            print(
                f'{array.mean():11.4g} {array.std():10.4g} {array.min():11.4g} '
                f'{array.max():10.4g}  {name} {weights.shape(name)} '
                f'{weights.dtype(name)}'
            )
    if constant:
        print(f'constant: {", ".join(constant)}')


def _compare(
    weights: Weights, row: google_files.Published | None, problems: list[str]
) -> None:
    total = sum(math.prod(weights.shape(name)) for name in weights)
    print(f'\n{len(weights)} arrays, {total:,} parameters')
    if row is None:
        print('No published file is known by this name.')
        return
    print(f'published as {row.url}')
    card = model_lib.card_of(weights)
    checks = {
        'model': (card.model.get('model_name'), row.model),
        'classes': (card.num_classes or row.num_classes, row.num_classes),
        'image size': (max(card.image_size), row.image_size),
    }
    if expected := NUM_ARRAYS.get(row.model.removesuffix('-gap-norep')):
        counted = [n for n in weights if not n.startswith('pre_logits')]
        headless = 0 if 'head/kernel' in weights else 2
        gap = 1 if row.model.endswith('-gap-norep') else 0
        checks['arrays'] = (len(counted), expected - headless - gap)
    for what, (found, wanted) in checks.items():
        print(f'{what}: {found}, published {wanted}')
        if found != wanted:
            problems.append(f'{what}: found {found}, published {wanted}')


def _print_top5(reference: str) -> None:
    import jax
    from sklearn.datasets import load_sample_image

    from vit_jax.inference.predictor import Predictor

    pixels = load_sample_image(_PHOTO)

    class Photo:
        class_names = ()

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index) -> dict:
            return {'image': pixels, 'label': -1, 'name': _PHOTO}

        def fingerprint(self) -> str:
            return _PHOTO

    predictor = Predictor(*checkpoint.load_model(reference))
    batches = predictor.outputs(Photo(), batch=jax.device_count())
    probabilities = next(batches)['probabilities'][0]
    names = predictor.card.class_names
    print(f'\n{_PHOTO} of scikit-learn, a dahlia (no class of ImageNet-1k):')
    for index in np.argsort(-probabilities)[:5]:
        name = names[index] if names else f'class {index}'
        print(f'{probabilities[index]:8.4f}  {name}')


def main(argv: list[str] | None = None) -> int:
    """Verifies a reference from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('reference', metavar='REF', help='what vit_jax.load takes')
    parser.add_argument('--short', action='store_true', help='without every array')
    args = parser.parse_args(argv)

    def command() -> int:
        problems = verify(args.reference, all_arrays=not args.short)
        for problem in problems:
            print(f'PROBLEM  {problem}')
        if not problems:
            print('\nNothing speaks against it.')
        return int(bool(problems))

    return arguments.run('verify_checkpoint', command)


if __name__ == '__main__':
    sys.exit(main())
