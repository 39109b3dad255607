"""The story of a run, from a configuration to a model that can be used."""

import collections
import contextlib
import itertools
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

from vit_jax import (
    checkpoint,
    compiler,
    data,
    evaluators,
    hosts,
    memory,
    models,
    optim,
    profiling,
    sharding,
)
from vit_jax import config as config_lib
from vit_jax.checkpoint.train_state import TrainCheckpoints
from vit_jax.interruption import Interrupted, Interruption
from vit_jax.metrics import MetricsLog, Progress, Throughput, table
from vit_jax.train_state import Initializer, TrainState, num_params
from vit_jax.train_step import (
    Batch,
    compile_step,
    train_step,
    training_steps,
)
from vit_jax.workdir import RunDirectory, versions

__all__ = ['TrainState', 'train_and_evaluate', 'train_step']

log = logging.getLogger(__name__)

# Keys that each host may have as it likes. What is at other paths is compared by
# fingerprint.
_OWN = frozenset(
    {
        *('dataset', 'tfds_data_dir', 'tfds_manual_dir', 'pretrained'),
        *('pretrained_dir', 'num_threads', 'num_workers', 'prefetch'),
    }
)


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
            stack.enter_context(memory.explained(config))
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


def _train(
    config: ConfigDict,
    run: RunDirectory,
    steps: Iterator[tuple[int, TrainState, dict[str, jax.Array]]],
    start: int,
    throughput: Throughput,
    judge: evaluators.Judge,
    checkpoints: TrainCheckpoints,
    few_shot: evaluators.FewShot,
    pictures: Mapping[str, bytes],
    shared_signal: hosts.SharedSignal,
) -> TrainState:
    """Takes the steps; evaluates, saves and tells on the way. Returns the last state.

    Evaluating and saving see state s; only then is batch s drawn.
    """
    total = config.total_steps
    learning_rate = optim.create_learning_rate_schedule(
        total, config.base_lr, config.decay_type, config.warmup_steps
    )

    def due(every: int) -> bool:
        return bool(every) and (step % every == 0 or step == total)

    with contextlib.ExitStack() as stack:
        if hosts.is_first():
            writer = stack.enter_context(MetricsLog(run.path, start))
            progress = stack.enter_context(Progress(start, total))
            for name, png in pictures.items():
                writer.write_picture(start, name, png)
        interruption = stack.enter_context(Interruption())

        for step, state, values in steps:
            checkpoints.raise_errors()
            throughput.count(config.batch)
            record, val = {}, None
            if due(config.progress_every):
                record = {name: float(value) for name, value in values.items()}
                record['learning_rate'] = float(learning_rate(step - 1))
                record['skipped'] = int(state.skipped)
                record |= throughput.rates()
                _require_finite(state, run)
            if config.pp.val is not None and due(config.eval_every):
                val = judge(state.params, 'val', step)
                record |= {f'val_{name}': val[name] for name in ('accuracy', 'loss')}
            if due(config.few_shot.every):
                record |= few_shot(state.params)
            if record and hosts.is_first():
                writer.write(step, record)
                progress.show(step, record)

            better = val is not None and checkpoints.is_better(step, val)
            last = step == total or _waited_enough(
                config, step, {'step': step} if better else checkpoints.best()
            )
            # Asked once: it may come at any moment.
            signum = shared_signal(step, interruption.signum)
            if better or last or due(config.checkpoint_every) or signum:
                _require_finite(state, run)
                checkpoints.save(step, state.to_saved(), val)
            if record:
                throughput.restart()
            if signum:
                checkpoints.wait()
                log.info('Stopped by a signal; state %d is saved.', step)
                raise Interrupted(signum, step)
            if last:
                break
        checkpoints.wait()
        return state


