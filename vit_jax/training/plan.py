"""All that is known of a run before its first step: what it will train, on what, how.

`prepare` is how everything begins that is about a run: the run itself, its forecast,
and whatever comes later. It reads, and writes nothing.
"""

import dataclasses
import functools
import itertools
import logging
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import optax
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

from vit_jax import checkpoint, data, models, optim
from vit_jax import config as config_lib
from vit_jax.files.run_record import RunRecord
from vit_jax.runtime import hosts, sharding
from vit_jax.tasks import Task, task_of
from vit_jax.training import input as input_lib
from vit_jax.training.run_directory import RunDirectory, versions
from vit_jax.training.state import Initializer, TrainState
from vit_jax.training.step import Step, compile_step

log = logging.getLogger(__name__)

# Keys that each host may have as it likes. What other paths hold is compared by
# fingerprint.
_OWN = frozenset(
    {
        *('dataset', 'tfds_data_dir', 'tfds_manual_dir', 'pretrained'),
        *('pretrained_dir', 'num_threads', 'num_workers', 'prefetch'),
    }
)
# So many bad images are named on the screen.
_LISTED = 20
# Opening each file of more training images than this would take minutes.
_LOOKED_AT = 50_000
# Fewer are looked at before one has read the line that says so.
_TOLD_FROM = 5_000


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run that could start: nothing is allocated, nothing is written.

    What follows from the fields is made when it is asked for, once.

    Attributes:
        config: the configuration, with every key filled in.
        dataset: what it trains on.
        sources: the examples by role: train, val, test.
        start: the step from which a stopped run goes on; None: a new run.
    """

    config: ConfigDict
    dataset: data.Dataset
    sources: Mapping[str, data.Source]
    start: int | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of the dataset, by label."""
        return self.dataset.class_names

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The devices that share each batch."""
        return sharding.make_mesh(self.config.sharding.fsdp)

    @functools.cached_property
    def task(self) -> Task:
        """What is learned."""
        return task_of(self.config.task)

    @functools.cached_property
    def model(self) -> nn.Module:
        """The network as it is trained."""
        return models.for_run(self.config, len(self.class_names))

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer, with its schedule."""
        return optim.create_optimizer(self.config)

    @functools.cached_property
    def images(self) -> data.Source:
        """The training images as they are read: decoded, if the run keeps them so."""
        return input_lib.cached_source(self.config, self.sources['train'])

    @functools.cached_property
    def _initializer(self) -> Initializer:
        return Initializer(
            self.config, len(self.class_names), self.optimizer, self.mesh
        )

    @functools.cached_property
    def broken(self) -> list[tuple[str, str]]:
        """Files that are no images, with the reason, each once; see `data.broken`.

        Of large training sets only what is judged is looked at.
        """
        paths = {
            role: source.paths()
            for role, source in self.sources.items()
            if role != 'train' or len(source) <= _LOOKED_AT
        }
        files = list(dict.fromkeys(itertools.chain(*paths.values())))
        if len(files) > _TOLD_FROM:
            log.info('Looking at the beginnings of %s files …', f'{len(files):,}')
        return data.broken(files)

    def state_shapes(self) -> TrainState:
        """Returns the state as `jax.ShapeDtypeStruct`s with their shardings."""
        return self._initializer.shapes()

    def first_state(self) -> TrainState:
        """Returns state 0: from the pretrained file, or new."""
        return self._initializer.state(self.class_names)

    def bytes_on_disk(self) -> int:
        """Returns the most that the run keeps on disk: checkpoints and models.

        The newest checkpoints, the best, one that is being written; model.npz and
        model_best.npz. Orbax packs them, by little.
        """
        state = self.state_shapes()
        checkpoints = self.config.keep_checkpoints + 2
        return checkpoints * _bytes(state) + 2 * _bytes(state.params)

    def compile_step(self, state: TrainState) -> Step:
        """Returns the training step for such a state, of arrays or of shapes."""
        return compile_step(self.config, self.model, self.optimizer, state)

    def input(
        self,
        start: int = 0,
        on_skip: data.OnSkip | None = None,
    ) -> Iterator[Mapping[str, Any]]:
        """Returns batch `start` and all that follow, on this host; to be closed.

        Args:
            start: the first of them.
            on_skip: called for each image that does not decode and is left out.
        """
        return input_lib.train_batches(self.config, self.images, start, on_skip)

    def card(self, results: Sequence[Mapping[str, Any]] = ()) -> checkpoint.ModelCard:
        """Returns the card of the model that the run leaves.

        Args:
            results: what was reached.
        """
        config = self.config
        preprocess = data.Preprocess.from_config(config)
        return checkpoint.ModelCard(
            model=config.model.to_dict(),
            num_classes=len(self.class_names),
            image_size=preprocess.size,
            class_names=list(self.class_names),
            resize=preprocess.resize,
            mean=preprocess.mean,
            std=preprocess.std,
            task=config.task,
            source={
                'dataset': _absolute(config.dataset),
                'tfds_data_dir': _absolute(config.tfds_data_dir),
                'tfds_manual_dir': _absolute(config.tfds_manual_dir),
                'dtype': config.dtype,
                'skip_corrupt': config.skip_corrupt,
                'holdout': config.pp.holdout,
                'train_split': config.pp.train,
                'test_split': config.pp.test,
                'pretrained': config.pretrained,
                'results': list(results),
            },
        )

    def check(self) -> None:
        """Raises a ValueError for what could not be run with this data."""
        config, images = self.config, self.sources['train']
        config_lib.check(config, num_devices=jax.device_count())
        data.Augment.from_config(config)  # refuses unknown operations
        if len(self.class_names) == 1:
            raise ValueError(_one_class(config.dataset, *self.class_names))
        for source in self.sources.values():
            # Splits without labels, as some of TFDS, are told by reading one.
            for place in {0, len(source) - 1} if not source.paths() else ():
                source[place]
        if self.broken and not config.skip_corrupt:
            raise ValueError(
                f'{_listed(self.broken)}\nRemove or mend them; or '
                '--config.skip_corrupt=True leaves them out.'
            )
        if config.batch > len(images):
            shared = config.accum_steps * jax.device_count()
            largest = len(images) // shared * shared
            hint = f', --config.batch={largest} at most' if largest else ''
            raise ValueError(
                f'There are {len(images)} training examples ({config.pp.train}), '
                f'fewer than one batch of {config.batch}; set a smaller one{hint}.'
            )


