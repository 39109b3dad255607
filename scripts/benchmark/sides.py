"""Programs that are timed: a compiled network or step, and the peak of the device."""

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from ml_collections import ConfigDict

from benchmark import programs

NUM_CLASSES = 1000
SECONDS = 0.5  # of a timed run, at least


class Side:
    """One thing that is timed: a function that runs steps and waits for the last.

    Args:
        name: of the network.
        flags: of the compiler, a key of CPU_SETTINGS or ''.
        work: 'inference' or 'training'.
        run: takes a number of steps.
        **facts: for the report: compile_seconds, memory_bytes, …
    """

    def __init__(
        self,
        name: str,
        flags: str,
        work: str,
        run: Callable[[int], None],
        **facts: Any,
    ):
        self.name, self.flags, self.work = name, flags, work
        self.run, self.facts = run, facts
        self.seconds: list[float] = []  # of a step, one for each timed run
        run(1)
        # Others may disturb one of them.
        self._one = min(self._timed(1) for _ in range(2))

    def _timed(self, steps: int) -> float:
        begin = time.perf_counter()
        self.run(steps)
        return (time.perf_counter() - begin) / steps

    def measure(self, seconds: float = SECONDS) -> None:
        """Adds one timed run that takes about so long, or a step."""
        self.seconds.append(self._timed(max(1, math.ceil(seconds / self._one))))


class MatmulPeak:
    """Readings of the highest rate of matrix products on the first device.

    Args:
        dtype: of the matrices.
        shapes: (rows, inner, columns) to try besides a large square.
        settings: of the compiler, to try each.
    """

    def __init__(
        self,
        dtype: str,
        shapes: Sequence[tuple[int, int, int]],
        settings: Sequence[Mapping[str, Any]],
    ):
        self.flops = 0.0  # per second, the largest so far
        side = 2048 if jax.default_backend() == 'cpu' else 8192
        self._runs = []
        for n, d, m in {*shapes, (side, side, side)}:
            # Of ones, a GPU's products are faster.
            x, w = (
                jax.random.normal(jax.random.key(i), shape, dtype)
                for i, shape in enumerate([(n, d), (d, m)])
            )
            for options in settings:
                matmul = jax.jit(jnp.matmul, compiler_options=dict(options))
                matmul = matmul.lower(x, w).compile()
                matmul(x, w).block_until_ready()
                begin = time.perf_counter()
                matmul(x, w).block_until_ready()
                repeats = math.ceil(0.1 / (time.perf_counter() - begin))
                self._runs.append((matmul, x, w, repeats, 2 * n * d * m))

    def measure(self) -> None:
        """Takes one reading of each."""
        for matmul, x, w, repeats, flops in self._runs:
            begin = time.perf_counter()
            for _ in range(repeats):
                y = matmul(x, w)
            y.block_until_ready()
            rate = flops * repeats / (time.perf_counter() - begin)
            self.flops = max(self.flops, rate)


def add_network(parser: argparse.ArgumentParser) -> None:
    """Adds what says which network is meant."""
    parser.add_argument('--model', default='ViT-S_16')
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--size', type=int, default=224, help='of the square images')
    parser.add_argument('--dtype', default='float32', help='of the computation')
    parser.add_argument('--scan_layers', action='store_true')
    parser.add_argument('--remat', default='none')
    parser.add_argument('--accum_steps', type=int, default=1)
    parser.add_argument('--attention', default='auto', help='auto, xla or cudnn')


def training_config(args: argparse.Namespace) -> ConfigDict:
    """Returns the configuration of a run whose step is measured."""
    from vit_jax import config as config_lib
    from vit_jax import models

    config = config_lib.default()
    with config.ignore_type():
        config.model = models.get_config(args.model)
        config.pp.crop = args.size
        config.batch, config.accum_steps = args.batch, args.accum_steps
        config.total_steps, config.warmup_steps = 10_000, 0
        config.base_lr = 1e-4
        config.dtype, config.remat = args.dtype, args.remat
        config.scan_layers = args.scan_layers
        config.attention = args.attention
    return config