def on_devices(
    batches: Iterator[Mapping[str, Any]], mesh: Mesh, ahead: int
) -> Iterator[Batch]:
    """Yields batches that are on the devices, with so many more on their way."""
    rows = sharding.batch_sharding(mesh)
    placed = (sharding.to_devices(batch, rows) for batch in batches)
    queue = collections.deque(itertools.islice(placed, ahead))
    for batch in placed:
        queue.append(batch)
        yield queue.popleft()
    yield from queue


def open_splits(config: ConfigDict, dataset: data.Dataset) -> dict[str, data.Source]:
    """Returns the sources by role, and notes the splits in the configuration."""
    splits = config_lib.choose_splits(config.pp, dataset.splits, dataset.complement)
    with config.ignore_type():  # None, where the dataset has nothing for a role
        config.pp.update(splits)
    sources = {role: dataset.source(split) for role, split in splits.items() if split}
    for role, source in sources.items():
        if not len(source):
            raise ValueError(
                f'The split {splits[role]!r} ({role}) of {dataset.name} has no '
                f'examples; set --config.pp.{role}.'
            )
    for role, other in itertools.combinations(sources, 2):
        if shared := sources[role].num_shared(sources[other]):
            raise ValueError(
                f'{role} ({splits[role]}) and {other} ({splits[other]}) share {shared} '
                'examples, so that a result on them would not be honest. Name splits '
                'apart: --config.pp.train=…, --config.pp.val=…, --config.pp.test=…'
            )
    return sources


def fill_in(
    config: ConfigDict, num_examples: int, before: Mapping[str, Any] | None
) -> None:
    """Sets the keys that are None: as the run to go on has them, or from the data."""
    before = config_lib.flatten(before or {})
    found = config_lib.resolve(
        config, num_examples=num_examples, num_devices=jax.device_count()
    )
    for key in found:
        if before.get(key) is not None:
            found[key] = before[key]
    config.update_from_flattened_dict(found)
    if found:
        log.info(
            'Chosen for %d examples: %s',
            num_examples,
            ', '.join(f'{key} {value}' for key, value in found.items()),
        )


def follow_weights(config: ConfigDict, before: Mapping[str, Any] | None) -> None:
    """Sets what the configuration leaves to the weights: numerics, normalization.

    Weights that a port trained have another GELU, other epsilons, another mean.

    Args:
        config: of the run.
        before: of the run that goes on, which has found them already.
    """
    card = None
    if before is None and config.pretrained is not None:
        with checkpoint.open(config.pretrained) as weights:
            card = weights.card
    found = config_lib.follow(config, card, config_lib.flatten(before or {}))
    if card is not None and found:
        log.info(
            'As in the pretrained weights: %s',
            ', '.join(f'{key} {value}' for key, value in found.items()),
        )


def _common(config: ConfigDict) -> dict[str, Any]:
    """Returns the keys that all hosts must have the same."""
    return {
        f'config.{key}': value
        for key, value in config_lib.flatten(config).items()
        if key not in _OWN
    }


def check_filled_in(config: ConfigDict, sources: Mapping[str, data.Source]) -> None:
    """Raises a ValueError for what could not be run with this data."""
    config_lib.check(config, num_devices=jax.device_count())
    if config.batch > len(sources['train']):
        raise ValueError(
            f'There are {len(sources["train"])} training examples ({config.pp.train}), '
            f'fewer than one batch of {config.batch}; set a smaller --config.batch.'
        )


def create_model(config: ConfigDict, num_classes: int) -> nn.Module:
    """Returns the network as it is trained."""
    fields = {name: config[name] for name in ('dtype', 'remat', 'scan_layers')}
    if 'transformer' in config.model:  # a Mixer has no attention
        fields['attention'] = config.attention
    return models.from_config(config.model, num_classes=num_classes, **fields)


