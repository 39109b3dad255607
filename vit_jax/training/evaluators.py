"""What is asked of the weights on the way, each in its own rhythm.

A configuration names evaluators in `config.evals`, {'type': …, 'every': steps, …}; two
have keys of their own: 'val' (config.eval_every) and 'few_shot' (config.few_shot). An
evaluator is made once, from the plan and its other settings; it is called with the
weights of a step, and what it returns is logged as NAME_metric.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtyping import PyTree

from vit_jax import data
from vit_jax.evaluation import accuracy
from vit_jax.runtime import hosts, sharding
from vit_jax.training import input as input_lib
from vit_jax.training.plan import Plan
from vit_jax.words.lookup import lookup

VAL = 'val'  # the one that chooses the best weights


# (weights, step) -> metrics by name. All hosts ask at the same steps.
Evaluator = Callable[[PyTree, int], dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Scheduled:
    """An evaluator, its name in the log, and every how many steps it is asked."""

    name: str
    every: int
    evaluate: Evaluator

    def record(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Returns its metrics as they are logged."""
        return {
            f'{self.name}_{name}': value
            for name, value in metrics.items()
            if name != 'num_examples'
        }


class Split:
    """The task's metrics on every example of one of the run's splits.

    Args:
        plan: of the run.
        role: 'val', 'test' or 'train'.
    """

    def __init__(self, plan: Plan, role: str = VAL):
        if role not in plan.sources:
            raise ValueError(
                f'An evaluator asks for {role}, but config.pp.{role} is '
                f'{plan.config.pp.get(role)}; there are {", ".join(plan.sources)}.'
            )
        self._plan, self._role = plan, role
        self._step = accuracy.make_eval_step(plan.model, plan.task)
        self._metrics: dict[int, dict[str, float]] = {}
        # Names of images that do not decode -> why.
        self.skipped: dict[str, str] = {}

    def __call__(self, weights: PyTree, step: int) -> dict[str, float]:
        """Returns the metrics and 'num_examples'; of a step they are computed once.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        if step in self._metrics:
            return self._metrics[step]
        plan = self._plan
        batches = input_lib.eval_batches(
            plan.config, plan.sources[self._role], plan.mesh.size, self._skip
        )
        metrics = accuracy.evaluate(self._step, weights, batches, plan.mesh)
        if not math.isfinite(metrics['loss']):
            raise FloatingPointError(
                f'The loss on {self._role} is not finite after step {step}; nothing '
                'is saved since. Lower --config.base_lr or lengthen '
                '--config.warmup_steps.'
            )
        self._metrics[step] = metrics
        return metrics

    def _skip(self, image: data.UndecodableImage) -> None:
        """Names an image that is left out: once, however often it is met."""
        if image.name not in self.skipped:
            data.tell_skipped(image)
            self.skipped[image.name] = image.reason


class FewShot:
    """How well few-shot classifiers do on the features.

    Args:
        plan: of the run.
        shots: numbers of images per class.
        dataset: whose train and test splits are taken; None: train and val of the run.
    """

    def __init__(
        self, plan: Plan, shots: Sequence[int] = (), dataset: str | None = None
    ):
        from vit_jax.evaluation import few_shot
        from vit_jax.inference.predictor import Predictor

        config, sources = plan.config, plan.sources
        if dataset is not None:
            other = data.open_dataset(
                dataset,
                data_dir=config.tfds_data_dir,
                manual_dir=config.tfds_manual_dir,
            )
            train, test = other.source('train'), other.source('test')
        elif VAL in sources:
            train, test = sources['train'], sources[VAL]
        else:
            raise ValueError(
                'config.few_shot.every is set, but nothing is held out to judge on: '
                'set --config.pp.val, or --config.few_shot.dataset.'
            )
        self._protocol = few_shot.Protocol(train, test, shots=shots or few_shot.SHOTS)
        self._reading = {
            'batch': config.batch_eval,
            'skip_corrupt': config.skip_corrupt,
        }
        # Each host asks by itself. One predictor, which compiles once.
        mesh = sharding.on_one_host(plan.mesh)
        self._predictor = Predictor(plan.model, {}, plan.card(), mesh)

    def __call__(self, weights: PyTree, step: int) -> dict[str, float]:
        """Returns the accuracy for each number of shots."""
        predictor = self._predictor
        predictor.place(sharding.on_this_host(weights, predictor.mesh))
        rows = self._protocol.accuracies(predictor, **self._reading)
        predictor.place({})  # they are donated to the next step
        return {f'{row["shots"]}_accuracy': row['mean'] for row in rows}


EVALUATORS: dict[str, Callable[..., Evaluator]] = {
    'split': Split,
    'few_shot': FewShot,
}


def settings(plan: Plan) -> dict[str, dict[str, Any]]:
    """Returns the evaluators of a configuration by name, val first."""
    config = plan.config
    named = {name: dict(entry) for name, entry in config.evals.items()}
    if config.few_shot.every:
        few_shot = dict(config.few_shot)
        named = {'few_shot': {'type': 'few_shot', **few_shot}} | named
    if VAL in plan.sources:
        named = {VAL: {'type': 'split', 'every': config.eval_every}} | named
    return named


def create_evaluators(plan: Plan) -> list[Scheduled]:
    """Returns the evaluators of a run.

    Raises:
        ValueError: there is no evaluator of a type, or it does not take its settings.
    """
    scheduled = []
    for name, entry in settings(plan).items():
        where = f'config.evals.{name}'
        if missing := [key for key in ('type', 'every') if key not in entry]:
            raise ValueError(
                f'{where} has no {" and no ".join(missing)}; it must be like '
                "{'type': 'few_shot', 'every': 500}."
            )
        make = lookup(EVALUATORS, entry.pop('type'), f'{where}.type')
        every = entry.pop('every')
        try:
            inspect.signature(make).bind(plan, **entry)
        except TypeError as error:
            raise ValueError(f'{where} does not fit its evaluator: {error}.') from error
        evaluate = hosts.first_host_first(functools.partial(make, plan, **entry))
        scheduled.append(Scheduled(name, every, evaluate))
    return scheduled
