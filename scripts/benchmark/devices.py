"""The part `scaling`: memory per device and collectives of the training step."""

import argparse
import contextlib
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from benchmark import programs, sides


def add_parser(parts: argparse._SubParsersAction) -> None:
    """Adds the part `scaling` to the command line."""
    parser = parts.add_parser(
        'scaling', help='memory per device and collectives of the training step'
    )
    sides.add_network(parser)
    parser.add_argument(
        '--devices', type=int, nargs='+', default=[1, 2, 4, 8],
        help='how many; on a CPU they are pretended',
    )  # fmt: skip
    parser.add_argument('--fsdp', type=int, nargs='+', default=[1])
    parser.add_argument('--json', action='store_true')
    parser.set_defaults(run=run_scaling, show=print_scaling)


def run_scaling(args: argparse.Namespace) -> list[dict]:
    """Compiles the step for several meshes; nothing is run."""
    from vit_jax import optim
    from vit_jax.runtime import sharding
    from vit_jax.training import step as train_step
    from vit_jax.training.state import Initializer

    with contextlib.suppress(RuntimeError):  # there are devices already
        jax.config.update('jax_num_cpu_devices', max(args.devices))
    rows = []
    for count in args.devices:
        if count > jax.device_count():
            raise ValueError(
                f'--devices {count}: there are {jax.device_count()} devices here'
            )
        for fsdp in args.fsdp:
            if count % fsdp or args.batch % (count * args.accum_steps):
                continue
            config = sides.training_config(args)
            optimizer = optim.create_optimizer(config)
            mesh = sharding.make_mesh(fsdp, jax.devices()[:count])
            state = Initializer(config, sides.NUM_CLASSES, optimizer, mesh).shapes()
            where = sharding.batch_sharding(mesh)
            shapes = {
                'image': ((args.batch, args.size, args.size, 3), jnp.uint8),
                'label': ((args.batch,), jnp.int32),
                'skipped': ((args.batch,), jnp.int32),
            }
            batch = {
                name: jax.ShapeDtypeStruct(*shape, sharding=where)
                for name, shape in shapes.items()
            }
            begin = time.perf_counter()
            step = train_step.compile_step(
                config, sides.network(config), optimizer, state
            )
            compiled = step.lower(state, batch).compile()
            memory = compiled.memory_analysis()
            total = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
            rows.append(
                {
                    'devices': count,
                    'fsdp': fsdp,
                    'state_bytes': total,
                    'argument_bytes': memory.argument_size_in_bytes,
                    'temporary_bytes': memory.temp_size_in_bytes,
                    'peak_bytes': programs.peak_memory(compiled),
                    'collectives': programs.executed_collectives(compiled.as_text()),
                    'compile_seconds': time.perf_counter() - begin,
                }
            )
    if not rows:
        raise ValueError(
            f'--batch {args.batch} and --fsdp {args.fsdp} fit none of --devices '
            f'{args.devices}: the batch must be a multiple of devices * accum_steps, '
            'the devices one of fsdp'
        )
    return rows


def print_scaling(rows: Sequence[dict]) -> None:
    """Prints the table of `scaling`."""
    print('per device: arguments (state and batch), temporary, in MiB')
    print('devices  fsdp  of the state  arguments  temporary  collectives, one step')
    for row in rows:
        collectives = ', '.join(
            f'{found["count"]} {kind} ({found["bytes"] / 2**20:.1f} MiB)'
            for kind, found in row['collectives'].items()
        )
        print(
            f'{row["devices"]:7}  {row["fsdp"]:4}  '
            f'{row["argument_bytes"] / row["state_bytes"]:12.3f}  '
            f'{row["argument_bytes"] / 2**20:9.1f}  '
            f'{row["temporary_bytes"] / 2**20:9.1f}  {collectives or "none"}'
        )