def kept(config: ConfigDict, source: data.Source) -> data.Source:
    """Returns the training images as the run reads them: decoded, if it keeps them."""
    where = config.cache.where
    if where is None:
        return source

    def decoded() -> data.Source:
        return data.cached(
            source,
            where,
            shrink=config.cache.shrink,
            channels=config.pp.channels,
            num_threads=config.num_threads,
        )

    if where == 'memory':
        with hosts.together():
            return decoded()
    return hosts.first_ahead(decoded)  # the others find them, or have another disk


def sent_batches(
    config: ConfigDict, source: data.Source, mesh: Mesh, start: int
) -> tuple[Iterator[Mapping[str, Any]], Callable[[Batch], Batch]]:
    """Returns what this host sends for batch `start` and all that follow.

    And what the devices make batches of that by: they may hold the images already.
    """
    if not config.cache.on_device:
        return train_batches(config, source, start), _as_it_is
    from vit_jax.data.on_device import OnDevice

    with hosts.together():
        held = OnDevice(
            source,
            config_lib.image_size(config),
            sharding.batch_sharding(mesh),
            most=config.cache.device_mb << 20,
            resize=config.pp.resize,
            shrink=config.cache.shrink,
            channels=config.pp.channels,
            num_threads=config.num_threads,
        )
    drawn = held.batches(
        batch=config.batch,
        seed=config.seed,
        start=start,
        min_area=config.pp.min_area,
        flip=config.pp.flip,
        num_threads=config.num_threads,
        host=jax.process_index(),
        num_hosts=jax.process_count(),
        skip_corrupt=config.skip_corrupt,
    )
    return drawn, held


def _as_it_is(batch: Batch) -> Batch:
    return batch


def train_batches(
    config: ConfigDict, source: data.Source, start: int
) -> Iterator[Mapping[str, Any]]:
    """Returns batch `start` and all that follow, on this host."""
    return data.train_batches(
        source,
        batch=config.batch,
        size=config_lib.image_size(config),
        seed=config.seed,
        start=start,
        resize=config.pp.resize,
        min_area=config.pp.min_area,
        flip=config.pp.flip,
        num_workers=config.num_workers,
        num_threads=config.num_threads,
        host=jax.process_index(),
        num_hosts=jax.process_count(),
        skip_corrupt=config.skip_corrupt,
        channels=config.pp.channels,
        scaled_decoding=config.pp.scaled_decoding,
    )


def _show_images(
    config: ConfigDict,
    dataset: data.Dataset,
    sources: Mapping[str, data.Source],
    run: RunDirectory,
) -> dict[str, bytes]:
    """Writes images as the network sees them to the run directory; returns the PNGs."""
    if not config.show_images:
        return {}
    from vit_jax.visualize import drawing, image_grid

    shown = {}
    for role, source in sources.items():
        with contextlib.closing(
            train_batches(config, source, 0)
            if role == 'train'
            else evaluators.eval_batches(
                config, _for_each_host(source, config.show_images), jax.process_count()
            )
        ) as batches:
            figure = image_grid.seen(
                batches,
                dataset.class_names,
                f'What the model sees: {role} ({config.pp[role]})',
                count=config.show_images,
                mean=0.0 if role == 'train' else config.pp.mean,
                std=1.0 if role == 'train' else config.pp.std,
            )
        shown[f'images/{role}'] = drawing.png(figure)
        run.save_picture(f'images/{role}.png', shown[f'images/{role}'])
    log.info('What the model sees: %s', run.path / 'images')
    return shown


def _for_each_host(source: data.Source, count: int) -> data.Source:
    """Returns examples from all over a source, the same ones for each host."""
    places = data.Picked.spread(source, count).places
    return data.Picked(source, places * jax.process_count())


def _waited_enough(
    config: ConfigDict, step: int, best: Mapping[str, float] | None
) -> bool:
    """Returns whether early stopping ends the run at this step."""
    patience = config.early_stop * config.eval_every
    return bool(patience and best) and step - best['step'] >= patience


