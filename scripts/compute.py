"""The parts of benchmark.py about the network itself: `model` and `scaling`."""

import argparse
import contextlib
import math
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

# Settings of the compiler that each network is measured with on a CPU: what others get
# who know of no flags, and what our training step is compiled with.
DEFAULT, STEPS = 'default flags', "our step's flags"
NUM_CLASSES = 1000
SECONDS = 0.5  # of a timed run, at least
COLLECTIVES = (
    'all-reduce',
    'all-gather',
    'reduce-scatter',
    'all-to-all',
    'collective-permute',
)


class Side:
    """One thing that is timed: a function that runs steps and waits for the last.

    Args:
        name: of the network.
        flags: of the compiler, a key of CPU_SETTINGS or ''.
        work: 'inference' or 'training'.
        run: takes a number of steps.
        **facts: for the report: compile_seconds, memory_bytes, …
    """

    def __init__(
        self,
        name: str,
        flags: str,
        work: str,
        run: Callable[[int], None],
        **facts: Any,
    ):
        self.name, self.flags, self.work = name, flags, work
        self.run, self.facts = run, facts
        self.seconds: list[float] = []  # of a step, one for each timed run
        run(1)
        self._steps = 1
        # Others may disturb one of them.
        one = min(self._timed() for _ in range(2))
        self._steps = max(1, math.ceil(SECONDS / one))

    def _timed(self) -> float:
        begin = time.perf_counter()
        self.run(self._steps)
        return (time.perf_counter() - begin) / self._steps

    def measure(self) -> None:
        """Adds one timed run."""
        self.seconds.append(self._timed())


class MatmulPeak:
    """Readings of the highest rate of matrix products on the first device.

    Args:
        dtype: of the matrices.
        shapes: (rows, inner, columns) to try besides a large square.
        settings: of the compiler, to try each.
    """

    def __init__(
        self,
        dtype: str,
        shapes: Sequence[tuple[int, int, int]],
        settings: Sequence[Mapping[str, Any]],
    ):
        self.flops = 0.0  # per second, the largest so far
        side = 2048 if jax.default_backend() == 'cpu' else 8192
        self._runs = []
        for n, d, m in {*shapes, (side, side, side)}:
            x, w = jnp.ones((n, d), dtype), jnp.ones((d, m), dtype)
            for options in settings:
                matmul = jax.jit(jnp.matmul, compiler_options=dict(options))
                matmul = matmul.lower(x, w).compile()
                begin = time.perf_counter()
                matmul(x, w).block_until_ready()
                repeats = math.ceil(0.1 / (time.perf_counter() - begin))
                self._runs.append((matmul, x, w, repeats, 2 * n * d * m))

    def measure(self) -> None:
        """Takes one reading of each."""
        for matmul, x, w, repeats, flops in self._runs:
            begin = time.perf_counter()
            for _ in range(repeats):
                y = matmul(x, w)
            y.block_until_ready()
            rate = flops * repeats / (time.perf_counter() - begin)
            self.flops = max(self.flops, rate)


def add_model(parts: argparse._SubParsersAction) -> None:
    """Adds the part `model` to the command line."""
    parser = parts.add_parser(
        'model', help='training step and inference of a network, on fixed batches'
    )
    add_network(parser)
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


def add_network(parser: argparse.ArgumentParser) -> None:
    """Adds what says which network is meant."""
    parser.add_argument('--model', default='ViT-S_16')
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--size', type=int, default=224, help='of the square images')
    parser.add_argument('--dtype', default='float32', help='of the computation')
    parser.add_argument('--scan_layers', action='store_true')
    parser.add_argument('--remat', default='none')
    parser.add_argument('--accum_steps', type=int, default=1)
    parser.add_argument('--attention', default='auto', help='auto, xla or cudnn')


