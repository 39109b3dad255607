"""A training run's state on disk: what resuming needs, kept by Orbax.

The one file that knows Orbax. A checkpoint holds what `TrainState.to_saved()` returns,
in the published layout (one subtree per encoder block) whether or not the run stacks
its blocks, and nothing about the data: the position in the data is the step.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from vit_jax import models
from vit_jax.tasks import CLASSES

PyTree = Any
_ITEM = 'state'


def _is_judged(metrics: Mapping[str, float]) -> bool:
    """Returns whether val was asked about a checkpoint; all have their step."""
    return len(metrics) > 1


class _Always(checkpoint_managers.SaveDecisionPolicy):
    """Saves whenever asked: the training loop decides when."""

    def should_save(self, step: Any, previous_steps: Any, *, context: Any) -> bool:
        return True


class TrainCheckpoints:
    """The checkpoints of one run: saved in the background, newest few and the best.

    Args:
        directory: where they are; made absolute, created when missing.
        keep: how many of the newest stay. The best one on val stays as well.
        score: from what val said to what orders it, the larger the better: that of
            the run's task.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        keep: int = 3,
        score: Callable[[Mapping[str, float]], tuple[float, ...]] = CLASSES.score,
    ):
        self._score = score
        policies = [
            checkpoint_managers.LatestN(keep),
            # Every whole checkpoint has metrics. Without are those that a run was
            # removing when it was killed: they go with the next save.
            checkpoint_managers.BestN(
                get_metric_fn=self._rank, n=1, keep_checkpoints_without_metrics=False
            ),
        ]
        self._manager = ocp.CheckpointManager(
            os.path.abspath(directory),
            options=ocp.CheckpointManagerOptions(
                # It chooses nothing here, but without it Orbax writes no metrics.
                best_fn=self._rank,
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                # What a killed run had begun to write is removed.
                cleanup_tmp_directories=True,
                save_decision_policy=_Always(),
            ),
            item_names=(_ITEM,),
        )
        # The best one is always kept, so that what was the best is known from here.
        known = [self._manager.metrics(step) for step in self._manager.all_steps()]
        self._best = max(
            (metrics for metrics in known if metrics and _is_judged(metrics)),
            key=self._rank,
            default=None,
        )

    def latest_step(self) -> int | None:
        """Returns the step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def best(self) -> dict[str, float] | None:
        """Returns what val said of the best checkpoint, with its 'step', or None."""
        return self._best

    def is_better(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Returns whether these val metrics beat those of all checkpoints."""
        rank = self._rank({**metrics, 'step': step})
        return self._best is None or rank > self._rank(self._best)

    def _rank(self, metrics: Mapping[str, float]) -> tuple:
        """Orders checkpoints by what val said, then the earlier.

        Those that val was not asked about come before all others, the newest last.
        """
        if not _is_judged(metrics):
            return (False, (), metrics['step'])
        return (True, self._score(metrics), -metrics['step'])

    def save(
        self, step: int, saved: PyTree, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Starts to write a checkpoint; the arrays may be donated afterwards.

        Args:
            step: number of optimizer steps applied.
            saved: `TrainState.to_saved()`.
            metrics: what val said of this state, where it is known.

        Raises:
            OSError: an earlier save has failed; the checkpoints before it are whole.
        """
        if metrics is not None and self.is_better(step, metrics):
            self._best = {**metrics, 'step': step}
        with self._writing():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    **{_ITEM: ocp.args.StandardSave(models.unstack(saved))}
                ),
                metrics={**(metrics or {}), 'step': step},
            )

    def restore(self, step: int, template: PyTree) -> PyTree:
        """Returns the saved state, placed as the template says.

        Args:
            step: one of the checkpoints.
            template: tree of arrays or `jax.ShapeDtypeStruct` with shardings, blocks
                stacked or not.

        Returns:
            The same tree of arrays.
        """
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=leaf.sharding
            ),
            template,
        )
        saved = self._manager.restore(
            step,
            args=ocp.args.Composite(
                **{_ITEM: ocp.args.StandardRestore(models.unstack(abstract))}
            ),
        )[_ITEM]
        if jax.tree.structure(saved) == jax.tree.structure(template):
            return saved
        shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        return jax.jit(models.stack, out_shardings=shardings)(saved)

    def raise_errors(self) -> None:
        """Raises an OSError that says what made a save fail, if one did."""
        with self._writing():
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Returns when everything started is on disk; OSError if that failed."""
        with self._writing():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # TensorStore's are ValueErrors
            raise OSError(
                f'A checkpoint could not be written to {self._manager.directory}: '
                f'{error}. Those before it are whole. When the cause is gone (is the '
                'disk full?), start the run again: it goes on from the last of them.'
            ) from error

    def __enter__(self) -> 'TrainCheckpoints':
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        failed = kind is not None and not issubclass(kind, SystemExit)
        if failed and jax.process_count() > 1:
            return  # closing waits for the other hosts, which may be gone
        self._manager.close()
