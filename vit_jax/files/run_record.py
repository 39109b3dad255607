"""Reads what a run directory tells about its run."""

import json
import pathlib


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
