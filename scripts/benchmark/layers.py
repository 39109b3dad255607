"""The part `layers`: `scan_layers`: one compiled block, or all of them."""

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

from benchmark import programs, sides

LAYOUTS = {'stacked': True, 'unrolled': False}


def add_parser(parts: argparse._SubParsersAction) -> None:
    """Adds the part `layers` to the command line."""
    parser = parts.add_parser(
        'layers', help='scan_layers: time to compile, and of a step, against unrolled'
    )
    sides.add_network(parser)
    parser.add_argument(
        '--layers', type=int, nargs='+', default=[6, 24], help='numbers of blocks'
    )
    parser.add_argument('--repeats', type=int, default=5, help='timed runs of each')
    parser.add_argument('--json', action='store_true')
    parser.set_defaults(run=run_layers, show=print_layers)


def run_layers(args: argparse.Namespace) -> list[dict]:
    """Compiles training steps anew and runs those of the deepest network, in turn."""
    few, many = min(args.layers), max(args.layers)
    kept = {}
    for layers in (few, many):
        for name, scan_layers in LAYOUTS.items():
            config = sides.training_config(args)
            if 'transformer' not in config.model:
                raise ValueError(f'--model {args.model}: only ViTs have scan_layers')
            config.model.transformer.num_layers = layers
            config.scan_layers = scan_layers
            kept[name, layers] = sides.Trained(config)
    compiled: dict[Any, list[float]] = {key: [] for key in kept}
    steps = {}
    for _ in range(args.repeats):
        for key, trained in kept.items():
            begin = time.perf_counter()
            steps[key] = trained.compile()
            compiled[key].append(time.perf_counter() - begin)
    timed = {
        name: sides.Side(
            name, '', 'training', kept[name, many].steps(steps[name, many])
        )
        for name in LAYOUTS
    }
    for _ in range(args.repeats):
        for side in timed.values():
            side.measure()
    rows = [
        {
            'name': f'{name}, {layers} blocks',
            'compile_seconds': statistics.median(seconds),
            'temporary_bytes': programs.temporary_memory(steps[name, layers]),
        }
        for (name, layers), seconds in compiled.items()
    ]

    def ratio(what: str, ours: Sequence[float], theirs: Sequence[float]) -> dict:
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        spread = [min(ratios), max(ratios)]
        return {'name': what, 'ratio': statistics.median(ratios), 'ratio_range': spread}

    stacked = compiled['stacked', many]
    return [
        *rows,
        ratio(f'compile, {many} to {few} blocks', stacked, compiled['stacked', few]),
        ratio('compile, stacked to unrolled', stacked, compiled['unrolled', many]),
        ratio(
            'step, stacked to unrolled',
            timed['stacked'].seconds,
            timed['unrolled'].seconds,
        ),
    ]


def print_layers(rows: Sequence[dict]) -> None:
    """Prints the table of `layers`."""
    print('to trace and compile the training step; what the device holds besides')
    for row in rows:
        if 'ratio' not in row:
            memory = row['temporary_bytes'] / 2**20
            print(f'{row["name"]:30} {row["compile_seconds"]:5.1f} s {memory:7.0f} MiB')
    print('\nhow many times as long')
    for row in rows:
        if 'ratio' in row:
            low, high = row['ratio_range']
            print(f'{row["name"]:30} {row["ratio"]:5.2f} ({low:.2f} to {high:.2f})')
