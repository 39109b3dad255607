"""What a report says: from a run directory to the values that the page shows."""

import base64
import contextlib
import csv
import dataclasses
import io
import json
import pathlib
import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from vit_jax import config as config_lib
from vit_jax import data
from vit_jax.checkpoint import num_channels
from vit_jax.checkpoint.references import neighbours
from vit_jax.evaluation import intervals
from vit_jax.evaluation.judgement import Judgement
from vit_jax.inference.predictor import Predictor
from vit_jax.models import shape_table, shape_trace
from vit_jax.report.private import without_paths
from vit_jax.visualize import curves as curves_lib
from vit_jax.visualize import drawing, figures, judged, views

# Mistakes that are shown, and over how many images attention distance is averaged.
_MISTAKES = 12
_IMAGES = 64
# Photos in the page, pixels on the longer side: mistakes, which can be enlarged, and
# examples of the classes, so many of so many.
_PHOTO, _SMALL = 480, 96
_CLASSES, _EXAMPLES = 20, 4
# Reading the labels of more training images than this may take minutes.
_COUNTED = 20_000


@dataclasses.dataclass(frozen=True)
class Shown:
    """A class of the data: how many images of it there are, and some of them."""

    name: str
    num_train: int | None
    num_judged: int
    pictures: list[str]


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A photo that the model got wrong; pictures as addresses that hold the data."""

    name: str
    label: str
    prediction: str
    probability: float
    photo: str
    attention: str | None


def run_part(run_dir: pathlib.Path) -> dict[str, Any]:
    """Returns what the run directory itself tells, of a run under way as well.

    Raises:
        ValueError: it is no run directory.
    """
    record, config = (_json(run_dir / name) for name in ('run.json', 'config.json'))
    flat = config_lib.flatten(config)
    usual = config_lib.flatten(config_lib.default())
    starts = record.get('starts', [])
    try:
        curves = curves_lib.read(run_dir)
    except ValueError:
        curves = {}
    return {
        'name': run_dir.resolve().name,
        'model': flat.get('model.model_name') or 'the model',
        'dataset': pathlib.PurePath(config.get('dataset') or '').name,
        'pretrained': without_paths(config.get('pretrained')),
        'finished': 'summary' in record,
        'step': int(max((steps[-1] for steps, _ in curves.values()), default=0)),
        'total_steps': config.get('total_steps'),
        'results': record.get('results', []),
        'curves': [
            drawing.svg(figures.learning_curve(curves, name), f'curve{i}')
            for i, name in enumerate(figures.shown_panels(curves))
        ],
        'changed': [
            (key, without_paths(value), usual.get(key))
            for key, value in flat.items()
            if value != usual.get(key) and not key.startswith('model.')
        ],
        'config': json.dumps(without_paths(config), indent=1, ensure_ascii=False),
        'skipped': _skipped(run_dir / 'skipped.csv'),
        'starts': starts,
        'command': _command(starts[-1]['command']) if starts else None,
        'fingerprints': record.get('fingerprints', {}),
    }


def model_part(predictor: Predictor) -> dict[str, Any]:
    """Returns what the parameters show, and what happens to an image."""
    params, card = predictor.params, predictor.card
    traced = shape_trace.summarize(
        predictor.model, card.image_size, num_channels(params)
    )
    pictures = []
    for view, draw, name, caption in (
        (
            views.filters, figures.filters, 'filters',
            'What the first layer looks for: the patterns that explain most of its '
            'filters, in their order. Edges, colours and textures are usual.',
        ),
        (
            views.positions, figures.positions, 'positions',
            'What it knows of place: for each patch of the image, how similar its '
            'position embedding is to those of all others. Rows and columns that '
            'light up mean that it has learned the grid.',
        ),
    ):  # fmt: skip
        with contextlib.suppress(views.Absent):
            figure = draw(view(params, card))
            pictures.append((drawing.svg(figure, name), caption))
    return {
        'image_size': '\N{MULTIPLICATION SIGN}'.join(map(str, card.image_size)),
        'num_classes': card.num_classes,
        'num_parameters': traced.parameters,
        'flops': traced.flops,
        'trace': shape_table.render(traced.folded()),
        'learned': pictures,
    }


def judged_part(predictor: Predictor, judgement: Judgement) -> dict[str, Any]:
    """Returns how well the model does, and where it looks when it is wrong."""
    found: dict[str, Any] = {
        'metrics': (metrics := judgement.metrics()),
        'interval': intervals.wilson(metrics['accuracy'], metrics['num_examples']),
        'per_class': judgement.per_class(),
        'calibration': drawing.svg(judged.calibration(judgement), 'calibration'),
        'confused': [
            (judgement.class_names[right], judgement.class_names[said], int(count))
            for right, said, count in judgement.confused
            if right != said
        ][:_MISTAKES],
        'mistakes': _mistakes(predictor, judgement),
        'num_mistakes': len(judgement.mistakes()),
    }
    if len(judgement.class_names) <= judged.MAX_DRAWN:
        figure = judged.confusion(judgement)
        found['confusion'] = drawing.svg(figure, 'confusion')
    try:
        images = data.Picked.spread(judgement.source, _IMAGES)
        attention = views.attention(predictor, images, skip_corrupt=True)
        figure = figures.attention_distance(attention)
        found['distance'] = drawing.svg(figure, 'distance')
    except views.Absent as reason:
        found['no_attention'] = str(reason)
    return found


def data_part(
    predictor: Predictor, judgement: Judgement, train: data.Source | None
) -> dict[str, Any]:
    """Returns what the images are: of each class how many there are, and some.

    Args:
        predictor: of the model.
        judgement: of some images.
        train: the images that the model was trained on, if they are of the same data.
    """
    counts = None
    if train is not None and len(train) <= _COUNTED:
        counts = np.bincount(train.labels, minlength=len(judgement.class_names))
    rows = judgement.per_class()
    places = [
        np.flatnonzero(judgement.labels == label)[:_EXAMPLES].tolist()
        for label in range(min(len(rows), _CLASSES))
    ]
    return {
        'num_train': None if train is None else len(train),
        'num_more': max(0, len(rows) - _CLASSES),
        'shown': [
            Shown(
                name=row['class'],
                num_train=None if counts is None else int(counts[label]),
                num_judged=row['num_examples'],
                pictures=[
                    _address(_resized(_photo(predictor, judgement, place), _SMALL))
                    for place in places[label]
                ],
            )
            for label, row in enumerate(rows[:_CLASSES])
        ],
    }


def _photo(
    predictor: Predictor, judgement: Judgement, place: int
) -> UInt8[np.ndarray, 'h w 3']:
    """Returns what of an image the model sees."""
    pixels = views.picture(judgement.example(place), predictor.params)
    return views.visible_part(pixels, predictor.card)


def _mistakes(predictor: Predictor, judgement: Judgement) -> list[Mistake]:
    """Returns the most confident mistakes, each with the attention over it."""
    places = judgement.mistakes()[:_MISTAKES].tolist()
    if not places:
        return []
    images = data.Picked(judgement.source, judgement.index[places].tolist())
    try:
        maps = views.attention(predictor, images).rollout
        maps = maps / maps.max(axis=(1, 2), keepdims=True)  # a scale for each
    except views.Absent:
        maps = [None] * len(places)
    found = []
    for place, heat in zip(places, maps, strict=True):
        row = judgement.prediction(place)
        photo = _resized(_photo(predictor, judgement, place), _PHOTO)
        found.append(
            Mistake(
                name=pathlib.PurePath(row['name']).name,
                label=row['label'],
                prediction=row['prediction'],
                probability=row['probability'],
                photo=_address(photo),
                attention=None if heat is None else _address(_under(photo, heat)),
            )
        )
    return found


def _under(
    photo: UInt8[np.ndarray, 'H W 3'], heat: Float[np.ndarray, 'h w']
) -> UInt8[np.ndarray, 'H W 3']:
    """Returns a photo in grey under the colours of a map of 0…1."""
    import matplotlib
    from PIL import Image

    size = photo.shape[1], photo.shape[0]
    smooth = Image.fromarray(np.float32(heat)).resize(size, Image.Resampling.BILINEAR)
    colors = matplotlib.colormaps[drawing.POSITIVE](np.asarray(smooth))[..., :3]
    grey = photo.mean(axis=-1, keepdims=True) / 255
    return np.uint8(255 * (0.6 * colors + 0.4 * grey))


def _resized(
    photo: UInt8[np.ndarray, 'h w 3'], longer: int
) -> UInt8[np.ndarray, 'H W 3']:
    """Returns a photo as large as it is shown; small ones keep their square pixels."""
    from PIL import Image

    scale = longer / max(photo.shape[:2])
    size = [max(1, round(side * scale)) for side in (photo.shape[1], photo.shape[0])]
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(photo).resize(size, how))


def _address(picture: UInt8[np.ndarray, 'h w 3']) -> str:
    """Returns a picture as the address of an image that is inside the page."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, 'JPEG', quality=85)
    return f'data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}'


def _skipped(path: pathlib.Path) -> list[tuple[str, str]]:
    """Returns the files that the run has left out, with the reason."""
    if not path.exists():
        return []
    with path.open(newline='', encoding='utf-8', errors='replace') as file:
        _, *rows = csv.reader(file)
    return [(without_paths(name), reason) for name, reason in rows]


def _command(words: list[str]) -> str:
    """Returns the command line of a start, as one would type it."""
    program, *rest = words or ['']
    if program.endswith('vit_jax/main.py'):
        words = ['python', '-m', 'vit_jax.main', *rest]
    return shlex.join(without_paths(words))


def _json(path: pathlib.Path) -> Mapping[str, Any]:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        around = '' if path.parent.exists() else f' {neighbours(path.parent)}'
        raise ValueError(
            f'{path.parent} is not a run directory, it has no {path.name}: expected '
            f'the --workdir of python -m vit_jax.main.{around}'
        ) from error
    except (OSError, ValueError) as error:
        raise ValueError(f'{path} cannot be read: {error}') from error
