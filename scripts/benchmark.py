"""Measures parts of vit_jax on the machine at hand.

    python scripts/benchmark.py model            # training step and inference
    python scripts/benchmark.py model --baseline linen     # against flax's own layers
    python scripts/benchmark.py input            # the input pipeline
    python scripts/benchmark.py input --json     # the same as JSON
    python scripts/benchmark.py input --baseline tf.data   # against tf.data
    python scripts/benchmark.py train            # the training loop, and its start
    python scripts/benchmark.py predict          # files to probabilities
    python scripts/benchmark.py scaling          # memory and collectives by devices
    python scripts/benchmark.py layers           # scan_layers against unrolled blocks

What is compared runs alternately in one process, so that whoever shares the machine
disturbs both alike. Ratios are formed within each pair of runs; the table shows their
median and range.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from unittest import mock

import compute
import pairs
import reading
import stacking


def main(argv: list[str] | None = None) -> None:
    """Runs one part of the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest='part', required=True)
    compute.add_model(parts)
    reading.add_input(parts)
    add_train(parts)
    add_predict(parts)
    compute.add_scaling(parts)
    stacking.add_layers(parts)
    args = parser.parse_args(argv)
    report = {'machine': machine(), 'cores': available_cores(), 'part': args.part}
    try:
        report['rows'] = args.run(args)
    except ValueError as error:
        parser.exit(2, f'benchmark: {error}\n')
    if args.json:
        print(json.dumps(report, indent=2))
        return
    print(f'{report["machine"]}, {report["cores"]} cores')
    args.show(report['rows'])


def machine() -> str:
    """Returns the name of the processor."""
    info = pathlib.Path('/proc/cpuinfo')
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith('model name'):
            return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()