def _require_finite(state: TrainState, run: RunDirectory) -> None:
    """Raises a FloatingPointError that names the first step that went wrong."""
    if (first := int(state.first_nonfinite)) >= 0:
        raise FloatingPointError(
            f'The loss or a gradient was not finite in step {first + 1}; the run '
            f'stopped and saved nothing since. What is in {run.path} is from before. '
            'Lower --config.base_lr or --config.grad_norm_clip, lengthen '
            '--config.warmup_steps, or look at the data of that step.'
            + (
                ' float16 holds numbers up to 65504: --config.dtype=float32 holds more.'
                if state.loss_scale is not None
                else ''
            )
        )


def _candidates(
    state: TrainState, checkpoints: TrainCheckpoints
) -> Iterator[tuple[str, int, PyTree]]:
    """Yields (name, step, params) of the parameters that a run can hand back."""
    step = int(state.step)
    yield 'last', step, state.params
    if (best := checkpoints.best()) is not None:
        at = int(best['step'])
        if at == step:
            yield 'best', at, state.params
        else:
            yield 'best', at, checkpoints.restore(at, state.to_saved())['params']


def _card(
    config: ConfigDict, dataset: data.Dataset, results: list[dict[str, Any]]
) -> checkpoint.ModelCard:
    """Returns what must be known to use the model that a run leaves."""
    return checkpoint.ModelCard(
        model=config.model.to_dict(),
        num_classes=len(dataset.class_names),
        image_size=config_lib.image_size(config),
        class_names=list(dataset.class_names),
        resize=config.pp.resize,
        mean=_one_or_each(config.pp.mean),
        std=_one_or_each(config.pp.std),
        source={
            'dataset': _absolute(config.dataset),
            'tfds_data_dir': _absolute(config.tfds_data_dir),
            'tfds_manual_dir': _absolute(config.tfds_manual_dir),
            'dtype': config.dtype,
            'holdout': config.pp.holdout,
            'train_split': config.pp.train,
            'test_split': config.pp.test,
            'pretrained': config.pretrained,
            'results': results,
        },
    )


def _one_or_each(values: Sequence[float]) -> float | tuple[float, ...]:
    return values[0] if len(values) == 1 else tuple(values)


def _absolute(path: str | None) -> str | None:
    """Returns a path that holds from other folders too; other names as they are."""
    return os.path.abspath(path) if path and os.path.exists(path) else path


def _summary(step: int, results: list[dict[str, Any]]) -> dict[str, float]:
    """Returns the final metrics by name."""
    summary = {'step': step}
    for row in results:
        prefix = 'best_' if row['parameters'] == 'best' else ''
        summary[f'{prefix}step'] = row['step']
        for name in ('accuracy', 'loss'):
            summary[f'{prefix}{row["role"]}_{name}'] = row[name]
    return summary


def _announce(
    config: ConfigDict,
    dataset: data.Dataset,
    sources: Mapping[str, data.Source],
    state: TrainState,
    mesh: Mesh,
    start: int,
) -> None:
    """Tells what is about to happen."""
    counts = ', '.join(
        f'{len(source)} {role} ({config.pp[role]})' for role, source in sources.items()
    )
    log.info(
        '%s: %d classes; examples: %s', dataset.name, len(dataset.class_names), counts
    )
    if 'val' not in sources:
        log.info('Nothing is held out: no parameters are chosen, only the last kept.')
    log.info(
        '%s, %s parameters, images %s, from %s',
        config.model.get('model_name', 'The model'),
        f'{num_params(state.params):,}',
        'x'.join(str(side) for side in config_lib.image_size(config)),
        f'step {start} of this run' if start else config.pretrained or 'scratch',
    )
    log.info(
        'Steps %d to %d, batch %d in %d parts, on %d %s',
        start,
        config.total_steps,
        config.batch,
        config.accum_steps,
        mesh.size,
        jax.devices()[0].device_kind,
    )
    for name, value in compiler.options().items():
        log.info('The step is compiled with %s=%r; XLA_FLAGS wins.', name, value)
