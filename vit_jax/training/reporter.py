"""What a run tells on the way: its log of metrics and its progress, on one host."""

import contextlib
from collections.abc import Mapping

from vit_jax.runtime import hosts
from vit_jax.training.metrics import MetricsLog, Progress
from vit_jax.training.plan import Plan
from vit_jax.training.run_directory import RunDirectory


class Reporter:
    """Writes metrics and shows progress; of several hosts, the first one does.

    Args:
        plan: of the run.
        run: where metrics are written. Lines of later steps than the start go.
    """

    def __init__(self, plan: Plan, run: RunDirectory):
        self._start = plan.start or 0
        self._log = self._progress = None
        if hosts.is_first():
            self._log = MetricsLog(run.path, self._start)
            chosen_by = plan.task.rank[0][0]
            self._progress = Progress(self._start, plan.config.total_steps, chosen_by)

    def write(self, step: int, record: Mapping[str, float]) -> None:
        """Writes a step's record, and shows the part of it that says how it goes."""
        if self._log is not None:
            self._log.write(step, record)
            self._progress.show(step, record)

    def write_picture(self, name: str, png: bytes) -> None:
        """Shows a PNG file in TensorBoard, at the step that the run starts from."""
        if self._log is not None:
            self._log.write_picture(self._start, name, png)

    def __enter__(self) -> 'Reporter':
        return self

    def __exit__(self, *reason: object) -> None:
        with contextlib.ExitStack() as stack:
            if self._log is not None:
                stack.push(self._log)
                stack.push(self._progress)
