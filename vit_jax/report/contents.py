"""What a report says: from a run directory to the values that the page shows."""

import base64
import contextlib
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
from vit_jax.visualize import curves as curves_lib
from vit_jax.visualize import drawing, figures, judged, views

# Mistakes that are shown, and over how many images attention distance is averaged.
_MISTAKES = 12
_IMAGES = 64
# Photos in the page, pixels on the longer side.
_PHOTO = 320


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
        'dataset': config.get('dataset'),
        'pretrained': config.get('pretrained'),
        'finished': 'summary' in record,
        'step': int(max((steps[-1] for steps, _ in curves.values()), default=0)),
        'total_steps': config.get('total_steps'),
        'results': record.get('results', []),
        'curves': [
            drawing.svg(figures.learning_curve(curves, name), f'curve{i}')
            for i, name in enumerate(figures.shown_panels(curves))
        ],
        'changed': [
            (key, value, usual.get(key))
            for key, value in flat.items()
            if value != usual.get(key) and not key.startswith('model.')
        ],
        'config': json.dumps(config, indent=1, ensure_ascii=False),
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
    for title, view, draw, name in (
        ('Filters', views.filters, figures.filters, 'filters'),
        ('Position embeddings', views.positions, figures.positions, 'positions'),
    ):
        with contextlib.suppress(views.Absent):
            figure = draw(view(params, card))
            pictures.append((title, drawing.svg(figure, name)))
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


def _mistakes(predictor: Predictor, judgement: Judgement) -> list[Mistake]:
    """Returns the most confident mistakes, each with the attention over it."""
    places = judgement.mistakes()[:_MISTAKES].tolist()
    if not places:
        return []
    images = data.Picked(judgement.source, judgement.index[places].tolist())
    try:
        maps = views.attention(predictor, images).rollout
        maps = maps / maps.max()  # one scale for all
    except views.Absent:
        maps = [None] * len(places)
    found = []
    for place, heat in zip(places, maps, strict=True):
        row = judgement.prediction(place)
        pixels = views.picture(judgement.example(place), predictor.params)
        photo = _resized(views.visible_part(pixels, predictor.card))
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


def _resized(photo: UInt8[np.ndarray, 'h w 3']) -> UInt8[np.ndarray, 'H W 3']:
    """Returns a photo as large as it is shown; small ones keep their square pixels."""
    from PIL import Image

    scale = _PHOTO / max(photo.shape[:2])
    size = [max(1, round(side * scale)) for side in (photo.shape[1], photo.shape[0])]
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(photo).resize(size, how))


def _address(picture: UInt8[np.ndarray, 'h w 3']) -> str:
    """Returns a picture as the address of an image that is inside the page."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, 'JPEG', quality=85)
    return f'data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}'


def _command(words: list[str]) -> str:
    """Returns the command line of a start, as one would type it."""
    program, *rest = words or ['']
    if program.endswith('vit_jax/main.py'):
        return shlex.join(['python', '-m', 'vit_jax.main', *rest])
    return shlex.join(words)


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