def checked(config: ConfigDict) -> ConfigDict:
    """Returns a copy of a configuration that is the same on all hosts, and can be.

    Raises:
        ValueError: the hosts disagree, or no run could have this configuration.
    """
    config = config.copy_and_resolve_references()
    config_lib.complete(config)
    hosts.agree(keys_all_hosts_share(config) | {'the code': hosts.code(), **versions()})
    config_lib.check(config, num_devices=jax.device_count())
    if 'model_name' in config.model:
        config.model.model_name = checkpoint.architecture.true_name(config.model)
    # Whether there are such, perhaps in the user's own code.
    task_of(config.task)
    optim.optimizer_of(config.optimizer)
    for operation in config.pp.augment or ():
        data.augment.parse(operation)
    return config


def prepare(config: ConfigDict, workdir: str | os.PathLike) -> Plan:
    """Returns the plan of a run; all hosts agree on it.

    Args:
        config: from a recipe, as `checked` returns it; it is filled in.
        workdir: the run directory; only looked into. A run in it would go on.

    Raises:
        ValueError: the configuration, the data or the weights do not fit together.
    """
    record = RunRecord(pathlib.Path(workdir).expanduser())
    start = record.latest_step()
    if start is None and config.pretrained is not None:
        # Before a dataset is downloaded for nothing.
        hosts.first_host_first(lambda: checkpoint.references.resolve(config.pretrained))
    dataset = hosts.first_host_first(
        lambda: data.open_dataset(
            config.dataset,
            data_dir=config.tfds_data_dir,
            manual_dir=config.tfds_manual_dir,
            holdout=config.pp.holdout,
        )
    )
    with hosts.raise_on_all():
        sources = open_splits(config, dataset)
        has_run = start is not None or record.summary() is not None
        previous = record.config() if has_run else None
        resolve_from_data(config, len(sources['train']), previous)
    hosts.first_host_first(lambda: inherit_numerics(config, previous))
    hosts.agree(keys_all_hosts_share(config) | {'the step to go on from': start})
    return Plan(config, dataset, sources, start)


