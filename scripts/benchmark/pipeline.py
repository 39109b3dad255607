"""The part `input`: from JPEG files to training batches, by stage."""

import argparse
import concurrent.futures
import functools
import io
import sys
import time
from collections.abc import Callable

import numpy as np

from benchmark import pairs, tf_data
from benchmark.delivery import batches, delivered, kind
from benchmark.photos import Photos

# Examples of a source that is decoded whole: 0.3 GB of 500×375.
_KEPT = 512


def add_parser(parts: argparse._SubParsersAction) -> None:
    """Adds the part `input` to the command line."""
    parser = parts.add_parser(
        'input',
        help='JPEGs to training batches, against decode + crop + resize alone',
        description='Images per second of the input pipeline.',
    )
    parser.add_argument('--batch', type=int, default=128)
    parser.add_argument('--size', type=int, default=224, help='of the square crops')
    parser.add_argument('--images', type=int, default=1536, help='in each timed run')
    parser.add_argument('--repeats', type=int, default=25, help='pairs of timed runs')
    parser.add_argument(
        '--workers', type=int, nargs='*', default=[0, 2], help='worker processes'
    )
    parser.add_argument(
        '--rows',
        nargs='+',
        choices=ROWS,
        default=list(ROWS),
        help='decoder, against Pillow; pipeline, against its operations alone; '
        'cache, of decoded images',
    )
    parser.add_argument(
        '--baseline',
        choices=['tf.data'],
        help='measure nothing but the pipeline, against tf.data doing the same',
    )
    parser.add_argument(
        '--tensorflow_python',
        default=sys.executable,
        metavar='PROGRAM',
        help='a Python that has TensorFlow; it needs nothing else',
    )
    parser.add_argument('--json', action='store_true')
    parser.set_defaults(run=run_input, show=pairs.print_ratios)


def run_input(args: argparse.Namespace) -> list[dict]:
    """Returns the rows that were asked for."""
    if args.baseline:
        return tf_data.compare(args)
    return [row for name in ROWS if name in args.rows for row in ROWS[name](args)]


def decoder(args: argparse.Namespace) -> list[dict]:
    """Compares decoders."""
    from PIL import Image

    from vit_jax.data.images import decoding

    source = Photos()

    def with_pillow(file: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(file)).convert('RGB'))

    def decode_all(decode: Callable) -> float:
        start = time.thread_time()  # of the processor, which others may use as well
        for file in source.files:
            decode(file)
        return len(source.files) / (time.thread_time() - start)

    return [
        pairs.compare(
            'decode in one thread, against Pillow',
            lambda: decode_all(decoding.decode),
            lambda: decode_all(with_pillow),
            5 * args.repeats,
        )
    ]


def pipeline(args: argparse.Namespace) -> list[dict]:
    """Compares the pipeline with the least work it could do."""
    from vit_jax.data.images import augment, decoding, ops
    from vit_jax.data.pipeline import available_cores

    source = Photos()
    cores = available_cores()
    crop, resize = augment.RandomCrop(), ops.Resize((args.size, args.size))
    pool = concurrent.futures.ThreadPoolExecutor(cores)

    def whole(file: bytes, rng: np.random.Generator) -> np.ndarray:
        return crop(decoding.decode(file), rng)

    def in_part(file: bytes, rng: np.random.Generator) -> np.ndarray:
        return decoding.decode(file, box=crop.box(*decoding.jpeg_size(file), rng))

    def work(cut: Callable, numbers: range) -> None:
        rng = np.random.default_rng(numbers.start)
        for i in numbers:
            resize(cut(source.files[i % len(source.files)], rng))

    def alone(cut: Callable) -> float:
        """The operations on all cores; nothing is kept."""
        step = -(-args.images // (32 * cores))  # small, to end together
        start = time.perf_counter()
        parts = (range(i, i + step) for i in range(0, args.images, step))
        list(pool.map(functools.partial(work, cut), parts))
        return step * -(-args.images // step) / (time.perf_counter() - start)

    bounds = {
        'decode + crop + resize': whole,
        'the same, decoded as far as the crop': in_part,
    }
    rows = []
    for workers in args.workers:
        with batches(args, source, workers) as made:
            ours = functools.partial(delivered, args, made, 4 * (workers + 1))
            for bound, cut in bounds.items():
                name = f'pipeline, {kind(workers)}, against {bound}'
                theirs = functools.partial(alone, cut)
                rows.append(pairs.compare(name, ours, theirs, args.repeats))
    return rows


def cache(args: argparse.Namespace) -> list[dict]:
    """Compares images that are decoded already with images that are not."""
    from vit_jax import data

    source = Photos(length=max(_KEPT, args.batch))
    shrink = round(args.size * 8 / 7)
    rows = []
    for title, settings in [
        ('in memory', {}),
        (f'in memory, shrunk to {shrink}', {'shrink': shrink}),
    ]:
        kept = data.cached(source, 'memory', **settings)
        with batches(args, kept) as ours, batches(args, source) as theirs:
            rows.append(
                pairs.compare(
                    f'500x375 photos, cache {title}, against without',
                    functools.partial(delivered, args, ours),
                    functools.partial(delivered, args, theirs),
                    args.repeats,
                )
            )
    return rows


ROWS = {
    'decoder': decoder,
    'pipeline': pipeline,
    'cache': cache,
}
