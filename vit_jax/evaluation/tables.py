"""What follows from a judgement, as files: tables, numbers, the predictions."""

import csv
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from vit_jax.evaluation.judgement import Judgement

PREDICTIONS = 'predictions.npz'


def write(
    judgement: Judgement, metrics: Mapping[str, Any], out: pathlib.Path
) -> list[pathlib.Path]:
    """Writes all that follows from a judgement to a folder; returns the files.

    predictions.npz, from which all of it follows again without the model; metrics.json;
    predictions.csv, mistakes.csv (the most confident first), per_class.csv,
    confusion.csv (right class, predicted class, how often).
    """
    out.mkdir(parents=True, exist_ok=True)
    names = judgement.class_names
    predictions = judgement.predictions()
    tables = {
        'predictions': predictions,
        'mistakes': [predictions[i] for i in judgement.mistakes().tolist()],
        'per_class': judgement.per_class(),
        'confusion': [
            {'label': names[right], 'prediction': names[predicted], 'count': int(count)}
            for right, predicted, count in judgement.confused
        ],
    }
    files = [out / PREDICTIONS, out / 'metrics.json']
    judgement.save(files[0])
    files[1].write_text(json.dumps(metrics, indent=1) + '\n')
    for name, rows in tables.items():
        files.append(out / f'{name}.csv')
        with files[-1].open('w', newline='', encoding='utf-8') as file:
            writer = csv.DictWriter(file, list(rows[0] if rows else predictions[0]))
            writer.writeheader()
            writer.writerows(rows)
    return files
