"""The programs of a run, compiled for shapes alone."""

import dataclasses
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vit_jax import config as config_lib
from vit_jax.evaluation import accuracy
from vit_jax.models import shape_trace
from vit_jax.runtime import memory, sharding
from vit_jax.runtime.memory import MemoryUse
from vit_jax.training.plan import Plan
from vit_jax.training.state import TrainState

# A step that would take longer is not tried whole.
_LONGEST_STEP = 6.0
# Batches that the pipeline has ready or under way: two ahead, and the one it gives.
HOST_BATCHES = 3
# Batches that evaluation has on the devices: see accuracy.evaluate.
_EVAL_BATCHES = 3
# Of a state that is saved: as it was at that step, and as it is written.
_SAVED_COPIES = 2


@dataclasses.dataclass(frozen=True)
class Program:
    """What is compiled for a plan, and for which shapes."""

    plan: Plan
    shapes: TrainState

    @classmethod
    def of(cls, plan: Plan) -> 'Program':
        """Returns the program of a plan."""
        return cls(plan, plan.state_shapes())

    @property
    def config(self) -> ConfigDict:
        """The configuration of the plan."""
        return self.plan.config

    def with_batch(self, batch: int, accum_steps: int) -> 'Program':
        """Returns the program for another batch."""
        config = self.config.copy_and_resolve_references()
        config.batch, config.accum_steps = batch, accum_steps
        plan = dataclasses.replace(self.plan, config=config)
        return dataclasses.replace(self, plan=plan)

    def batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes of a training batch."""
        rows, images = self.config.batch, config_lib.image_size(self.config)
        where = sharding.batch_sharding(self.plan.mesh)
        return {
            name: jax.ShapeDtypeStruct((rows, *rest), dtype, sharding=where)
            for name, rest, dtype in (
                ('image', (*images, self.config.pp.channels), np.uint8),
                ('label', (), np.int32),
                ('skipped', (), np.int32),
            )
        }

    def eval_batch(self, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes of a batch of evaluation."""
        images = config_lib.image_size(self.config)
        where = sharding.batch_sharding(self.plan.mesh)
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
        step = self.plan.compile_step(self.shapes)
        return step.lower(self.shapes, self.batch()).compile()

    def evaluation(self, num_examples: int) -> MemoryUse:
        """Returns what a step of the largest evaluation takes."""
        batch = self.eval_batch(self._eval_rows(num_examples))
        step = accuracy.make_eval_step(self.plan.model, self.plan.task)
        return MemoryUse.of(step.lower(self.shapes.weights, batch).compile())

    def _eval_rows(self, num_examples: int) -> int:
        return accuracy.batch_size(
            self.config.batch_eval, num_examples, self.plan.mesh.size
        )

    def peak(
        self, use: MemoryUse, evaluation: MemoryUse | None, judged: int, baseline: int
    ) -> tuple[int, int | None]:
        """Returns the most of a device's memory, and on the CPU of the process's."""
        batch = memory.size(self.batch())
        waiting = self.config.prefetch * batch
        at_once, host = use.total, HOST_BATCHES * batch
        if evaluation is not None:
            one = memory.size(self.eval_batch(self._eval_rows(judged)))
            rest = memory.size(self.shapes.replace(params=None, model_state={}))
            judging = evaluation.total + rest + (_EVAL_BATCHES - 1) * one
            if judging > at_once:
                at_once = judging
                host += HOST_BATCHES * one
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
                jax.tree.map(made, self.shapes.weights),
                self.plan.optimizer,
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
        return sharding.to_devices(batch, sharding.batch_sharding(self.plan.mesh))

    def smaller(self, fits: bool) -> 'Program':
        """Returns this, or with fewer images if the step is too long to be tried."""
        config, devices = self.config, self.plan.mesh.size
        seconds = self._expected_seconds()
        if fits and seconds <= _LONGEST_STEP:
            return self
        part = config.batch // config.accum_steps
        rows = part if fits else part // 2
        wanted = min(rows, int(config.batch * _LONGEST_STEP / 3 / seconds))
        rows = max(devices, wanted // devices * devices)
        return self if rows == config.batch else self.with_batch(rows, 1)

    def another_batch(self) -> 'Program | None':
        """Returns this with half the images in each part; with twice, if it must be."""
        config, devices = self.config, self.plan.mesh.size
        parts = config.accum_steps
        share = config.batch // parts // devices
        other = share // 2 if share > 1 else 2
        return self.with_batch(other * parts * devices, parts)

    def _expected_seconds(self) -> float:
        """Returns about how long the step takes, by its matrix products alone."""
        size = config_lib.image_size(self.config)

        flops = shape_trace.summarize(
            self.plan.model, size, self.config.pp.channels
        ).flops
        # Half of what one large product reaches; three passes over the layers.
        return (
            3 * flops * self.config.batch / self.plan.mesh.size / (_matmul_rate() / 2)
        )


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