def network(config: ConfigDict, **fields: Any) -> Any:
    """Returns the module of a training configuration."""
    from vit_jax import models

    model = models.for_run(config, NUM_CLASSES)
    return model.clone(**fields)


def random_params(shapes: PyTree) -> PyTree:
    """Returns random parameters without compiling anything, for timing only."""
    values = np.random.default_rng(0).normal(0, 0.02, 1 << 20).astype(np.float32)

    def param(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if getattr(path[-1], 'key', '') == 'scale':
            return jnp.ones(leaf.shape, leaf.dtype)
        return jnp.asarray(np.resize(values, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(param, shapes)


def several(step: Callable[[], None], wait: Callable[[], None]) -> Callable:
    """Returns a function that takes so many steps and waits for the device."""

    def run(steps: int) -> None:
        for _ in range(steps):
            step()
        wait()

    return run


def inference(
    label: tuple[str, str],
    model: Any,
    params: Any,
    images: jax.Array,
    options: Mapping[str, Any],
) -> tuple[Side, np.ndarray]:
    """Returns how a compiled model runs, and its logits."""
    begin = time.perf_counter()
    apply = jax.jit(model.apply).lower({'params': params}, images)
    apply = apply.compile(compiler_options=dict(options))
    seconds = time.perf_counter() - begin

    def run(steps: int) -> None:
        for _ in range(steps):
            logits = apply({'params': params}, images)
        logits.block_until_ready()

    facts = {'compile_seconds': seconds, **programs.facts_of(apply)}
    side = Side(*label, 'inference', run, **facts)
    return side, np.asarray(apply({'params': params}, images))


def training(
    label: tuple[str, str],
    config: ConfigDict,
    model: Any,
    params: Any,
    images: jax.Array,
    options: Mapping[str, Any] | None,
) -> Side:
    """Returns how a compiled training step runs, the optimizer's part included."""
    trained = Trained(config, model, params, images.shape)
    begin = time.perf_counter()
    step = trained.compile(options)
    seconds = time.perf_counter() - begin
    facts = {'compile_seconds': seconds, **programs.facts_of(step)}
    return Side(*label, 'training', trained.steps(step), **facts)


class Trained:
    """What a training step takes: a state, and one batch of random pixels.

    Args:
        config: of the run.
        model: None: the run's.
        params: None: new ones. They stay whole.
        shape: of the images; None: the run's.
    """

    def __init__(
        self,
        config: ConfigDict,
        model: Any = None,
        params: Any = None,
        shape: Sequence[int] | None = None,
    ):
        from vit_jax import optim
        from vit_jax.training.state import TrainState

        self.config = config
        self.model = network(config) if model is None else model
        size = config.pp.crop
        shape = shape or (config.batch, size, size, 3)
        if params is None:
            init = jax.jit(self.model.init)
            params = init(jax.random.key(0), jnp.zeros((1, *shape[1:])))['params']
        self.optimizer = optim.create_optimizer(config)
        copy = jax.tree.map(lambda x: x.copy(), params)  # the step takes it
        self.state = TrainState.create(copy, self.optimizer, config.dtype)
        rng = np.random.default_rng(0)
        batch = {
            'image': rng.integers(0, 256, shape, np.uint8),
            'label': rng.integers(0, NUM_CLASSES, shape[0], np.int32),
            'skipped': np.zeros(shape[0], np.int32),
        }
        self.batch = jax.tree.map(jnp.asarray, batch)

    def compile(self, options: Mapping[str, Any] | None = None) -> Any:
        """Returns the step, traced and compiled anew.

        Args:
            options: of the compiler; None: those of our programs.
        """
        from vit_jax.runtime import compiler
        from vit_jax.training import step as train_step

        options = compiler.options() if options is None else options
        with mock.patch.object(compiler, 'options', return_value=options):
            step = train_step.compile_step(
                self.config, self.model, self.optimizer, self.state
            )
        return step.lower(self.state, self.batch).compile()

    def steps(self, step: Any) -> Callable[[int], None]:
        """Returns a function that takes so many compiled steps and waits for them."""

        def run(count: int) -> None:
            for _ in range(count):
                self.state, values = step(self.state, self.batch)
            values['loss'].block_until_ready()
            jax.block_until_ready(self.state.params)

        return run
