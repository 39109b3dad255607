"""The part `train`: the loop of `train_and_evaluate` against its bare step."""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
from ml_collections import ConfigDict

from benchmark import pairs
from benchmark.photos import Photos


def add_parser(parts: argparse._SubParsersAction) -> None:
    """Adds the part `train` to the command line."""
    parser = parts.add_parser(
        'train', help='the training loop against its bare step, and the time to start'
    )
    parser.add_argument('--model', default='ViT-S_16')
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--size', type=int, default=224, help='of the square crops')
    parser.add_argument('--steps', type=int, default=8, help='in each timed run')
    parser.add_argument('--repeats', type=int, default=5, help='pairs of timed runs')
    parser.add_argument('--starts', type=int, default=3, help='of the quickstart')
    parser.add_argument('--json', action='store_true')
    parser.set_defaults(run=run_train, show=pairs.print_ratios)


def run_train(args: argparse.Namespace) -> list[dict]:
    """Compares the loop with the bare step, and times the start of a run."""
    config = training_config(args.model, args.size, args.batch)
    loop, alone, waited = loop_and_step_rates(config, args.steps, args.repeats)
    name = f'loop against bare step, {args.model}, batch {args.batch}'
    row = pairs.compare(name, iter(loop).__next__, iter(alone).__next__, args.repeats)
    row['data_wait'] = statistics.median(waited)
    start = [seconds_to_first_step() for _ in range(args.starts)]
    return [
        row,
        {'name': 'quickstart, command to first step', 'seconds': sorted(start)},
    ]


def loop_and_step_rates(
    config: ConfigDict, steps: int, repeats: int
) -> tuple[list[float], list[float], list[float]]:
    """Returns images per second of `train_and_evaluate`'s loop and of its step alone.

    The third list has the share of the loop's time in which it waited for a batch.

    Args:
        config: of a run, see `training_config`; trained on photos made for it.
        steps: in each timed run.
        repeats: pairs of timed runs.
    """
    from vit_jax import train
    from vit_jax.training import loop as loop_lib

    config.total_steps = steps * (repeats + 2)
    config.progress_every = steps
    held = HeldLoop(loop_lib.training_steps, steps, config.batch)
    with config.ignore_type(), tempfile.TemporaryDirectory() as folder:
        # A batch has no image twice.
        config.dataset = write_photos(pathlib.Path(folder), 4 * config.batch)
        with mock.patch.object(loop_lib, 'training_steps', held):
            train.train_and_evaluate(config, f'{folder}/run')
    return held.loop, held.alone[1:], held.waited


def training_config(model: str, size: int, batch: int) -> ConfigDict:
    """Returns the configuration of a run that trains and does nothing else."""
    from vit_jax import config as config_lib
    from vit_jax import models

    config = config_lib.default()
    with config.ignore_type():
        config.model = models.get_config(model)
        config.pp.crop = size
        config.batch, config.accum_steps = batch, 1
        config.warmup_steps = 0
        config.eval_every = 0
        config.pp.train, config.pp.val, config.pp.test = 'train', None, None
    return config


def write_photos(folder: pathlib.Path, count: int) -> str:
    """Writes JPEG files of 500×375 pixels in two classes, 64 of them different.

    Returns:
        A manifest, which needs fewer libraries to be read than a folder.
    """
    files = Photos().files
    lines = ['path,label,split']
    for i in range(max(count, len(files))):
        (folder / f'{i}.jpg').write_bytes(files[i % len(files)])
        lines.append(f'{i}.jpg,{"ab"[i % 2]},train')
    manifest = folder / 'photos.csv'
    manifest.write_text('\n'.join(lines))
    return str(manifest)


class HeldLoop:
    """Stands in for `training_steps`, and is held after every so many steps.

    While it is held, the same compiled step runs as often on a copy of the state and
    one batch.

    Args:
        training_steps: that of training/loop.py.
        steps: in each timed run.
        batch: images of a step.

    Attributes:
        loop: images per second of the loop, of each run but the first, which compiles.
        alone: images per second of the step.
        waited: shares of the loop's time in which it waited for a batch.
    """

    def __init__(self, training_steps: Callable, steps: int, batch: int):
        self._training_steps = training_steps
        self._steps, self._images = steps, steps * batch
        self.loop: list[float] = []
        self.alone: list[float] = []
        self.waited: list[float] = []
        self._seconds_waited = 0.0

    def __call__(
        self, step_fn: Callable, state: Any, batches: Iterator, start: int, stop: int
    ) -> Iterator[tuple[int, Any, dict]]:
        """Yields what `training_steps` yields."""
        fixed = next(batches)
        begin = None
        batches = self._timed(batches)
        steps = self._training_steps(step_fn, state, batches, start, stop)
        for step, state, values in steps:
            yield step, state, values
            if step % self._steps:
                continue
            jax.block_until_ready(state)
            if begin is not None:
                seconds = time.perf_counter() - begin
                self.loop.append(self._images / seconds)
                self.waited.append(self._seconds_waited / seconds)
            self._run_alone(step_fn, state, fixed)
            self._seconds_waited = 0.0
            begin = time.perf_counter()

    def _run_alone(self, step_fn: Callable, state: Any, batch: Any) -> None:
        state = jax.block_until_ready(jax.tree.map(lambda x: x.copy(), state))
        begin = time.perf_counter()
        for _ in range(self._steps):
            state, _ = step_fn(state, batch)
        jax.block_until_ready(state)
        self.alone.append(self._images / (time.perf_counter() - begin))

    def _timed(self, batches: Iterator) -> Iterator:
        while True:
            begin = time.perf_counter()
            batch = next(batches, None)
            self._seconds_waited += time.perf_counter() - begin
            if batch is None:
                return
            yield batch


def seconds_to_first_step() -> float:
    """Returns the time from the quickstart's command to the end of its first step."""
    with tempfile.TemporaryDirectory() as run:
        command = '-m vit_jax.main --config=quickstart.py --config.total_steps=1'
        settings = ['--config.warmup_steps=0', '--config.progress_every=1']
        off = ['--config.eval_every=0', f'--workdir={run}']
        start = time.time()
        subprocess.run(
            [sys.executable, *command.split(), *settings, *off],
            check=True,
            capture_output=True,
        )
        line = pathlib.Path(run, 'metrics.jsonl').read_text().splitlines()[0]
        return json.loads(line)['time'] - start
