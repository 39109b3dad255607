"""The part `gpu`: everything that wants a GPU, within a time limit."""

import argparse
import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from benchmark import gpu_rows, gpu_run
from benchmark.worker import WorkerError

# A row may take so many times its estimate.
PATIENCE = 3.0
# Seconds of a timed run.
WINDOW, TINY_WINDOW = 2.0, 0.02


def add_parser(parts: argparse._SubParsersAction) -> None:
    """Adds the part `gpu` to the command line."""
    parser = parts.add_parser(
        'gpu',
        help='everything that wants a GPU, the most important first',
        description='Training and inference in bfloat16, against timm and the plain '
        'formulation, the real loop, predictions: printed row by row, until the time '
        'is up. Exits with 2 where there is no GPU.',
    )
    groups = list(dict.fromkeys(row.group for row in gpu_rows.rows(tiny=False)))
    parser.add_argument('--limit', type=float, default=480, help='seconds in all')
    parser.add_argument(
        '--rows', nargs='+', choices=groups, default=groups, metavar='GROUP',
        help=', '.join(groups),
    )  # fmt: skip
    parser.add_argument('--out', metavar='FILE', help='results as JSON lines')
    parser.add_argument(
        '--log', metavar='FILE', help='what the processes write, such as tracebacks'
    )
    parser.add_argument(
        '--cpu-test', action='store_true', help='tiny networks on a CPU, for tests'
    )
    parser.add_argument('--json', action='store_true')
    parser.set_defaults(run=run_gpu, show=lambda rows: None)


def run_gpu(args: argparse.Namespace) -> list[dict]:
    """Measures what the time allows; writes each result when it is there.

    Raises:
        ValueError: there is no GPU.
    """
    window = TINY_WINDOW if args.cpu_test else WINDOW
    results = []
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(open(args.log or os.devnull, 'w'))
        out = stack.enter_context(open(args.out or os.devnull, 'a'))
        run = stack.enter_context(gpu_run.Run(args.limit, window, log))
        try:
            device = run.call('jax', 'device')
        except WorkerError as error:
            raise ValueError(f'JAX does not start here: {error}') from error
        if device['platform'] != 'gpu' and not args.cpu_test:
            raise ValueError(
                f'there is no GPU here: JAX sees {device["device"]} '
                f'({device["platform"]}). Install jax[cuda12], or measure a CPU by '
                'the other parts, such as `model`.'
            )
        results.append({'name': 'device', **device})
        record(results[0], out)
        if not args.json:
            memory = device['memory_bytes'] / 2**30
            said = f'{device["device"]}, JAX {device["jax"]}, for it {memory:.0f} GiB'
            print(said, flush=True)
        rows = [row for row in gpu_rows.rows(args.cpu_test) if row.group in args.rows]
        for result in measured(run, rows):
            record(result, out)
            results.append(result)
            if not args.json:
                print(text(result), flush=True)
    return results


def measured(
    run: gpu_run.Run, rows: Sequence[gpu_rows.Row]
) -> Iterator[dict[str, Any]]:
    """Yields the results of the rows that the time allows.

    Estimates follow the rows so far: another machine compiles faster or slower.
    """
    estimated = taken = 30.0
    for row in rows:
        estimate = row.estimate * taken / estimated
        head = {'row': row.group, 'aim': row.aim}
        name = f'{row.group}, {row.name}'
        if estimate > run.left():
            why = f'takes about {estimate:.0f} s, {max(0, run.left()):.0f} s are left'
            yield {'name': name, **head, 'skipped': why}
            continue
        run.give(PATIENCE * max(estimate, row.estimate))
        begin = time.monotonic()
        try:
            for result in row.measure(run):
                seconds = time.monotonic() - begin
                yield {**head, 'seconds': round(seconds, 1), **result}
        except WorkerError as error:
            yield {'name': name, **head, 'error': str(error)}
        estimated += row.estimate
        taken += time.monotonic() - begin


def record(result: Mapping[str, Any], out: IO) -> None:
    """Adds a result to the file."""
    print(json.dumps(result), file=out, flush=True)


def text(result: Mapping[str, Any]) -> str:
    """Returns a result as a line."""
    name = result['name']
    for failure in ('skipped', 'error'):
        if failure in result:
            return f'{name}: {failure}: {result[failure]}'
    if 'ratio' in result:
        low, high = result['ratio_range']
        cells = [
            f'{result["ratio"]:.2f} times as fast ({low:.2f} to {high:.2f})',
            f'{result["rate"]:,.0f} against {result["against"]:,.0f} images/s',
        ]
    else:
        low, high = result['rate_range']
        cells = [
            f'{result["rate"]:,.0f} images/s ({low:,.0f} to {high:,.0f})',
            f'{result["peak_share"]:.0%} of {result["matmul_peak_teraflops"]:.3g} '
            'TFLOP/s',
            f"cuDNN's attention {result['cudnn_attention_calls']} times",
            f'compiled in {result["compile_seconds"]:.0f} s',
        ]
    if 'batch' in result:
        cells.append(f'batch {result["batch"]}')
    if 'memory_bytes' in result:
        cells.append(f'{result["memory_bytes"] / 2**30:.1f} GiB')
    if 'data_wait' in result:
        cells.append(f'{result["data_wait"]:.1%} waiting for data')
    if result['aim']:
        cells.append(f'aim {result["aim"]}')
    return f'{name}: {"; ".join(cells)} [{result["seconds"]:.0f} s]'
