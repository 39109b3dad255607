"""How fast a model infers: what config.trainer = 'inference_time' runs.

The run directory holds one measurement; another one replaces it. metrics.jsonl and
the TensorBoard events have a line for each batch that was measured ('seconds',
'images_per_second'), run.json has, under 'results' and 'summary', these:

- images_per_second: of all devices, at the median time of a batch;
- seconds_p50, seconds_p90: of a batch;
- imgs_sec_core_min, _max, _mean, _std: images per second and device, the original's
  names;
- compile_seconds: until the program was ready, compiled or found in the cache;
- memory_bytes: on each device, parameters and images included.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax.runtime import hosts, memory, sharding
from vit_jax.training import out_of_memory
from vit_jax.training.metrics import MetricsLog
from vit_jax.training.run_directory import RunDirectory, versions
from vit_jax.words import units

log = logging.getLogger(__name__)

RECIPE = 'configs/inference_time.py'
_AT_LEAST = {
    'batch': 1,
    'image_size': 1,
    'num_classes': 1,
    'steps': 1,
    'initial_steps': 0,
    'sharding.fsdp': 1,
}
_KEYS = ('trainer', 'model_name', 'dtype', *_AT_LEAST)


def inference_time(
    config: ConfigDict, workdir: str | os.PathLike
) -> dict[str, int | float]:
    """Measures images per second of a model, and writes it to a run directory.

    Args:
        config: from configs/inference_time.py, which says what each key means.
        workdir: the run directory.

    Returns:
        What was measured, by name, as described above.

    Raises:
        ValueError: the configuration cannot be, or the directory holds another run.
    """
    config = config.copy_and_resolve_references()
    keys = {f'config.{key}': v for key, v in config_lib.flatten(config).items()}
    hosts.agree(keys | {'the code': hosts.code(), **versions()})
    check(config, num_devices=jax.device_count())
    with RunDirectory.entered(workdir) as run, _explained(config):
        _open(run, config)

        mesh = sharding.make_mesh(config.sharding.fsdp)
        infer, facts = _compiled(config, mesh)
        log.info(
            '%s, images %dx%d, batch %d, %s, on %d %s: %d batches to warm up, then %d',
            *(config.model_name, config.image_size, config.image_size, config.batch),
            *(config.dtype, mesh.size, jax.devices()[0].device_kind),
            *(config.initial_steps, config.steps),
        )
        for _ in range(config.initial_steps):
            infer()
        seconds = [_seconds(infer) for _ in range(config.steps)]

        summary = {'step': config.steps, **_rates(config, mesh.size, seconds), **facts}
        if hosts.is_first():
            with MetricsLog(run.path) as writer:
                for i, value in enumerate(seconds):
                    rate = config.batch / value
                    values = {'seconds': value, 'images_per_second': rate}
                    writer.write(i + 1, values)
        described = {key: config[key] for key in ('model_name', 'batch', 'image_size')}
        row = {**described, 'dtype': config.dtype, 'devices': mesh.size, **summary}
        run.finish([row], summary)
        log.info(
            '%s images/s; a batch of %d takes %.4f s (median; 90%% take at most %.4f '
            's); %s on each device',
            f'{summary["images_per_second"]:,.1f}',
            config.batch,
            summary['seconds_p50'],
            summary['seconds_p90'],
            units.readable_bytes(summary['memory_bytes']),
        )
        return summary


def check(config: ConfigDict, *, num_devices: int = 1) -> None:
    """Raises a ValueError for what cannot be measured on so many devices."""
    known = config_lib.flatten(config)
    if missing := [key for key in _KEYS if key not in known]:
        raise ValueError(
            f"config.trainer is 'inference_time', but the recipe has no "
            f'{", ".join(missing)}. Take --config={RECIPE}.'
        )
    for key, minimum in _AT_LEAST.items():
        if known[key] < minimum:
            raise ValueError(
                f'config.{key} is {known[key]}; it must be at least {minimum}.'
            )
    config_lib.KEYS['dtype'].check('dtype', config.dtype)
    size = (config.image_size, config.image_size)
    models.patch_grid(models.get_config(config.model_name), size)
    config_lib.check_fsdp(config, num_devices)
    if config.batch % num_devices:
        raise ValueError(
            f'config.batch is {config.batch}, which the {num_devices} devices cannot '
            f'share equally. Take a multiple of {num_devices}.'
        )


def _open(run: RunDirectory, config: ConfigDict) -> None:
    """Starts a measurement in a directory that holds nothing else."""
    with hosts.raise_on_all():
        before = run.config()
        if before is not None and before.get('trainer') != config.trainer:
            raise ValueError(
                f'{run.path} holds a run of the trainer {before.get("trainer")!r}, '
                'which a measurement would overwrite. Choose another --workdir.'
            )
        if hosts.is_first():
            for name in ('run.json', 'config.json'):
                (run.path / name).unlink(missing_ok=True)
    recorded = ConfigDict({**config.to_dict(), 'pretrained': None})
    run.open(recorded, (), {}, resume=False)


def _compiled(
    config: ConfigDict, mesh: jax.sharding.Mesh
) -> tuple[Callable[[], None], dict[str, Any]]:
    """Returns what infers one batch and waits for it; and what it takes."""
    model = models.get_model(
        config.model_name, num_classes=config.num_classes, dtype=config.dtype
    )
    shape = (config.image_size, config.image_size, 3)

    def init() -> dict[str, Any]:
        images = jnp.zeros((1, *shape))
        return models.weights(model.init(jax.random.key(0), images, train=False))

    where = sharding.state_sharding(mesh, jax.eval_shape(init))
    # It runs once: optimising it takes several times as long as it can save.
    quickly = {'xla_backend_optimization_level': 0}
    weights = jax.jit(init, out_shardings=where, compiler_options=quickly)()
    own = np.ones((config.batch // jax.process_count(), *shape), np.float32)
    rows = sharding.batch_sharding(mesh)
    images = sharding.to_devices({'image': own}, rows)['image']

    begin = time.perf_counter()
    apply = jax.jit(
        lambda weights, images: model.apply(
            models.variables(weights), images, train=False
        ),
        out_shardings=rows,
    )
    apply = apply.lower(weights, images).compile()
    facts = {
        'compile_seconds': time.perf_counter() - begin,
        'memory_bytes': memory.MemoryUse.of(apply).total,
    }
    return lambda: apply(weights, images).block_until_ready(), facts


def _seconds(infer: Callable[[], None]) -> float:
    begin = time.perf_counter()
    infer()
    return time.perf_counter() - begin


def _rates(
    config: ConfigDict, num_devices: int, seconds: list[float]
) -> dict[str, float]:
    """Returns the rates that the times of the batches come to."""
    median, most = (float(np.quantile(seconds, q)) for q in (0.5, 0.9))
    per_device = config.batch / num_devices / np.array(seconds)
    return {
        'images_per_second': config.batch / median,
        'seconds_p50': median,
        'seconds_p90': most,
        **{
            f'imgs_sec_core_{name}': float(getattr(np, name)(per_device))
            for name in ('min', 'max', 'mean', 'std')
        },
    }


@contextlib.contextmanager
def _explained(config: ConfigDict) -> Iterator[None]:
    """Turns the error of a device that is out of memory into advice."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        raise out_of_memory.OutOfMemory(
            f'{jax.devices()[0].device_kind} is out of memory with batch='
            f'{config.batch}, dtype={config.dtype}, sharding.fsdp='
            f'{config.sharding.fsdp} of {jax.device_count()} devices. Lower '
            '--config.batch, or raise --config.sharding.fsdp. The device said: '
            + str(error).splitlines()[0]
        ) from error
