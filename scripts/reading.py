"""The part of benchmark.py about data: from files to batches, by stage."""

import argparse
import concurrent.futures
import contextlib
import functools
import io
import itertools
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pairs

_TF_DATA = pathlib.Path(__file__).with_name('tf_data.py')
# Examples of a source that is decoded whole: 0.3 GB of 500×375.
_KEPT = 512
# Seconds for batches to be made that nobody has asked for yet.
_SETTLE = 1.0


def add_input(parts: argparse._SubParsersAction) -> None:
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
        help='decoder, against Pillow; pipeline, against its operations alone; photos, '
        'large ones with scaled_decoding; cache, of decoded images; device, which '
        'holds them',
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
        return tf_data(args)
    return [row for name in ROWS if name in args.rows for row in ROWS[name](args)]


class Photos:
    """A source of JPEGs in memory, parts of scikit-learn's two photos.

    Args:
      count: of different files.
      quality: of the JPEGs.
      size: (width, height); larger ones get some grain, which photos have.
      length: how many examples these files are repeated for.
    """

    class_names = ('china', 'flower')

    def __init__(
        self,
        count: int = 64,
        quality: int = 90,
        size: tuple[int, int] = (500, 375),
        length: int = 1 << 20,
    ):
        from PIL import Image
        from sklearn.datasets import load_sample_images

        rng = np.random.default_rng(0)
        photos = load_sample_images().images
        self.files = []
        self._length = length
        for i in range(count):
            height, width = photos[i % 2].shape[:2]
            top, left = rng.integers(0, height // 6), rng.integers(0, width // 6)
            part = photos[i % 2][top:, left:][: height * 5 // 6, : width * 5 // 6]
            image = Image.fromarray(part).resize(size, Image.Resampling.LANCZOS)
            if size[0] > 2 * width:
                grain = rng.normal(0, 4, (size[1], size[0], 1))
                pixels = np.clip(np.asarray(image) + grain, 0, 255)
                image = Image.fromarray(pixels.astype(np.uint8))
            file = io.BytesIO()
            image.save(file, 'JPEG', quality=quality)
            self.files.append(file.getvalue())

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict:
        """Returns one of the photos."""
        i = index % len(self.files)
        return {'image': self.files[i], 'label': i % 2, 'name': f'photo {i}'}

    def fingerprint(self) -> str:
        """Returns what every source must have."""
        return 'photos'


def decoder(args: argparse.Namespace) -> list[dict]:
    """Compares decoders."""
    from PIL import Image

    from vit_jax.data.images import ops

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
            lambda: decode_all(ops.decode),
            lambda: decode_all(with_pillow),
            5 * args.repeats,
        )
    ]


def pipeline(args: argparse.Namespace) -> list[dict]:
    """Compares the pipeline with the least work it could do."""
    from vit_jax.data.images import ops
    from vit_jax.data.pipeline import available_cores

    source = Photos()
    cores = available_cores()
    crop, resize = ops.RandomCrop(), ops.Resize((args.size, args.size))
    pool = concurrent.futures.ThreadPoolExecutor(cores)

    def whole(file: bytes, rng: np.random.Generator) -> np.ndarray:
        return crop(ops.decode(file), rng)

    def in_part(file: bytes, rng: np.random.Generator) -> np.ndarray:
        return ops.decode(file, box=crop.box(*ops.jpeg_size(file), rng))

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