def training_config(args: argparse.Namespace) -> ConfigDict:
    """Returns the configuration of a run whose step is measured."""
    from vit_jax import config as config_lib
    from vit_jax import models

    config = config_lib.default()
    with config.ignore_type():
        config.model = models.get_config(args.model)
        config.pp.crop = args.size
        config.batch, config.accum_steps = args.batch, args.accum_steps
        config.total_steps, config.warmup_steps = 10_000, 0
        config.base_lr = 1e-4
        config.dtype, config.remat = args.dtype, args.remat
        config.scan_layers = args.scan_layers
        config.attention = args.attention
    return config


def network(config: ConfigDict, **fields: Any) -> Any:
    """Returns the module of a training configuration."""
    from vit_jax.training import plan

    model = plan.create_model(config, NUM_CLASSES)
    return model.clone(**fields)


def run_model(args: argparse.Namespace) -> list[dict]:
    """Measures the network and its baselines alternately; returns their rows."""
    import baselines

    from vit_jax import models
    from vit_jax.runtime import compiler

    config = training_config(args)
    model = network(config)
    images = jnp.asarray(
        np.random.default_rng(0).normal(size=(args.batch, args.size, args.size, 3)),
        jnp.float32,
    )
    params = jax.jit(network(config, scan_layers=False).init)(
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

    flops = matmul_flops(
        jax.make_jaxpr(network(config, remat='none').apply)({'params': ours}, images)
    )
    sides, wanted = [], None
    for name, module, tree in networks:
        for flags, options in settings.items():
            label = name, flags
            if 'inference' in args.work:
                side, logits = inference(label, module, tree, images, options)
                wanted = logits if wanted is None else wanted
                side.facts['largest_logit'] = float(abs(logits).max())
                side.facts['largest_difference'] = float(abs(logits - wanted).max())
                sides.append(side)
            if 'training' in args.work:
                sides.append(training(label, config, module, tree, images, options))
    if 'timm' in args.baseline:
        shape = args.size, args.batch, args.dtype
        timm = baselines.Timm(config.model, NUM_CLASSES, *shape)
        for work, step in (('inference', timm.infer), ('training', timm.train)):
            if work in args.work:
                sides.append(Side(timm.name, '', work, several(step, timm.wait)))

    width = getattr(config.model, 'hidden_size', 0) or config.model.hidden_dim
    tokens = args.batch * (args.size // config.model.patches.size[0]) ** 2
    peak = MatmulPeak(args.dtype, [(tokens, width, 4 * width)], [*settings.values()])
    for _ in range(args.repeats):
        peak.measure()
        for side in sides:
            side.measure()
    rows = [row(side, args.batch, flops, peak.flops) for side in sides]
    return rows + comparisons(sides)


def several(step: Callable[[], None], wait: Callable[[], None]) -> Callable:
    """Returns a function that takes so many steps and waits for the device."""

    def run(steps: int) -> None:
        for _ in range(steps):
            step()
        wait()

    return run


def inference(
    label: tuple[str, str],
    model: Any,
    params: Any,
    images: jax.Array,
    options: Mapping[str, Any],
) -> tuple[Side, np.ndarray]:
    """Returns how a compiled model runs, and its logits."""
    begin = time.perf_counter()
    apply = jax.jit(model.apply).lower({'params': params}, images)
    apply = apply.compile(compiler_options=dict(options))
    seconds = time.perf_counter() - begin

    def run(steps: int) -> None:
        for _ in range(steps):
            logits = apply({'params': params}, images)
        logits.block_until_ready()

    facts = {'compile_seconds': seconds, **facts_of(apply)}
    side = Side(*label, 'inference', run, **facts)
    return side, np.asarray(apply({'params': params}, images))


def training(
    label: tuple[str, str],
    config: ConfigDict,
    model: Any,
    params: Any,
    images: jax.Array,
    options: Mapping[str, Any],
) -> Side:
    """Returns how a compiled training step runs, the optimizer's part included."""
    trained = Trained(config, model, params, images.shape)
    begin = time.perf_counter()
    step = trained.compile(options)
    seconds = time.perf_counter() - begin
    facts = {'compile_seconds': seconds, **facts_of(step)}
    return Side(*label, 'training', trained.steps(step), **facts)


class Trained:
    """What a training step takes: a state, and one batch of random pixels.

    Args:
        config: of the run.
        model: None: the run's.
        params: None: new ones. They stay whole.
        shape: of the images; None: the run's.
    """

    def __init__(
        self,
        config: ConfigDict,
        model: Any = None,
        params: Any = None,
        shape: Sequence[int] | None = None,
    ):
        from vit_jax import optim
        from vit_jax.training.state import TrainState

        self.config = config
        self.model = network(config) if model is None else model
        size = config.pp.crop
        shape = shape or (config.batch, size, size, 3)
        if params is None:
            init = jax.jit(self.model.init)
            params = init(jax.random.key(0), jnp.zeros((1, *shape[1:])))['params']
        self.optimizer = optim.create_optimizer(config)
        copy = jax.tree.map(lambda x: x.copy(), params)  # the step takes it
        self.state = TrainState.create(copy, self.optimizer, config.dtype)
        rng = np.random.default_rng(0)
        batch = {
            'image': rng.integers(0, 256, shape, np.uint8),
            'label': rng.integers(0, NUM_CLASSES, shape[0], np.int32),
            'skipped': np.zeros(shape[0], np.int32),
        }
        self.batch = jax.tree.map(jnp.asarray, batch)

    def compile(self, options: Mapping[str, Any] | None = None) -> Any:
        """Returns the step, traced and compiled anew.

        Args:
            options: of the compiler; None: those of our programs.
        """
        from vit_jax.runtime import compiler
        from vit_jax.training import step as train_step

        options = compiler.options() if options is None else options
        with mock.patch.object(compiler, 'options', return_value=options):
            step = train_step.compile_step(
                self.config, self.model, self.optimizer, self.state
            )
        return step.lower(self.state, self.batch).compile()

    def steps(self, step: Any) -> Callable[[int], None]:
        """Returns a function that takes so many compiled steps and waits for them."""

        def run(count: int) -> None:
            for _ in range(count):
                self.state, values = step(self.state, self.batch)
            values['loss'].block_until_ready()
            jax.block_until_ready(self.state.params)

        return run


def facts_of(compiled: Any) -> dict[str, Any]:
    """Returns the memory a program takes, and how often it calls cuDNN's attention."""
    calls = compiled.as_text().count('custom_call_target="__cudnn$fmha')
    return {'memory_bytes': peak_memory(compiled), 'cudnn_attention_calls': calls}


def temporary_memory(compiled: Any) -> int:
    """Returns bytes that a compiled function holds besides arguments and results."""
    return compiled.memory_analysis().temp_size_in_bytes


def peak_memory(compiled: Any) -> int:
    """Returns bytes on the device while a compiled function runs."""
    found = compiled.memory_analysis()
    return (
        found.argument_size_in_bytes
        + found.output_size_in_bytes
        - found.alias_size_in_bytes
        + found.temp_size_in_bytes
    )


def matmul_flops(jaxpr: Any) -> int:
    """Returns the operations of all matrix products and convolutions, executed once.

    Element-wise work does not count, as is usual.
    """
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == 'dot_general':
            ((inner, _), _) = equation.params['dimension_numbers']
            shape = equation.invars[0].aval.shape
            inner = math.prod(shape[axis] for axis in inner)
            total += 2 * inner * equation.outvars[0].aval.size
        elif equation.primitive.name == 'conv_general_dilated':
            kernel = equation.invars[1].aval
            out = equation.params['dimension_numbers'].rhs_spec[0]
            inner = kernel.size // kernel.shape[out]
            total += 2 * inner * equation.outvars[0].aval.size
        times = equation.params.get('length', 1)
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, 'eqns')
        ):
            if hasattr(value, 'eqns'):
                total += times * matmul_flops(value)
    return total


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