def _listed(broken: Sequence[tuple[str, str]]) -> str:
    """Says which files are no images."""
    lines = [f'{path}: {reason}' for path, reason in broken[:_LISTED]]
    if len(broken) > _LISTED:
        lines.append(f'and {len(broken) - _LISTED} more')
    files = '1 file is' if len(broken) == 1 else f'{len(broken)} files are'
    return '\n  '.join([f'{files} no image:', *lines])


def note_broken(plan: Plan, run: RunDirectory) -> None:
    """Tells which files a run leaves out, and notes all of them."""
    if plan.broken:
        path = run.note_skipped(plan.broken)
        log.warning('%s\nThey are left out; all are in %s.', _listed(plan.broken), path)


def _one_class(dataset: str, name: str) -> str:
    """Says that there is nothing to tell apart, and what may have been meant."""
    inside = pathlib.Path(dataset).expanduser() / name
    hint = ''
    if inside.is_dir() and any(path.is_dir() for path in inside.iterdir()):
        hint = f' Is --config.dataset={inside} meant?'
    return (
        f'{dataset} has one class, {name!r}, and so nothing to tell apart; expected '
        f'one folder (or label) for each of several classes.{hint}'
    )


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
    if unused := dataset.unused(*filter(None, splits.values())):
        listed = ', '.join(f'{name} ({count:,})' for name, count in unused.items())
        log.info('Not used of %s: %s', dataset.name, listed)
    for role, other in itertools.combinations(sources, 2):
        if shared := sources[role].num_shared(sources[other]):
            raise ValueError(
                f'{role} ({splits[role]}) and {other} ({splits[other]}) share {shared} '
                'examples, so that a result on them would not be honest. Name splits '
                'apart: --config.pp.train=…, --config.pp.val=…, --config.pp.test=…'
            )
    return sources


def resolve_from_data(
    config: ConfigDict, num_examples: int, previous: Mapping[str, Any] | None
) -> None:
    """Sets the keys that are None: as the run to go on has them, or from the data."""
    previous = config_lib.flatten(previous or {})
    values = config_lib.resolve(
        config, num_examples=num_examples, num_devices=jax.device_count()
    )
    for key in values:
        if previous.get(key) is not None:
            values[key] = previous[key]
    config.update_from_flattened_dict(values)
    _tell(f'Chosen for {num_examples} examples', values)


def inherit_numerics(config: ConfigDict, previous: Mapping[str, Any] | None) -> None:
    """Sets what the configuration leaves to the weights: numerics, normalization.

    Weights that a port trained have another GELU, other epsilons, another mean.

    Args:
        config: of the run.
        previous: of the run that goes on, which has inherited them already.
    """
    card = None
    if previous is None and config.pretrained is not None:
        with checkpoint.open(config.pretrained) as weights:
            card = weights.card
    values = config_lib.inherit_numerics(
        config, card, config_lib.flatten(previous or {})
    )
    if card is not None:
        _tell('As in the pretrained weights', values)


def _tell(why: str, values: Mapping[str, Any]) -> None:
    if values:
        listed = ', '.join(f'{key} {value}' for key, value in values.items())
        log.info('%s: %s', why, listed)


def keys_all_hosts_share(config: ConfigDict) -> dict[str, Any]:
    """Returns the keys that all hosts must have the same, with their values."""
    return {
        f'config.{key}': value
        for key, value in config_lib.flatten(config).items()
        if key not in _OWN
    }


def _bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _absolute(path: str | None) -> str | None:
    """Returns a path that holds from other folders too; other names as they are."""
    return os.path.abspath(path) if path and os.path.exists(path) else path
