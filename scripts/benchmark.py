"""Measures parts of vit_jax on the machine at hand.

    python scripts/benchmark.py model            # training step and inference
    python scripts/benchmark.py model --baseline linen     # against flax's own layers
    python scripts/benchmark.py input            # the input pipeline
    python scripts/benchmark.py input --json     # the same as JSON
    python scripts/benchmark.py train            # the training loop, and its start
    python scripts/benchmark.py predict          # files to probabilities
    python scripts/benchmark.py scaling          # memory and collectives by devices
    python scripts/benchmark.py layers           # scan_layers against unrolled blocks

What is compared runs alternately in one process, so that whoever shares the machine
disturbs both alike. Ratios are formed within each pair of runs; the table shows their
median and range.
"""

import argparse
import concurrent.futures
import io
import itertools
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from unittest import mock

import compute
import numpy as np
import stacking


def main(argv: list[str] | None = None) -> None:
    """Runs one part of the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest='part', required=True)
    compute.add_model(parts)
    add_input(parts)
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


def compare(
    name: str, a: Callable[[], float], b: Callable[[], float], repeats: int
) -> dict:
    """Returns a row of the report: rates of `a` and `b`, measured alternately."""
    rates = [(a(), b()) for _ in range(repeats)]
    ratios = [ours / theirs for ours, theirs in rates]
    return {
        'name': name,
        'rate': statistics.median(ours for ours, _ in rates),
        'against': statistics.median(theirs for _, theirs in rates),
        'ratio': statistics.median(ratios),
        'ratio_range': [min(ratios), max(ratios)],
    }


def print_ratios(rows: Sequence[dict]) -> None:
    """Prints a table of images per second."""
    print('images per second')
    width = max(len(row['name']) for row in rows)
    print(f'{"":{width}}  {"ours":>7} {"against":>8}  ratio (range)')
    for row in rows:
        if 'seconds' in row:
            seconds = ', '.join(f'{value:.1f}' for value in row['seconds'])
            print(f'{row["name"]:{width}}  {seconds} s')
            continue
        low, high = row['ratio_range']
        print(
            f'{row["name"]:{width}}  {row["rate"]:7.0f} {row["against"]:8.0f}  '
            f'{row["ratio"]:5.2f} ({low:.2f} to {high:.2f})'
        )
        if 'data_wait' in row:
            print(f'  of its time, the loop waited {row["data_wait"]:.1%} for data')


def add_input(parts: argparse._SubParsersAction) -> None:
    """Adds the part `input` to the command line."""
    parser = parts.add_parser(
        'input', help='JPEGs to training batches, against decode + crop + resize alone'
    )
    parser.add_argument('--batch', type=int, default=128)
    parser.add_argument('--size', type=int, default=224, help='of the square crops')
    parser.add_argument('--images', type=int, default=1536, help='in each timed run')
    parser.add_argument('--repeats', type=int, default=25, help='pairs of timed runs')
    parser.add_argument(
        '--workers', type=int, nargs='*', default=[0, 2], help='worker processes'
    )
    parser.add_argument('--json', action='store_true')
    parser.set_defaults(run=run_input, show=print_ratios)


class Photos:
    """A source of 500×375 JPEGs in memory, parts of scikit-learn's two photos."""

    class_names = ('china', 'flower')

    def __init__(self, count: int = 64, quality: int = 90):
        from PIL import Image
        from sklearn.datasets import load_sample_images

        rng = np.random.default_rng(0)
        photos = load_sample_images().images
        self.files = []
        for i in range(count):
            height, width = photos[i % 2].shape[:2]
            top, left = rng.integers(0, height // 6), rng.integers(0, width // 6)
            part = photos[i % 2][top:, left:][: height * 5 // 6, : width * 5 // 6]
            image = Image.fromarray(part).resize((500, 375), Image.Resampling.LANCZOS)
            file = io.BytesIO()
            image.save(file, 'JPEG', quality=quality)
            self.files.append(file.getvalue())

    def __len__(self) -> int:
        return 1 << 20

    def __getitem__(self, index: int) -> dict:
        """Returns one of the photos."""
        i = index % len(self.files)
        return {'image': self.files[i], 'label': i % 2, 'name': f'photo {i}'}

    def fingerprint(self) -> str:
        """Returns what every source must have."""
        return 'photos'


def run_input(args: argparse.Namespace) -> list[dict]:
    """Compares decoders, and the pipeline with the least work it could do."""
    from PIL import Image

    from vit_jax import data
    from vit_jax.data import ops

    source = Photos()

    def with_pillow(file: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(file)).convert('RGB'))

    def decode_all(decode: Callable) -> float:
        start = time.thread_time()  # of the processor, which others may use as well
        for file in source.files:
            decode(file)
        return len(source.files) / (time.thread_time() - start)

    rows = [
        compare(
            'decode in one thread, against Pillow',
            lambda: decode_all(ops.decode),
            lambda: decode_all(with_pillow),
            5 * args.repeats,
        )
    ]

    cores = available_cores()
    crop, resize = ops.RandomCrop(), ops.Resize((args.size, args.size))
    pool = concurrent.futures.ThreadPoolExecutor(cores)

    def work(numbers: range) -> None:
        rng = np.random.default_rng(numbers.start)
        for i in numbers:
            resize(crop(ops.decode(source.files[i % len(source.files)]), rng))

    def alone() -> float:
        """The three operations on all cores; nothing is kept."""
        step = -(-args.images // (32 * cores))  # small, to end together
        start = time.perf_counter()
        list(pool.map(work, (range(i, i + step) for i in range(0, args.images, step))))
        return step * -(-args.images // step) / (time.perf_counter() - start)

    for workers in args.workers:
        options = {'batch': args.batch, 'size': (args.size, args.size), 'seed': 0}
        with data.train_batches(source, num_workers=workers, **options) as batches:

            def delivered(batches=batches, workers=workers) -> float:
                # First the batches that were made while nobody drew any.
                for _ in itertools.islice(batches, 4 * (workers + 1)):
                    pass
                count = -(-args.images // args.batch)
                start = time.perf_counter()
                for _ in itertools.islice(batches, count):
                    pass
                rate = count * args.batch / (time.perf_counter() - start)
                time.sleep(1.0)  # until as many have been made again
                return rate

            kind = f'{workers} worker processes' if workers else 'threads'
            name = f'pipeline, {kind}, against decode + crop + resize'
            rows.append(compare(name, delivered, alone, args.repeats))
    return rows


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
    parser.set_defaults(run=run_train, show=print_ratios)


def run_train(args: argparse.Namespace) -> list[dict]:
    """Compares the loop with the bare step, and times the start of a run."""
    loop, alone, waited = loop_and_step_rates(args)
    name = f'loop against bare step, {args.model}, batch {args.batch}'
    row = compare(name, iter(loop).__next__, iter(alone).__next__, args.repeats)
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
    from vit_jax import models, train, train_step

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
        steps = train_step.training_steps(step_fn, state, batches, start, stop)
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
        for i, file in enumerate(Photos().files):
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
    parser.set_defaults(run=run_predict, show=print_ratios)


def run_predict(args: argparse.Namespace) -> list[dict]:
    """Compares `Predictor.outputs` with the compiled model, and the reading with both.

    The model computes the same batches, which wait on its devices, one after another.
    """
    import jax
    import jax.numpy as jnp

    from vit_jax import data, models, sharding
    from vit_jax.checkpoint import ModelCard
    from vit_jax.data import photos
    from vit_jax.predictor import Predictor

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
        files = Photos().files
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

        def reading() -> float:
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
            compare(f'predict against bare {name}', predicting, alone, args.repeats),
            compare(f'reading alone against bare {name}', reading, alone, 1),
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
