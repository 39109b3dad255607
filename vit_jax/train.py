"""The story of a run, from a configuration to a model that can be used."""

import contextlib
import logging
import os
from typing import Any

import jax
from jaxtyping import PyTree
from ml_collections import ConfigDict

from vit_jax import checkpoint, data, models, optim
from vit_jax import config as config_lib
from vit_jax.runtime import hosts, profiling, sharding
from vit_jax.training import evaluators, out_of_memory
from vit_jax.training.checkpoints import TrainCheckpoints
from vit_jax.training.input import _show_images, kept, sent_batches
from vit_jax.training.loop import _train, _waited_enough, on_devices, training_steps
from vit_jax.training.metrics import Throughput
from vit_jax.training.plan import (
    _card,
    _common,
    check_filled_in,
    create_model,
    fill_in,
    follow_weights,
    open_splits,
)
from vit_jax.training.results import _announce, _candidates, _summary
from vit_jax.training.run_directory import RunDirectory, versions
from vit_jax.training.state import Initializer, TrainState
from vit_jax.training.step import compile_step, train_step
from vit_jax.words.tables import table

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
    config = config.copy_and_resolve_references()
    hosts.agree(_common(config) | {'the code': hosts.code(), **versions()})
    config_lib.check(config, num_devices=jax.device_count())
    with contextlib.ExitStack() as stack:
        with hosts.together():
            run = RunDirectory(workdir)
            stack.enter_context(run.locked())
            stack.enter_context(run.logging())
            stack.enter_context(out_of_memory.explained(config))
            stack.enter_context(hosts.explained())
        run.require_shared()
        checkpoints = stack.enter_context(
            TrainCheckpoints(run.path / 'checkpoints', config.keep_checkpoints)
        )
        start = checkpoints.latest_step()

        # Data: what trains, what selects and what only judges.
        dataset = hosts.first_ahead(
            lambda: data.open_dataset(
                config.dataset,
                data_dir=config.tfds_data_dir,
                manual_dir=config.tfds_manual_dir,
                holdout=config.pp.holdout,
            )
        )
        with hosts.together():
            sources = open_splits(config, dataset)
            known = start is not None or run.summary() is not None
            before = run.config() if known else None
            fill_in(config, len(sources['train']), before)
        hosts.first_ahead(lambda: follow_weights(config, before))
        hosts.agree(_common(config) | {'the step to go on from': start})

        # Is it this run that the directory holds, and is it complete?
        run.open(config, dataset.class_names, sources, resume=start is not None)
        if summary := run.summary():
            log.info('The run in %s is complete; nothing is left to do.', run.path)
            return checkpoint.load(run.path / 'model.npz'), summary
        check_filled_in(config, sources)

        # Model and state: restored, pretrained or new.
        mesh = sharding.make_mesh(config.sharding.fsdp)
        optimizer = optim.create_optimizer(config)
        model = create_model(config, len(dataset.class_names))
        initializer = Initializer(config, len(dataset.class_names), optimizer, mesh)
        if start is not None:
            like = initializer.shapes().to_saved()
            state = TrainState.from_saved(checkpoints.restore(start, like))
        else:
            state, start = initializer.state(dataset.class_names), 0
        _announce(config, dataset, sources, state, mesh, start)

        # Training.
        judge = evaluators.make_judge(config, model, sources, mesh)
        own_mesh = sharding.on_one_host(mesh)
        few_shot = hosts.first_ahead(
            lambda: evaluators.make_few_shot(
                config, model, _card(config, dataset, []), sources, own_mesh
            )
        )
        pictures = {}
        if hosts.is_first():
            pictures = _show_images(config, dataset, sources, run)
        if start < config.total_steps and not _waited_enough(
            config, start, checkpoints.best()
        ):
            images = kept(config, sources['train'])
            throughput = Throughput()
            host_batches, finish = sent_batches(config, images, mesh, start)
            stack.enter_context(contextlib.closing(host_batches))
            batches = on_devices(throughput.timed(host_batches), mesh, config.prefetch)
            steps = training_steps(
                compile_step(config, model, optimizer, state),
                state,
                map(finish, batches),
                start,
                config.total_steps,
            )
            steps = stack.enter_context(
                contextlib.closing(
                    profiling.traced(
                        steps,
                        start,
                        config.profile_steps if hosts.is_first() else (),
                        run.path,
                    )
                )
            )
            state = _train(
                config, run, steps, start, throughput, judge, checkpoints,
                lambda params: few_shot(sharding.on_this_host(params, own_mesh)),
                pictures, hosts.SharedSignal(mesh),
            )  # fmt: skip
            steps.close()
            host_batches.close()

        # Results: the last parameters and the best on val, both judged on test.
        results: list[dict[str, Any]] = []
        for which, step, params in _candidates(state, checkpoints):
            run.save_model(which, models.unstack(params))
            for role in ('val', 'test'):
                if role in sources:
                    results.append(
                        {
                            'parameters': which,
                            'step': step,
                            'role': role,
                            'split': config.pp[role],
                            **judge(params, role, step),
                        }
                    )
        summary = _summary(int(state.step), results)
        with hosts.together():
            run.save_card(_card(config, dataset, results))
            run.finish(results, summary)
        if results:
            log.info('Results:\n%s', table(results))
        return models.unstack(state.params), summary
