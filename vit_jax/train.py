"""The story of a run, from a configuration to a model that can be used."""

import contextlib
import logging
import os

from jaxtyping import PyTree
from ml_collections import ConfigDict

from vit_jax import checkpoint
from vit_jax.training import loop, out_of_memory, results
from vit_jax.training.checkpoints import TrainCheckpoints
from vit_jax.training.evaluators import create_evaluators
from vit_jax.training.plan import Plan, checked, note_broken, prepare
from vit_jax.training.run_directory import RunDirectory
from vit_jax.training.state import TrainState
from vit_jax.training.step import train_step

__all__ = ['TrainState', 'train_and_evaluate', 'train_step']

log = logging.getLogger(__name__)


def train_and_evaluate(
    config: ConfigDict, workdir: str | os.PathLike
) -> tuple[PyTree, dict[str, float]]:
    """Trains, or goes on training, the model of a configuration in a run directory.

    Args:
        config: from a recipe; `config.default` says what each key means.
        workdir: the run directory. A run that was stopped goes on; one that is
            complete is returned as it is.

    Returns:
        The parameters after the last step, in the published layout, and the final
        metrics: 'step', and '<role>_accuracy', '<role>_loss' for the roles val and
        test, with 'best_' before them for the parameters that val chose.

    Raises:
        ValueError: the configuration, the data or the weights do not fit together,
            or the run directory holds another run.
        FloatingPointError: the loss or a gradient was not finite.
        Interrupted: a signal asked for the end; the state is saved.
    """
    config = checked(config)
    with contextlib.ExitStack() as stack:
        run = stack.enter_context(RunDirectory.entered(workdir))
        plan = prepare(config, run.path)

        # Is it this run that the directory holds, and is it complete?
        run.open(
            plan.config,
            plan.class_names,
            plan.sources,
            resume=plan.start is not None,
        )
        if summary := run.summary():
            log.info('The run in %s is complete; nothing is left to do.', run.path)
            return checkpoint.load(run.path / 'model.npz'), summary
        plan.check()
        run.require_room(plan.bytes_on_disk())
        note_broken(plan, run)

        # Weights and optimizer: restored, pretrained or new.
        stack.enter_context(out_of_memory.explained(plan.config))
        checkpoints = stack.enter_context(
            TrainCheckpoints(
                run.path / 'checkpoints', config.keep_checkpoints, plan.task.score
            )
        )
        state = first_state(plan, checkpoints)
        results.announce(plan, state)

        # Steps, and what is asked of the weights on the way.
        evaluators = create_evaluators(plan)
        state = loop.train(plan, state, run, checkpoints, evaluators)

        # The last weights and the best on val, both judged on test.
        return results.finish(plan, state, run, checkpoints, evaluators)


def first_state(plan: Plan, checkpoints: TrainCheckpoints) -> TrainState:
    """Returns the state that a run starts from, or goes on from."""
    if plan.start is None:
        return plan.first_state()
    template = plan.state_shapes().to_saved()
    return TrainState.from_saved(checkpoints.restore(plan.start, template))


if __name__ == '__main__':
    raise SystemExit(
        'vit_jax.train is no command. To train: '
        'python -m vit_jax.main --config=RECIPE --workdir=DIR'
    )