def available_cores() -> int:
    """Returns the number of cores this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def add_train(parts: argparse._SubParsersAction) -> None:
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
    loop, alone, waited = loop_and_step_rates(args)
    name = f'loop against bare step, {args.model}, batch {args.batch}'
    row = pairs.compare(name, iter(loop).__next__, iter(alone).__next__, args.repeats)
    row['data_wait'] = statistics.median(waited)
    start = [seconds_to_first_step() for _ in range(args.starts)]
    return [
        row,
        {'name': 'quickstart, command to first step', 'seconds': sorted(start)},
    ]


def loop_and_step_rates(
    args: argparse.Namespace,
) -> tuple[list[float], list[float], list[float]]:
    """Returns images per second of `train_and_evaluate`'s loop and of its step alone.

    The third list has the share of the loop's time in which it waited for a batch.

    The loop of one real run is held after every `args.steps` steps, while the same
    compiled step runs as often on a copy of the state and one batch.
    """
    import jax

    from vit_jax import config as config_lib
    from vit_jax import models, train
    from vit_jax.training import loop as loop_lib

    images = args.steps * args.batch
    loop, alone, waited = [], [], []
    seconds_waited = 0.0

    def timed(batches):
        nonlocal seconds_waited
        while True:
            begin = time.perf_counter()
            batch = next(batches, None)
            seconds_waited += time.perf_counter() - begin
            if batch is None:
                return
            yield batch

    def held(step_fn, state, batches, start, stop):
        nonlocal seconds_waited
        fixed = next(batches)
        begin = None
        batches = timed(batches)
        steps = loop_lib.training_steps(step_fn, state, batches, start, stop)
        for step, state, values in steps:
            yield step, state, values
            if step % args.steps:
                continue
            jax.block_until_ready(state)
            if begin is not None:  # not of the first interval, which compiles
                seconds = time.perf_counter() - begin
                loop.append(images / seconds)
                waited.append(seconds_waited / seconds)
            copy = jax.block_until_ready(jax.tree.map(lambda x: x.copy(), state))
            begin = time.perf_counter()
            for _ in range(args.steps):
                copy, _ = step_fn(copy, fixed)
            jax.block_until_ready(copy)
            alone.append(images / (time.perf_counter() - begin))
            seconds_waited = 0.0
            begin = time.perf_counter()

    config = config_lib.default()
    config.model = models.get_config(args.model)
    config.pp.crop = args.size
    config.batch, config.accum_steps = args.batch, 1
    config.total_steps = args.steps * (args.repeats + 2)
    config.warmup_steps = 0
    config.eval_every, config.progress_every = 0, args.steps
    with config.ignore_type(), tempfile.TemporaryDirectory() as folder:
        for i, file in enumerate(reading.Photos().files):
            path = pathlib.Path(folder, 'photos', 'train', 'ab'[i % 2], f'{i}.jpg')
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file)
        config.dataset = f'{folder}/photos'
        config.pp.train, config.pp.val, config.pp.test = 'train', None, None
        with mock.patch.object(train, 'training_steps', held):
            train.train_and_evaluate(config, f'{folder}/run')
    return loop, alone[1:], waited


def add_predict(parts: argparse._SubParsersAction) -> None:
    """Adds the part `predict` to the command line."""
    parser = parts.add_parser(
        'predict', help='JPEG files to probabilities, against the bare model'
    )
    parser.add_argument('--model', default='ViT-S_16')
    parser.add_argument('--batch', type=int, default=64)
    parser.add_argument('--size', type=int, default=224, help='of the square images')
    parser.add_argument('--images', type=int, default=1000, help='500 by 375')
    parser.add_argument('--dtype', default='float32', help='of the computation')
    parser.add_argument(
        '--workers', type=int, default=0, help='worker processes; 0: threads'
    )
    parser.add_argument('--repeats', type=int, default=3, help='pairs of timed runs')
    parser.add_argument('--json', action='store_true')
    parser.set_defaults(run=run_predict, show=pairs.print_ratios)


def run_predict(args: argparse.Namespace) -> list[dict]:
    """Compares `Predictor.outputs` with the compiled model, and the reading with both.

    The model computes the same batches, which wait on its devices, one after another.
    """
    import jax
    import jax.numpy as jnp

    from vit_jax import data, models
    from vit_jax.checkpoint import ModelCard
    from vit_jax.data.datasets import photos
    from vit_jax.inference.predictor import Predictor
    from vit_jax.runtime import sharding

    config = models.get_config(args.model)
    model = models.from_config(config, num_classes=1000, dtype=args.dtype)
    size = (args.size, args.size)
    images = jnp.zeros((1, *size, 3))
    params = model.init(jax.random.key(0), images, train=False)['params']
    predictor = Predictor(model, params, ModelCard(config.to_dict(), 1000, size))

    @jax.jit
    def bare(params, images):
        logits = model.apply({'params': params}, images, train=False)
        return logits, jax.nn.softmax(logits)

    with tempfile.TemporaryDirectory() as folder:
        files = reading.Photos().files
        for i in range(args.images):
            pathlib.Path(folder, f'{i}.jpg').write_bytes(files[i % len(files)])
        source = photos.Photos(folder)
        batch = -(-min(args.batch, len(source)) // predictor.mesh.size)
        batch *= predictor.mesh.size

        def read() -> Iterator[dict]:
            return data.eval_batches(
                source, batch=batch, size=size, num_workers=args.workers
            )

        rows = sharding.batch_sharding(predictor.mesh)
        fixed = [
            sharding.to_devices({'image': found['image']}, rows)['image']
            for found in read()
        ]

        def predicting() -> float:
            start = time.perf_counter()
            found = predictor.outputs(
                source,
                ('logits', 'probabilities'),
                batch=batch,
                num_workers=args.workers,
            )
            count = sum(len(out['index']) for out in found)
            return count / (time.perf_counter() - start)

        def alone() -> float:
            start = time.perf_counter()
            for images in fixed:
                result = bare(predictor.params, images)
            jax.block_until_ready(result)
            return len(source) / (time.perf_counter() - start)

        def reads() -> float:
            start = time.perf_counter()
            for _ in read():
                pass
            return len(source) / (time.perf_counter() - start)

        # Compiles.
        jax.block_until_ready(bare(predictor.params, fixed[0]))
        first = data.Picked(source, range(min(batch, len(source))))
        for _ in predictor.outputs(first, ('logits', 'probabilities'), batch=batch):
            pass
        name = f'{args.model}, batch {batch}'
        return [
            pairs.compare(
                f'predict against bare {name}', predicting, alone, args.repeats
            ),
            pairs.compare(f'reading alone against bare {name}', reads, alone, 1),
        ]


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


if __name__ == '__main__':
    main()
