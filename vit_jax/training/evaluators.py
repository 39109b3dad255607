"""What is asked of the parameters on the way: accuracy, and few-shot accuracy."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

from vit_jax import checkpoint, data
from vit_jax import config as config_lib
from vit_jax.evaluation import accuracy

# (params, role, step) -> what `evaluate` says of the role's split.
Judge = Callable[[PyTree, str, int], dict[str, float]]
# params -> few-shot accuracies by name.
FewShot = Callable[[PyTree], dict[str, float]]


def eval_batches(
    config: ConfigDict, source: data.Source, num_devices: int
) -> Iterator[Mapping[str, Any]]:
    """Returns every example of a source once, on this host."""
    return data.eval_batches(
        source,
        batch=accuracy.batch_size(config.batch_eval, len(source), num_devices),
        size=config_lib.image_size(config),
        resize=config.pp.resize,
        num_threads=config.num_threads,
        host=jax.process_index(),
        num_hosts=jax.process_count(),
        skip_corrupt=config.skip_corrupt,
        mean=config.pp.mean,
        std=config.pp.std,
        channels=config.pp.channels,
    )


def make_judge(
    config: ConfigDict,
    model: nn.Module,
    sources: Mapping[str, data.Source],
    mesh: Mesh,
) -> Judge:
    """Returns a function that evaluates the parameters of a step on a role's split."""
    eval_step = accuracy.make_eval_step(model)
    known = {}

    def judge(params: PyTree, role: str, step: int) -> dict[str, float]:
        if (role, step) in known:
            return known[role, step]
        source = sources[role]
        batches = eval_batches(config, source, mesh.size)
        scores = accuracy.evaluate(eval_step, params, batches, mesh)
        if not math.isfinite(scores['loss']):
            raise FloatingPointError(
                f'The loss on {role} is not finite after step {step}; nothing is saved '
                'since. Lower --config.base_lr or lengthen --config.warmup_steps.'
            )
        known[role, step] = scores
        return scores

    return judge


def make_few_shot(
    config: ConfigDict,
    model: nn.Module,
    card: checkpoint.ModelCard,
    sources: Mapping[str, data.Source],
    mesh: Mesh,
) -> FewShot:
    """Returns a function that says how well few-shot classifiers do on the features."""
    if not config.few_shot.every:
        return lambda params: {}
    from vit_jax.evaluation import few_shot
    from vit_jax.inference.predictor import Predictor

    if config.few_shot.dataset is not None:
        other = data.open_dataset(
            config.few_shot.dataset,
            data_dir=config.tfds_data_dir,
            manual_dir=config.tfds_manual_dir,
        )
        train, test = other.source('train'), other.source('test')
    elif 'val' in sources:
        train, test = sources['train'], sources['val']
    else:
        raise ValueError(
            'config.few_shot.every is set, but nothing is held out to judge on: set '
            '--config.pp.val, or --config.few_shot.dataset.'
        )

    protocol = few_shot.Protocol(train, test, shots=config.few_shot.shots)

    predictor = Predictor(model, {}, card, mesh)  # one, which compiles once

    def judge(params: PyTree) -> dict[str, float]:
        predictor.place(params)
        rows = protocol.judge(
            predictor, batch=config.batch_eval, skip_corrupt=config.skip_corrupt
        )
        predictor.place({})  # they are donated to the next step
        return {f'few_shot_{row["shots"]}_accuracy': row['mean'] for row in rows}

    return judge
