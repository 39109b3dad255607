"""The part `predict`: JPEG files to probabilities, against the bare model."""

import argparse
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmark import pairs
from benchmark.photos import Photos


def add_parser(parts: argparse._SubParsersAction) -> None:
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

    from vit_jax import data
    from vit_jax.data.datasets import photos
    from vit_jax.runtime import sharding

    predictor, bare = new_predictor(args.model, args.size, args.dtype)

    with tempfile.TemporaryDirectory() as folder:
        files = Photos().files
        for i in range(args.images):
            pathlib.Path(folder, f'{i}.jpg').write_bytes(files[i % len(files)])
        source = photos.Photos(folder)
        batch = -(-min(args.batch, len(source)) // predictor.mesh.size)
        batch *= predictor.mesh.size

        def read() -> Iterator[dict]:
            return data.eval_batches(
                source,
                predictor.preprocess,
                batch=batch,
                reading=data.Reading(num_workers=args.workers),
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


def new_predictor(name: str, size: int, dtype: str) -> tuple[Any, Callable]:
    """Returns a Predictor with random weights, and its bare model, compiled.

    Args:
        name: of the model.
        size: of the square images.
        dtype: of the computation.
    """
    import jax
    import jax.numpy as jnp

    from benchmark import sides
    from vit_jax import models
    from vit_jax.checkpoint import ModelCard
    from vit_jax.inference.predictor import Predictor

    config = models.get_config(name)
    model = models.from_config(config, num_classes=1000, dtype=dtype)
    images = jnp.zeros((1, size, size, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    params = sides.random_params(shapes['params'])

    @jax.jit
    def bare(params, images):
        logits = model.apply({'params': params}, images, train=False)
        return logits, jax.nn.softmax(logits)

    card = ModelCard(config.to_dict(), 1000, (size, size))
    return Predictor(model, params, card), bare
