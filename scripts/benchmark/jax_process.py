"""The process of the part `gpu` that holds JAX: compiles programs and times them."""

import argparse
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmark import baselines, loop, prediction, programs, sides, worker
from benchmark.sides import NUM_CLASSES, MatmulPeak, Side


class Programs:
    """Methods that are called from outside; arguments and results are JSON."""

    def __init__(self):
        self._sides: dict[str, tuple[Side, int]] = {}
        self._peaks: dict[str, MatmulPeak] = {}

    def device(self) -> dict[str, Any]:
        """Returns what the programs run on."""
        first = jax.devices()[0]
        return {
            'platform': jax.default_backend(),
            'device': first.device_kind,
            'devices': jax.device_count(),
            'memory_bytes': (first.memory_stats() or {}).get('bytes_limit', 0),
            'jax': jax.__version__,
        }

    def prepare(self, key: str, work: str, network: str, **settings) -> dict[str, Any]:
        """Compiles a program and runs it a few times; returns facts about it.

        Args:
            key: by which `rate` finds it.
            work: 'training' or 'inference'.
            network: 'vit_jax' or 'plain', see baselines.py.
            **settings: model, size, batch, dtype, attention.
        """
        args = argparse.Namespace(
            **settings, accum_steps=1, remat='none', scan_layers=False
        )
        config = sides.training_config(args)
        shape = (args.batch, args.size, args.size, 3)
        images = jax.ShapeDtypeStruct(shape, 'float32')
        config.attention = 'xla'  # its products are counted
        model = sides.network(config)
        shapes = jax.eval_shape(model.init, jax.random.key(0), images)
        flops = programs.matmul_flops(jax.make_jaxpr(model.apply)(shapes, images))
        config.attention = args.attention
        if network == 'plain':
            model = baselines.plain(config.model, NUM_CLASSES, args.dtype)
        else:
            model = sides.network(config)
        params = sides.random_params(shapes['params'])
        label = key, ''
        if work == 'training':
            side = sides.training(label, config, model, params, images, None)
        else:
            pixels = np.random.default_rng(0).random(shape, np.float32)
            side, _ = sides.inference(label, model, params, jnp.asarray(pixels), {})
        self._sides[key] = side, args.batch
        return {'batch': args.batch, 'flops': flops, **side.facts}

    def rate(self, key: str, seconds: float) -> float:
        """Returns images per second of a timed run."""
        side, batch = self._sides[key]
        side.measure(seconds)
        return batch / side.seconds[-1]

    def peak(self, dtype: str) -> float:
        """Returns the highest rate of matrix products read so far, in FLOP/s."""
        if dtype not in self._peaks:
            self._peaks[dtype] = MatmulPeak(dtype, [], [{}])
        self._peaks[dtype].measure()
        return self._peaks[dtype].flops

    def loop(
        self, model: str, size: int, batch: int, dtype: str, workers: int, steps: int
    ) -> dict[str, float]:
        """Returns rates of the real loop and of its bare step; see loop.py."""
        config = loop.training_config(model, size, batch)
        config.dtype, config.num_workers = dtype, workers
        loops, alone, waited = loop.loop_and_step_rates(config, steps, 3)
        ratios = [a / b for a, b in zip(loops, alone, strict=True)]
        return {
            'rate': statistics.median(loops),
            'against': statistics.median(alone),
            'ratio': statistics.median(ratios),
            'ratio_range': [min(ratios), max(ratios)],
            'data_wait': statistics.median(waited),
        }

    def predict(self, **settings) -> list[dict]:
        """Returns rows that compare predicting with the bare model; see prediction.py.

        Args:
            **settings: those of the part `predict`.
        """
        return prediction.run_predict(argparse.Namespace(**settings))


if __name__ == '__main__':
    worker.serve(Programs())
