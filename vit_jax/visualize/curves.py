"""Learning curves: what metrics.jsonl tells, one series for each metric."""

import pathlib
from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float, Int

Curve = tuple[Int[np.ndarray, ' t'], Float[np.ndarray, ' t']]  # steps, values

# What is not measured, and what is no metric.
_NOT_CURVES = ('step', 'time')
_SPLITS = ('val', 'test')


def curves(records: Iterable[Mapping[str, float]]) -> dict[str, Curve]:
    """Returns steps and values of each metric, under its name.

    Not all metrics stand in every record; what is no number is left out.

    Args:
        records: the lines of metrics.jsonl.
    """
    found: dict[str, tuple[list[int], list[float]]] = {}
    for record in records:
        for name, value in record.items():
            if name in _NOT_CURVES or not isinstance(value, int | float):
                continue
            steps, values = found.setdefault(name, ([], []))
            steps.append(int(record['step']))
            values.append(float(value))
    return {
        name: (np.array(steps, np.int64), np.array(values, np.float64))
        for name, (steps, values) in found.items()
    }


def panels(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Returns which curves belong together: panel -> {legend: curve's name}.

    loss, val_loss and test_loss become {'loss': {'train': 'loss', 'val': 'val_loss',
    'test': 'test_loss'}}.
    """
    found: dict[str, dict[str, str]] = {}
    for name in names:
        split, _, rest = name.partition('_')
        panel, legend = (rest, split) if split in _SPLITS else (name, 'train')
        found.setdefault(panel, {})[legend] = name
    return found


def read(run_dir: pathlib.Path) -> dict[str, Curve]:
    """Returns the curves of a run.

    Raises:
        ValueError: there is no metrics.jsonl, or nothing in it.
    """
    from vit_jax.files import run_record

    path = run_dir / 'metrics.jsonl'
    if found := curves(run_record.read(path)):
        return found
    raise ValueError(f'{path} {"holds no metrics" if path.exists() else "is missing"}')
