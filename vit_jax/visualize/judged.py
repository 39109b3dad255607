"""Drawing how well a model does: confusion, calibration, the worst mistakes."""

import numpy as np

from vit_jax.evaluation.judgement import Judgement
from vit_jax.inference.predictor import Predictor
from vit_jax.visualize import image_grid, views
from vit_jax.visualize.drawing import (
    LINES,
    POSITIVE,
    Figure,
    canvas,
    headline,
    shortened,
)

# With more classes a confusion matrix has no names beside it, or is not drawn at all.
_NAMED = 40
MAX_DRAWN = 400
# Numbers are written into the cells of a confusion matrix of so few classes.
_COUNTED = 12
_MISTAKES = 24


def all_figures(judgement: Judgement, predictor: Predictor | None) -> dict[str, Figure]:
    """Returns the figures of a judgement by name; those that show nothing are left out.

    Args:
        judgement: of the model.
        predictor: the model; None: without the photos of mistakes.
    """
    found = {'calibration': calibration(judgement)}
    if len(judgement.class_names) <= MAX_DRAWN:
        found['confusion'] = confusion(judgement)
    if predictor is not None and len(judgement.mistakes()):
        found['mistakes'] = mistakes(judgement, predictor)
    return found


def confusion(judgement: Judgement) -> Figure:
    """Returns the confusion matrix: in each row, where the examples of a class went."""
    counts = judgement.confusion()
    total = counts.sum(axis=1, keepdims=True)
    parts = counts / np.maximum(total, 1)
    number = len(counts)
    names = [shortened(name) for name in judgement.class_names]
    room = 0.085 * max(map(len, names)) if number <= _NAMED else 0.0
    side = min(9.0, max(3.2, 1.4 + 0.34 * number)) + room
    with canvas(side + 0.9, side) as figure:
        headline(figure, 'Confusion matrix')
        ax = figure.subplots()
        ax.grid(visible=False)
        image = ax.imshow(parts, cmap=POSITIVE, vmin=0, vmax=1, interpolation='nearest')
        ax.set_xlabel('predicted class')
        ax.set_ylabel('class')
        if number <= _NAMED:
            ax.set_xticks(range(number), names, rotation=90)
            ax.set_yticks(range(number), names)
        if number <= _COUNTED:
            for i, j in np.argwhere(counts):
                # Not quite black, which would turn with the colour of a page.
                color = '#101010' if parts[i, j] > 0.6 else 'white'
                ax.text(j, i, counts[i, j], ha='center', va='center', color=color)
        bar = figure.colorbar(image, ax=ax, shrink=0.8)
        bar.set_label('part of the class')
    return figure


def calibration(judgement: Judgement) -> Figure:
    """Returns the reliability diagram: how often what is said so surely is right."""
    edges, accuracy, confidence, part = judgement.calibration()
    middle, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    some = part > 0
    error = judgement.metrics()['calibration_error']
    with canvas(4.8, 4.8) as figure:
        headline(figure, 'Calibration')
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        upper.set_title(f'expected calibration error {error:.2%}', loc='left')
        upper.plot([0, 1], [0, 1], color='0.5', linestyle='--', label='calibrated')
        upper.bar(middle[some], accuracy[some], 0.9 * width[some], color=LINES[0])
        upper.plot(
            confidence[some], accuracy[some], 'o', color=LINES[1], markersize=4,
            label='mean confidence',
        )  # fmt: skip
        upper.set_ylabel('accuracy')
        upper.set_ylim(0, 1.02)
        upper.legend(loc='upper left')
        lower.bar(middle, part, 0.9 * width, color='0.6')
        lower.set_xlabel('confidence')
        lower.set_ylabel('examples')
        lower.yaxis.set_major_formatter('{x:.0%}')
        lower.set_xlim(0, 1)
    return figure


def mistakes(
    judgement: Judgement, predictor: Predictor, count: int = _MISTAKES
) -> Figure:
    """Returns photos that the model got wrong, the most confident first."""
    photos, titles = [], []
    for place in judgement.mistakes()[:count].tolist():
        photo = views.picture(judgement.example(place), predictor.params)
        photos.append(views.visible_part(photo, predictor.card))
        row = judgement.prediction(place)
        said = f'{shortened(row["prediction"])} {row["probability"]:.0%}'
        titles.append(f'{said}\nis {shortened(row["label"])}')
    return image_grid.draw(photos, titles, 'The most confident mistakes')