def photos(args: argparse.Namespace) -> list[dict]:
    """Compares decoding to about the size of the crops with decoding all pixels."""
    source = Photos(count=16, size=(2000, 1500))
    few = argparse.Namespace(**vars(args) | {'images': max(1, args.images // 8)})
    with (
        batches(args, source, scaled_decoding=True) as scaled,
        batches(args, source) as full,
    ):
        name = '2000x1500 photos, scaled_decoding, against without'
        return [
            pairs.compare(
                name,
                functools.partial(delivered, few, scaled),
                functools.partial(delivered, few, full),
                args.repeats,
            )
        ]


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


class Small:
    """A source of 32×32 PNGs, parts of scikit-learn's photos."""

    class_names = Photos.class_names

    def __init__(self, count: int):
        from PIL import Image
        from sklearn.datasets import load_sample_images

        rng = np.random.default_rng(0)
        whole = load_sample_images().images
        self._files = []
        for i in range(count):
            top, left = rng.integers(0, 300), rng.integers(0, 500)
            file = io.BytesIO()
            part = whole[i % 2][top : top + 64 : 2, left : left + 64 : 2]
            Image.fromarray(part).save(file, 'PNG')
            self._files.append(file.getvalue())

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict:
        """Returns one of them."""
        return {'image': self._files[index], 'label': index % 2, 'name': f'{index}'}

    def fingerprint(self) -> str:
        """Returns what every source must have."""
        return 'small'


def device(args: argparse.Namespace) -> list[dict]:
    """Compares batches that the devices make with batches that they are sent."""
    import jax

    from vit_jax.data.on_device import OnDevice
    from vit_jax.runtime import sharding

    mesh = sharding.make_mesh()
    rows = sharding.batch_sharding(mesh)
    size = -(-args.batch // mesh.size) * mesh.size
    args = argparse.Namespace(**vars(args) | {'batch': size})
    source = Small(max(4096, args.batch))
    held = OnDevice(source, (args.size, args.size), rows, most=1 << 30)

    def arriving(made: Iterator[dict], finish: Callable) -> Iterator:
        waiting = None
        for batch in made:
            placed = finish(sharding.to_devices(batch, rows))
            if waiting is not None:
                yield jax.block_until_ready(waiting)
            waiting = placed

    with (
        held.batches(batch=args.batch, seed=0) as drawn,
        batches(args, source) as sent,
    ):
        ours = arriving(drawn, held)
        theirs = arriving(sent, lambda batch: batch)
        return [
            pairs.compare(
                '32x32 images on the device, against those that are sent there',
                functools.partial(delivered, args, ours),
                functools.partial(delivered, args, theirs),
                args.repeats,
            )
        ]


# What is measured by name, in this order.
ROWS = {
    'decoder': decoder,
    'pipeline': pipeline,
    'photos': photos,
    'cache': cache,
    'device': device,
}


def tf_data(args: argparse.Namespace) -> list[dict]:
    """Compares the pipeline with tf.data, which does the same in its own process.

    Raises:
      ValueError: there is no TensorFlow.
    """
    source = Photos()
    rows = []
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        for i, file in enumerate(source.files):
            pathlib.Path(folder, f'{i:03}.jpg').write_bytes(file)
        theirs = stack.enter_context(TfData(args, folder))
        for workers in args.workers:
            with batches(args, source, workers) as made:
                ours = functools.partial(delivered, args, made, 4 * (workers + 1))
                name = f'pipeline at {args.size}, {kind(workers)}, against tf.data'
                rows.append(pairs.compare(name, ours, theirs, args.repeats))
                rows[-1]['tensorflow'] = theirs.version
                batch = next(made)['image']
                # The same work, with other random numbers.
                if theirs.found != [str(batch.dtype), *batch.shape]:
                    raise ValueError(f'tf.data gave {theirs.found}')
                rows[-1]['mean_pixels'] = [float(batch.mean()), theirs.mean]
    return rows


class TfData:
    """A process with a pipeline of tf.data, which works when it is called.

    Attributes:
      version: of TensorFlow.
      found: dtype and shape of its last batch.
      mean: of the pixels in its last batch.
    """

    def __init__(self, args: argparse.Namespace, folder: str):
        self._command = [
            args.tensorflow_python,
            *(str(_TF_DATA), folder),
            *map(str, (args.size, args.batch, -(-args.images // args.batch))),
        ]

    def __enter__(self) -> 'TfData':
        self._errors = tempfile.TemporaryFile('w+')
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
            )
        except OSError as error:
            raise ValueError(
                f'--tensorflow_python={self._command[0]} does not start: '
                f'{error.strerror}'
            ) from error
        self.version = self._answer('ready')[0]
        return self

    def __exit__(self, *exception) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def __call__(self) -> float:
        """Returns its images per second."""
        self._process.stdin.write('run\n')
        self._process.stdin.flush()
        rate, mean, *self.found = self._answer('rate')
        self.found[1:] = map(int, self.found[1:])
        self.mean = float(mean)
        time.sleep(_SETTLE)
        return float(rate)

    def _answer(self, word: str) -> Sequence[str]:
        for line in self._process.stdout:
            first, *values = line.split()
            if first == word:
                return values
        self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().strip().splitlines() or ['nothing']
        raise ValueError(f'--baseline tf.data: {said[-1]}')


def batches(
    args: argparse.Namespace, source: object, workers: int = 0, **settings
) -> Iterator[dict]:
    """Returns training batches of a source; to be closed."""
    from vit_jax import data

    return data.train_batches(
        source,
        batch=args.batch,
        size=(args.size, args.size),
        seed=0,
        num_workers=workers,
        **settings,
    )


def kind(workers: int) -> str:
    """Returns what makes the batches."""
    return f'{workers} worker processes' if workers else 'threads'


def delivered(args: argparse.Namespace, made: Iterator, before: int = 4) -> float:
    """Returns images per second that batches come with.

    Args:
      args: of the part.
      made: batches.
      before: so many are drawn first, which were made while nobody drew any.
    """
    for _ in itertools.islice(made, before):
        pass
    count = -(-args.images // args.batch)
    start = time.perf_counter()
    for _ in itertools.islice(made, count):
        pass
    rate = count * args.batch / (time.perf_counter() - start)
    time.sleep(_SETTLE)  # until as many have been made again
    return rate
