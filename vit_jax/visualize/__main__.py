"""python -m vit_jax.visualize: figures (PNG) and arrays (npz) of what a model learned.

Of a model: principal components of the filters, similarity of the position embeddings,
attention distance by head and layer, attention rollout over photos. Of a run: its
learning curves. Attention needs images: photos that are named, or a dataset; without
either, the test split of what the model was trained on.
"""

import argparse
import dataclasses
import pathlib
import sys
from typing import Any

import numpy as np

from vit_jax.command_line import arguments, terminal

# In one figure of attention rollout.
_PER_FIGURE = 8


def main(argv: list[str] | None = None) -> int:
    """Looks inside a model; returns the exit code.

    0: done; 1: done, but some images do not decode; 2: the user's error.
    """
    summary, _, details = __doc__.partition('\n\n')
    parser = argparse.ArgumentParser(
        prog='python -m vit_jax.visualize',
        description=summary.partition(': ')[2],
        epilog=details,
    )
    arguments.add_checkpoint(parser)
    parser.add_argument(
        'photos', metavar='PHOTO', nargs='*', help='files, folders, patterns, addresses'
    )
    parser.add_argument('--out', required=True, help='the folder that is written to')
    arguments.add_dataset(parser)
    parser.add_argument('--num_images', type=arguments.positive, default=128,
        help='of a dataset, that attention distance is the mean of (128)')  # fmt: skip
    parser.add_argument('--num_rollouts', type=arguments.positive, default=8,
        help='of a dataset, that attention rollout is shown over (8)')  # fmt: skip
    parser.add_argument('--batch', type=arguments.positive, default=32)
    args = parser.parse_intermixed_args(argv)
    return arguments.run('visualize', lambda: visualize(args))


def visualize(args: argparse.Namespace) -> int:
    """Writes all figures and arrays; `args` as in `main`.

    Raises:
        ValueError: the model cannot be loaded, an image is not found, matplotlib is
            not installed.
    """
    from vit_jax.runtime import extras

    # Before any work.
    extras.require('matplotlib', purpose='visualize', install="'vit_jax[plot]'")
    reference = arguments.checkpoint_of(args, args.photos)
    if args.photos and args.dataset:
        raise ValueError('both photos and --dataset are named: leave one out')

    from vit_jax import models
    from vit_jax.inference.predictor import Predictor
    from vit_jax.visualize import figures, views

    out = _Folder(args.out)
    run_dir = pathlib.Path(reference).expanduser()
    has_curves = (run_dir / 'metrics.jsonl').exists()
    try:
        predictor = Predictor.load(reference, **arguments.model_options(args))
    except FileNotFoundError:
        if has_curves:  # a run under way has no model yet
            _curves(run_dir, out)
        raise
    # A name that does not exist is told before the work, too.
    source, why = _images(args, predictor.card)
    card = predictor.card
    name = card.model.get('model_name') or ''
    shown = {
        'filters': (views.filters, figures.filters),
        'token_mixing': (views.token_mixing, figures.token_mixing),
        'position_embeddings': (views.positions, figures.positions),
    }
    if not models.family_of(card.model).token_kernel:
        del shown['token_mixing']  # few networks do that: nobody misses it
    for file, (view, draw) in shown.items():
        try:
            found = view(predictor.params, card)
        except views.Absent as reason:
            print(f'{file}: {reason}')
        else:
            out.write(file, draw(found, name), found)
    try:
        views.attention_layers(predictor)  # whether there is any, images or not
        if source is None:
            raise views.Absent(why)
        code = _attention(args, predictor, source, out)
    except views.Absent as reason:
        print(f'attention: {reason}')
        code = 0
    if has_curves:
        _curves(run_dir, out)
    return code


def _attention(
    args: argparse.Namespace, predictor: Any, source: Any, out: '_Folder'
) -> int:
    """Writes distances and rollouts; returns 1 if some images do not decode."""
    from vit_jax import data
    from vit_jax.visualize import figures, views

    name = predictor.card.model.get('model_name') or ''
    found = views.attention(predictor, source, batch=args.batch, skip_corrupt=True)
    broken = sorted(set(range(len(source))) - set(found.index.tolist()))
    for i in broken:
        try:
            views.picture(source[i], predictor.params)
        except data.UndecodableImage as error:
            print(f'visualize: {error}; it is left out', file=sys.stderr)
    out.write('attention_distance', figures.attention_distance(found, name))
    names = [source[int(i)]['name'] for i in found.index]
    out.save('attention', dataclasses.asdict(found) | {'names': names})

    # There may have been more photos the last time.
    for old in out.path.glob('attention_rollout*.png'):
        old.unlink()
    count = len(found.index)
    if not args.photos:
        count = min(count, args.num_rollouts)
    for start in range(0, count, _PER_FIGURE):
        part = slice(start, min(start + _PER_FIGURE, count))
        examples = [source[int(i)] for i in found.index[part]]
        pixels = [views.picture(e, predictor.params) for e in examples]
        photos = [views.visible_part(p, predictor.card) for p in pixels]
        titles = [pathlib.PurePath(e['name']).name for e in examples]
        number = f'_{start // _PER_FIGURE + 1}' if count > _PER_FIGURE else ''
        figure = figures.rollout(found.rollout[part], photos, titles, name)
        out.write(f'attention_rollout{number}', figure)
    return int(bool(broken))


def _curves(run_dir: pathlib.Path, out: '_Folder') -> None:
    from vit_jax.visualize import curves, figures

    found = curves.read(run_dir)
    arrays = {}
    for name, (steps, values) in found.items():
        arrays |= {f'{name}/step': steps, f'{name}/value': values}
    figure = figures.learning_curves(found, run_dir.resolve().name)
    out.write('learning_curves', figure, arrays)


def _images(args: argparse.Namespace, card: Any) -> tuple[Any, str]:
    """Returns the images for attention, or None and why there are none."""
    from vit_jax import data
    from vit_jax.data.datasets.photos import Photos

    if args.photos:
        return Photos(args.photos), ''
    if not (args.dataset or card.source.get('dataset')):
        return None, 'no images: name photos, or a dataset by --dataset'
    try:
        dataset = arguments.dataset_of(args, card)
        source = dataset.source(arguments.split_of(args, card, dataset))
    except (ValueError, OSError) as error:
        if args.dataset or args.split:
            raise
        return None, f'no images: name photos, because {error}'
    return data.Picked.spread(source, args.num_images), ''


class _Folder:
    """Where figures and arrays go, and what is told about them."""

    def __init__(self, path: str):
        self.path = pathlib.Path(path).expanduser()

    def write(self, name: str, figure: Any, arrays: Any = None) -> None:
        """Writes a figure, and the arrays it shows: a mapping or a dataclass."""
        from vit_jax.visualize import drawing

        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / f'{name}.png'
        drawing.save(figure, path)
        print(path)
        if arrays is not None:
            is_mapping = isinstance(arrays, dict)
            self.save(name, arrays if is_mapping else dataclasses.asdict(arrays))

    def save(self, name: str, arrays: dict[str, Any]) -> None:
        """Writes arrays as npz."""
        path = self.path / f'{name}.npz'
        np.savez_compressed(path, **arrays)
        print(path)


if __name__ == '__main__':
    sys.exit(terminal.run(main))
