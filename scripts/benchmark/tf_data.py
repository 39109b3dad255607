"""The input pipeline against tf.data, which works in a process of its own."""

import argparse
import contextlib
import functools
import pathlib
import subprocess
import tempfile
import time
from collections.abc import Sequence

from benchmark import pairs
from benchmark.delivery import SETTLE, batches, delivered, kind
from benchmark.photos import Photos

_PROCESS = pathlib.Path(__file__).with_name('tf_data_process.py')


def compare(args: argparse.Namespace) -> list[dict]:
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
            *(str(_PROCESS), folder),
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
        time.sleep(SETTLE)
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