def comparisons(sides: Sequence[Side]) -> list[dict]:
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

    ours_name, rows = sides[0].name, []
    for name in dict.fromkeys(
        side.name for side in sides[1:] if side.name != ours_name
    ):
        for work in dict.fromkeys(side.work for side in sides):
            ours, theirs = (
                [side for side in sides if (side.name, side.work) == (who, work)]
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
    sides = [row for row in rows if 'comparison' not in row]
    print(f'matmul peak {sides[0]["matmul_peak_teraflops"]:.3f} TFLOP/s')
    names = {id(row): f'{row["name"]}, {row["flags"]}'.rstrip(', ') for row in sides}
    width = max(map(len, names.values()))
    for work in dict.fromkeys(row['work'] for row in sides):
        columns = 'images/s  (range)            TFLOP/s  of peak  compile  memory'
        print(f'\n{work:{width}}  {columns}')
        for row in sides:
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


def add_scaling(parts: argparse._SubParsersAction) -> None:
    """Adds the part `scaling` to the command line."""
    parser = parts.add_parser(
        'scaling', help='memory per device and collectives of the training step'
    )
    add_network(parser)
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
            config = training_config(args)
            optimizer = optim.create_optimizer(config)
            mesh = sharding.make_mesh(fsdp, jax.devices()[:count])
            state = Initializer(config, NUM_CLASSES, optimizer, mesh).shapes()
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
            step = train_step.compile_step(config, network(config), optimizer, state)
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
                    'peak_bytes': peak_memory(compiled),
                    'collectives': executed_collectives(compiled.as_text()),
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


def executed_collectives(hlo: str) -> dict[str, dict[str, int]]:
    """Returns how often each collective runs and how many bytes it gives, in a step.

    What stands in a loop counts as often as the loop runs: XLA writes down its trip
    count. An asynchronous one counts where it starts.

    Args:
        hlo: the text of a compiled program.
    """
    # Computations are blocks from `[ENTRY] %name (…) -> … {` to `}`, not indented.
    bodies: dict[str, list[str]] = {}
    entry = name = ''
    for text in hlo.splitlines():
        if match := re.match(r'(ENTRY )?%?([\w.\-]+) .*\{$', text):
            name = match[2]
            entry = name if match[1] else entry
            bodies[name] = []
        elif name:
            bodies[name].append(text)
    found: dict[str, dict[str, int]] = {}

    def visit(name: str, times: int) -> None:
        for text in bodies[name]:
            kind = re.search(rf'= (.*?) ({"|".join(COLLECTIVES)})(?:-start)?\(', text)
            if kind:
                kept = found.setdefault(kind[2], {'count': 0, 'bytes': 0})
                kept['count'] += times
                kept['bytes'] += times * hlo_bytes(kind[1])
            trips = 1
            if ' while(' in text:
                known = re.search(r'known_trip_count.{1,12}?"(\d+)"', text)
                trips = int(known[1]) if known else 1
            for attribute in ('body', 'calls', 'to_apply', 'branch_computations'):
                called = re.search(rf'{attribute}=\{{?([^,}}\s]+(?:, %[^,}}]+)*)', text)
                for callee in called[1].split(', ') if called else ():
                    visit(callee.lstrip('%'), times * trips)

    visit(entry, 1)
    return found


def hlo_bytes(shape: str) -> int:
    """Returns the size of an array or tuple as HLO writes it: f32[2,3]{1,0}."""
    total = 0
    for kind, bits, sizes in re.findall(r'\b([a-z]+)(\d+)\w*\[([\d,]*)\]', shape):
        del kind
        sizes = [int(size) for size in sizes.split(',') if size]
        total += math.prod(sizes) * int(bits) // 8
    return total


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
