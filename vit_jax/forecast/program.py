"""The programs of a run, compiled for shapes alone."""

import dataclasses
import math
import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vit_jax import config as config_lib
from vit_jax import optim
from vit_jax.evaluation import accuracy
from vit_jax.models import shape_trace
from vit_jax.runtime import memory, sharding
from vit_jax.runtime.memory import Taken
from vit_jax.training import plan
from vit_jax.training.state import Initializer, TrainState
from vit_jax.training.step import compile_step

# A step that would take longer is not tried whole.
_LONGEST_STEP = 6.0
# Batches that the pipeline has ready or under way: two ahead, and the one it gives.
_HOST_BATCHES = 3
# Batches that evaluation has on the devices: see evaluate.evaluate.
_EVAL_BATCHES = 3
# Of a state that is saved: as it was at that step, and as it is written.
_SAVED_COPIES = 2


@dataclasses.dataclass(frozen=True)
class _Program:
    """What is compiled for a configuration, and for which shapes."""

    config: ConfigDict
    num_classes: int
    model: nn.Module
    optimizer: optax.GradientTransformation
    mesh: Mesh
    shapes: TrainState

    @classmethod
    def of(cls, config: ConfigDict, num_classes: int) -> '_Program':
        mesh = sharding.make_mesh(config.sharding.fsdp)
        optimizer = optim.create_optimizer(config)
        model = plan.create_model(config, num_classes)
        shapes = Initializer(config, num_classes, optimizer, mesh).shapes()
        return cls(config, num_classes, model, optimizer, mesh, shapes)

    def with_batch(self, batch: int, accum_steps: int) -> '_Program':
        config = self.config.copy_and_resolve_references()
        config.batch, config.accum_steps = batch, accum_steps
        return dataclasses.replace(self, config=config)

    def batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        rows, images = self.config.batch, config_lib.image_size(self.config)
        where = sharding.batch_sharding(self.mesh)
        return {
            name: jax.ShapeDtypeStruct((rows, *rest), dtype, sharding=where)
            for name, rest, dtype in (
                ('image', (*images, self.config.pp.channels), np.uint8),
                ('label', (), np.int32),
                ('skipped', (), np.int32),
            )
        }

    def eval_batch(self, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
        images = config_lib.image_size(self.config)
        where = sharding.batch_sharding(self.mesh)
        return {
            name: jax.ShapeDtypeStruct((rows, *rest), dtype, sharding=where)
            for name, rest, dtype in (
                ('image', (*images, self.config.pp.channels), np.float32),
                ('label', (), np.int32),
                ('mask', (), np.float32),
            )
        }

    def compile_step(self) -> Any:
        """Returns the training step, compiled as the run will."""
        step = compile_step(self.config, self.model, self.optimizer, self.shapes)
        return step.lower(self.shapes, self.batch()).compile()

    def evaluation(self, num_examples: int) -> Taken:
        """Returns what a step of the largest evaluation takes."""
        batch = self.eval_batch(self._eval_rows(num_examples))
        step = accuracy.make_eval_step(self.model)
        return Taken.by(step.lower(self.shapes.params, batch).compile())

    def _eval_rows(self, num_examples: int) -> int:
        return accuracy.batch_size(self.config.batch_eval, num_examples, self.mesh.size)

    def peak(
        self, taken: Taken, evaluation: Taken | None, judged: int, baseline: int
    ) -> tuple[int, int | None]:
        """Returns the most of a device's memory, and on the CPU of the process's."""
        batch = memory.size(self.batch())
        waiting = self.config.prefetch * batch
        at_once, host = taken.total, _HOST_BATCHES * batch
        if evaluation is not None:
            one = memory.size(self.eval_batch(self._eval_rows(judged)))
            rest = memory.size(self.shapes.replace(params=None))
            judging = evaluation.total + rest + (_EVAL_BATCHES - 1) * one
            if judging > at_once:
                at_once = judging
                host += _HOST_BATCHES * one
        peak = at_once + waiting
        if jax.default_backend() != 'cpu' or not baseline:
            return peak, None
        devices = jax.local_device_count()
        return peak, baseline + devices * (peak + host) + self.saving()

    def saving(self) -> int:
        """Returns what the host takes to save a state while the steps go on."""
        leaves = jax.tree.leaves(self.shapes)
        return _SAVED_COPIES * sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    def state(self) -> TrainState:
        """Returns a state without meaning, as large as the run's, and as quickly made.

        Not zeros where that matters: a GPU multiplies zeros faster than numbers.
        """

        def made(leaf: jax.ShapeDtypeStruct) -> jax.Array:
            if jax.default_backend() == 'cpu':
                return jnp.zeros(leaf.shape, leaf.dtype)
            count = jnp.arange(math.prod(leaf.shape), dtype=jnp.uint32)
            bits = (count * jnp.uint32(2654435769)) >> 16  # all but random
            numbers = bits.astype(jnp.float32) / 2**16 - 0.5
            return (0.04 * numbers).reshape(leaf.shape).astype(leaf.dtype)

        where = jax.tree.map(lambda leaf: leaf.sharding, self.shapes)
        return jax.jit(
            lambda: TrainState.create(
                jax.tree.map(made, self.shapes.params),
                self.optimizer,
                self.config.dtype,
            ),
            out_shardings=where,
        )()

    def numbers(self) -> dict[str, jax.Array]:
        """Returns a batch without meaning on the devices."""
        rng = np.random.default_rng(0)
        batch = {}
        for name, leaf in self.batch().items():
            array = np.zeros(leaf.shape, leaf.dtype)
            if name == 'image':
                array = rng.integers(0, 256, leaf.shape, np.uint8)
            batch[name] = array
        return sharding.to_devices(batch, sharding.batch_sharding(self.mesh))

    def smaller(self, fits: bool) -> '_Program':
        """Returns this, or with fewer images if the step is too long to be tried."""
        config, devices = self.config, self.mesh.size
        seconds = self._expected_seconds()
        if fits and seconds <= _LONGEST_STEP:
            return self
        part = config.batch // config.accum_steps
        rows = part if fits else part // 2
        wanted = min(rows, int(config.batch * _LONGEST_STEP / 3 / seconds))
        rows = max(devices, wanted // devices * devices)
        return self if rows == config.batch else self.with_batch(rows, 1)

    def another_batch(self) -> '_Program | None':
        """Returns this with half the images in each part; with twice, if it must be."""
        config, devices = self.config, self.mesh.size
        parts = config.accum_steps
        share = config.batch // parts // devices
        other = share // 2 if share > 1 else 2
        return self.with_batch(other * parts * devices, parts)

    def _expected_seconds(self) -> float:
        """Returns about how long the step takes, by its matrix products alone."""
        size = config_lib.image_size(self.config)

        flops = shape_trace.summarize(self.model, size, self.config.pp.channels).flops
        # Half of what one large product reaches; three passes over the layers.
        return 3 * flops * self.config.batch / self.mesh.size / (_matmul_rate() / 2)


def _matmul_rate(side: int = 1024) -> float:
    """Returns the operations per second of a product of matrices."""
    x = jnp.full((side, side), 0.5, jnp.float32)
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()
    times = []
    for _ in range(4):
        begin = time.perf_counter()
        product(x, x).block_until_ready()
        times.append(time.perf_counter() - begin)
    devices = jax.local_device_count() if jax.default_backend() == 'cpu' else 1
    return 2 * side**3 / min(times) / devices
