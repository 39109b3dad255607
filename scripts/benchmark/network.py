"""The part `model`: training step and inference of a network, against others."""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmark import baselines, programs, sides
from benchmark.sides import NUM_CLASSES, MatmulPeak, Side

# Settings of the compiler that each network is measured with on a CPU: what others get
# who know of no flags, and what our training step is compiled with.
DEFAULT, STEPS = 'default flags', "our step's flags"


def add_parser(parts: argparse._SubParsersAction) -> None:
    """Adds the part `model` to the command line."""
    parser = parts.add_parser(
        'model', help='training step and inference of a network, on fixed batches'
    )
    sides.add_network(parser)
    parser.add_argument(
        '--work', choices=('inference', 'training'), nargs='+',
        default=['inference', 'training'],
    )  # fmt: skip
    parser.add_argument(
        '--baseline', choices=('linen', 'timm'), nargs='+', default=[],
        help="linen: flax's own layers, unrolled, in float32, the same parameters; "
        'timm: PyTorch with random parameters',
    )  # fmt: skip
    parser.add_argument('--repeats', type=int, default=7, help='timed runs of each')
    parser.add_argument('--json', action='store_true')
    parser.set_defaults(run=run_model, show=print_model)


def run_model(args: argparse.Namespace) -> list[dict]:
    """Measures the network and its baselines alternately; returns their rows."""
    from vit_jax import models
    from vit_jax.runtime import compiler

    config = sides.training_config(args)
    model = sides.network(config)
    images = jnp.asarray(
        np.random.default_rng(0).normal(size=(args.batch, args.size, args.size, 3)),
        jnp.float32,
    )
    params = jax.jit(sides.network(config, scan_layers=False).init)(
        jax.random.key(0), images[:1]
    )['params']
    # An initial head is 0, and all logits with it.
    params['head']['kernel'] = 0.02 * jax.random.normal(
        jax.random.key(1), params['head']['kernel'].shape
    )
    ours = models.stack(params) if args.scan_layers else params
    settings = {'': {}}
    if jax.default_backend() == 'cpu':
        settings = {DEFAULT: {}, STEPS: compiler.options()}
    networks = [('vit_jax', model, ours)]
    if 'linen' in args.baseline:
        plain = baselines.plain(config.model, NUM_CLASSES)
        networks.append(('linen', plain, params))

    traced = sides.network(config, remat='none').apply
    flops = programs.matmul_flops(jax.make_jaxpr(traced)({'params': ours}, images))
    timed, wanted = [], None
    for name, module, tree in networks:
        for flags, options in settings.items():
            label = name, flags
            if 'inference' in args.work:
                side, logits = sides.inference(label, module, tree, images, options)
                wanted = logits if wanted is None else wanted
                side.facts['largest_logit'] = float(abs(logits).max())
                side.facts['largest_difference'] = float(abs(logits - wanted).max())
                timed.append(side)
            if 'training' in args.work:
                timed.append(
                    sides.training(label, config, module, tree, images, options)
                )
    if 'timm' in args.baseline:
        shape = args.size, args.batch, args.dtype
        timm = baselines.Timm(config.model, NUM_CLASSES, *shape)
        for work, step in (('inference', timm.infer), ('training', timm.train)):
            if work in args.work:
                timed.append(Side(timm.name, '', work, sides.several(step, timm.wait)))

    width = getattr(config.model, 'hidden_size', 0) or config.model.hidden_dim
    tokens = args.batch * (args.size // config.model.patches.size[0]) ** 2
    peak = MatmulPeak(args.dtype, [(tokens, width, 4 * width)], [*settings.values()])
    for _ in range(args.repeats):
        peak.measure()
        for side in timed:
            side.measure()
    rows = [row(side, args.batch, flops, peak.flops) for side in timed]
    return rows + comparisons(timed)


def row(side: Side, batch: int, flops: int, peak: float) -> dict[str, Any]:
    """Returns what the report says of one side.

    A training step counts as three forward passes, whatever is computed again.
    """
    flops *= 3 if side.work == 'training' else 1
    seconds = statistics.median(side.seconds)
    return {
        'work': side.work,
        'name': side.name,
        'flags': side.flags,
        'images_per_second': batch / seconds,
        'images_per_second_range': [
            batch / max(side.seconds),
            batch / min(side.seconds),
        ],
        'teraflops': flops / seconds / 1e12,
        'peak_share': flops / seconds / peak,
        'matmul_peak_teraflops': peak / 1e12,
        **side.facts,
    }


def comparisons(timed: Sequence[Side]) -> list[dict]:
    """Returns how many times as fast as each baseline we are.

    Ratios are formed within each round, in which every side runs once.
    """

    def ratio(ours: Side, theirs: Side, what: str) -> dict:
        ratios = [b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True)]
        return {
            'comparison': what,
            'work': ours.work,
            'name': theirs.name,
            'ratio': statistics.median(ratios),
            'ratio_range': [min(ratios), max(ratios)],
        }

    def better(found: list[Side]) -> Side:
        return min(found, key=lambda side: statistics.median(side.seconds))

    ours_name, rows = timed[0].name, []
    for name in dict.fromkeys(
        side.name for side in timed[1:] if side.name != ours_name
    ):
        for work in dict.fromkeys(side.work for side in timed):
            ours, theirs = (
                [side for side in timed if (side.name, side.work) == (who, work)]
                for who in (ours_name, name)
            )
            # As a user gets it.
            as_run = ours[-1] if work == 'training' else ours[0]
            rows.append(ratio(as_run, theirs[0], 'as shipped'))
            if len(theirs) > 1:
                pair = better(ours), better(theirs)
                rows.append(ratio(*pair, 'the better flags for each'))
    return rows


def print_model(rows: Sequence[dict]) -> None:
    """Prints the table of `model`."""
    networks = [row for row in rows if 'comparison' not in row]
    print(f'matmul peak {networks[0]["matmul_peak_teraflops"]:.3f} TFLOP/s')
    names = {id(row): f'{row["name"]}, {row["flags"]}'.rstrip(', ') for row in networks}
    width = max(map(len, names.values()))
    for work in dict.fromkeys(row['work'] for row in networks):
        columns = 'images/s  (range)            TFLOP/s  of peak  compile  memory'
        print(f'\n{work:{width}}  {columns}')
        for row in networks:
            if row['work'] == work:
                print(f'{names[id(row)]:{width}}  {cells(row)}')
    if any('comparison' in row for row in rows):
        print('\nhow many times as fast as')
    for row in rows:
        if 'comparison' in row:
            low, high = row['ratio_range']
            what = f'{row["work"]}, {row["name"]}, {row["comparison"]}'
            print(f'{what:45}  {row["ratio"]:.2f} ({low:.2f} to {high:.2f})')
    differences = [row.get('largest_difference', 0) for row in rows]
    print(f'\nlogits differ by at most {max(differences):.1e}')


def cells(row: Mapping[str, Any]) -> str:
    """Returns the numbers of a line in the table of `model`."""
    low, high = row['images_per_second_range']
    found = (
        f'{row["images_per_second"]:8.1f}  {f"({low:.1f} to {high:.1f})":17}'
        f'{row["teraflops"]:8.3f}  {row["peak_share"]:7.0%}'
    )
    if 'compile_seconds' in row:
        memory = row['memory_bytes'] / 2**20
        found += f'  {row["compile_seconds"]:5.1f} s  {memory:,.0f} MiB'
    if calls := row.get('cudnn_attention_calls'):
        found += f'  attention by cuDNN ({calls} calls)'
    return found
