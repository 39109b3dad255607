"""What stands in a run directory, read without touching it."""

import json
import logging
import pathlib
from typing import Any

# What is for train.log alone: nobody else hears it. See `RunDirectory.logging`.
TRAIN_LOG = logging.getLogger('vit_jax.train_log')
TRAIN_LOG.propagate = False
TRAIN_LOG.setLevel(logging.INFO)


class RunRecord:
    """The records of the run in a directory; of one that is not there, none.

    Args:
        path: the run directory.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path

    def config(self) -> dict[str, Any] | None:
        """Returns the configuration of the run; None if there is none."""
        return self._read('config.json')

    def record(self) -> dict[str, Any]:
        """Returns run.json; {} if there is none."""
        return self._read('run.json') or {}

    def summary(self) -> dict[str, float] | None:
        """Returns the final metrics of a complete run; None if it is not complete."""
        return self.record().get('summary')

    def latest_step(self) -> int | None:
        """Returns the step of the newest whole checkpoint, or None.

        What is being written has another name.
        """
        saved = (self.path / 'checkpoints').glob('*')
        return max((int(p.name) for p in saved if p.name.isdigit()), default=None)

    def metrics(self) -> list[dict[str, float]]:
        """Returns the lines of metrics.jsonl."""
        return read(self.path / 'metrics.jsonl')

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        try:
            return json.loads(path.read_text()) if path.exists() else None
        except ValueError as error:
            raise ValueError(
                f'{path} is damaged: {error}. Restore it, or choose another --workdir.'
            ) from error


def read(path: pathlib.Path) -> list[dict[str, float]]:
    """Returns the lines of a metrics.jsonl; a torn last line does not count."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
