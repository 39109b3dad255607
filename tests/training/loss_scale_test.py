"""float16: gradients that would underflow, steps that overflow, and runs with both."""

import contextlib
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import processes
import pytest
from conftest import tiny_config

from vit_jax import main, models, optim, train
from vit_jax.command_line import recipe as recipe_lib
from vit_jax.forecast import forecast, measure
from vit_jax.forecast import program as program_lib
from vit_jax.runtime import memory, sharding
from vit_jax.training import loop, loss_scale, out_of_memory, plan
from vit_jax.training import step as train_step
from vit_jax.training.checkpoints import TrainCheckpoints
from vit_jax.training.loss_scale import LossScale
from vit_jax.training.state import Initializer

HEAD = '^(?!head/)'
# For gradients of the tiny networks here, which are large: some numbers are above 1.
TOO_LARGE = 2.0**17
SMALL = 2.0**9


def scale_of(scale, finite_steps=0, skipped_steps=0):
    return LossScale(
        jnp.float32(scale), jnp.int32(finite_steps), jnp.int32(skipped_steps)
    )


@pytest.mark.parametrize(
    ('before', 'finite', 'after'),
    [
        ((1024.0, 7, 2), True, (1024.0, 8, 2)),
        ((1024.0, 7, 2), False, (512.0, 0, 3)),
        ((1024.0, loss_scale.INTERVAL - 2, 2), True, (1024.0, 1999, 2)),
        ((1024.0, loss_scale.INTERVAL - 1, 2), True, (2048.0, 0, 2)),
        ((1024.0, loss_scale.INTERVAL - 1, 2), False, (512.0, 0, 3)),
        ((loss_scale.HIGHEST, loss_scale.INTERVAL - 1, 0), True, (2.0**24, 0, 0)),
        ((loss_scale.LOWEST, 7, 2), False, (1.0, 0, 3)),
    ],
)
def test_the_next_scale(before, finite, after):
    found = scale_of(*before).after(jnp.bool_(finite))
    assert tuple(map(float, found)) == after
    assert [x.dtype for x in found] == ['float32', 'int32', 'int32']


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_other_types_have_none(dtype):
    assert loss_scale.first(dtype) is None
    _, state, step, batch = started(dtype=dtype)
    assert 'loss_scale' not in state.to_saved()
    _, values = step(state, batch(0))
    assert set(values) == {'loss', 'grad_norm'}


def started(devices=1, **settings):
    """Returns configuration, state 0, the step and a function from s to batch s."""
    config = tiny_config('none', batch=16, total_steps=40, warmup_steps=0)
    config.model.head_init = 'lecun_normal'
    config.model.transformer.dropout_rate = 0.0
    config.model.transformer.attention_dropout_rate = 0.0
    config.optim_dtype = 'float32'
    config.dtype = 'float16'
    config.update_from_flattened_dict(settings)
    mesh = sharding.make_mesh(config.sharding.fsdp, jax.devices()[:devices])
    optimizer = optim.create_optimizer(config)
    model = models.for_run(config, 5)
    state = Initializer(config, 5, optimizer, mesh).state(tuple('abcde'))

    def batch(s):
        rng = np.random.default_rng(s)
        images = rng.integers(0, 256, (config.batch, 16, 16, 3), np.uint8)
        labels = rng.integers(0, 5, config.batch).astype(np.int32)
        found = {'image': images, 'label': labels, 'skipped': np.zeros_like(labels)}
        return sharding.to_devices(found, sharding.batch_sharding(mesh))

    step = train_step.compile_step(config, model, optimizer, state)
    return config, state, step, batch


def with_scale(state, *scale):
    where = state.loss_scale.scale.sharding
    return state.replace(loss_scale=jax.device_put(scale_of(*scale), where))


def with_head(state, factor):
    head = dict(state.params['head'], kernel=state.params['head']['kernel'] * factor)
    return state.replace(params={**state.params, 'head': head})


def gradient(factor, scale=None, **settings):
    """Returns the first gradient of the patch embedding, and the values of the step."""
    _, state, step, batch = started(grad_norm_clip=1e30, **settings)
    state = with_head(state, factor)
    if scale is not None:
        state = with_scale(state, scale)
    state, values = step(state, batch(0))
    # Momentum begins with the gradient.
    (trace,) = (
        x.trace
        for x in jax.tree.leaves(
            state.opt_state, is_leaf=lambda x: isinstance(x, optax.TraceState)
        )
        if isinstance(x, optax.TraceState)
    )
    return np.asarray(trace['embedding']['kernel']), values


def distance(found, expected):
    """Returns how far arrays are apart, as a part of the expected one's norm."""
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize('accum_steps', [1, 4])
def test_gradients_that_would_underflow_are_right(accum_steps):
    factor = 1e-7
    parts = {'accum_steps': accum_steps}
    expected, _ = gradient(factor, dtype='float32', **parts)
    assert 0 < np.abs(expected).max() < 1e-7
    found, values = gradient(factor, **parts)
    # Two digits: float16 has a rounding of 5e-4, and there are some tens of them.
    assert distance(found, expected) < 1e-2
    assert float(values['loss_scale']) == loss_scale.FIRST
    # That is what the scale does: without it nothing is left of them.
    without, _ = gradient(factor, scale=1.0, **parts)
    assert not without.any()


@pytest.mark.parametrize(
    'settings',
    [
        {},
        {'accum_steps': 4},
        {'optimizer': 'adamw'},
        {'frozen': 'embedding|encoderblock_0/'},
        {'scan_layers': True, 'frozen': 'encoderblock_0/', 'optimizer': 'adamw'},
        {'devices': 8, 'sharding.fsdp': 2, 'remat': 'full', 'scan_layers': True},
        {'layer_decay': 0.5, 'weight_decay': 0.1, 'optim_dtype': 'bfloat16'},
    ],
)
def test_a_step_that_overflows_is_skipped(settings):
    _, state, step, batch = started(**settings)
    state, _ = step(state, batch(0))  # so that there is momentum to be kept
    state = with_scale(with_head(state, 10.0), TOO_LARGE, 5, 1)
    before = jax.tree.map(np.asarray, state)
    state, values = step(state, batch(1))
    assert not np.isfinite(values['grad_norm'])
    assert float(values['loss_scale']) == TOO_LARGE
    assert int(values['skipped_steps']) == 2
    after = jax.tree.map(np.asarray, state)
    assert tuple(after.loss_scale) == (TOO_LARGE / 2, 0, 2)
    assert int(after.step) == 2
    assert int(after.first_nonfinite) == -1
    assert_same(after.params, before.params)

    def schedules(tree):
        found = jax.tree.leaves(tree, is_leaf=is_schedule)
        return [int(x.count) for x in found if is_schedule(x)]

    # The learning rate follows the step; nothing else of the optimizer has moved.
    assert schedules(after.opt_state) == [2]
    assert schedules(before.opt_state) == [1]
    assert_same(without_schedules(after.opt_state), without_schedules(before.opt_state))

    for s in range(2, 22):  # until the scale is small enough
        state, values = step(state, batch(s))
        if np.isfinite(values['grad_norm']):
            break
    assert np.isfinite(values['grad_norm'])
    assert float(state.loss_scale.scale) == TOO_LARGE / 2 ** (s - 1)
    assert int(state.loss_scale.skipped_steps) == s
    assert int(state.first_nonfinite) == -1
    kernel = np.asarray(state.params['head']['kernel'])
    assert np.isfinite(kernel).all()
    assert (kernel != before.params['head']['kernel']).any()


def is_schedule(node):
    return isinstance(node, optax.ScaleByScheduleState)


def without_schedules(tree):
    return jax.tree.map(
        lambda x: None if is_schedule(x) else x, tree, is_leaf=is_schedule
    )


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_the_scale_doubles_after_many_finite_steps():
    _, state, step, batch = started()
    state = with_scale(state, 256.0, loss_scale.INTERVAL - 2)
    scales = []
    for s in range(3):
        state, values = step(state, batch(s))
        scales.append(float(values['loss_scale']))
    assert scales == [256, 256, 512]
    assert tuple(map(float, state.loss_scale)) == (512, 1, 0)


def test_an_overflow_at_the_lowest_scale_is_told():
    _, state, step, batch = started()
    state = with_scale(with_head(state, 1e30), 2.0)
    firsts = []
    for s in range(3):
        state, _ = step(state, batch(s))
        firsts.append(int(state.first_nonfinite))
    # At scale 2 it may be the scale; at 1 it is not. What was first stays.
    assert firsts == [-1, 1, 1]
    assert float(state.loss_scale.scale) == loss_scale.LOWEST
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


def losses(steps=5, **settings):
    # At the usual rate, five steps of so small a network make rounding grow.
    _, state, step, batch = started(base_lr=0.003, **settings)
    state = with_scale(state, SMALL)
    found = []
    for s in range(steps):
        state, values = step(state, batch(s))
        found.append(float(values['loss']))
    assert int(state.loss_scale.skipped_steps) == 0
    return np.array(found)


@pytest.mark.parametrize(
    'settings',
    [
        {'devices': 8},
        {'devices': 8, 'sharding.fsdp': 2},
        {'accum_steps': 4},
        {'devices': 8, 'accum_steps': 2, 'sharding.fsdp': 4},
        {'scan_layers': True, 'remat': 'full'},
    ],
)
def test_devices_parts_and_stacks_agree(settings):
    found, expected = losses(**settings), losses()
    # Gradients are summed in another order, and rounded to float16 (5e-4) before.
    np.testing.assert_allclose(found, expected, rtol=5e-4)
    assert np.abs(np.diff(expected)).min() > 1e-2


def test_the_state_is_written_in_place():
    """Keeping the state of a skipped step takes no second copy of it."""
    _, state, step, batch = started(optimizer='adamw')
    taken = memory.MemoryUse.of(step.lower(state, batch(0)).compile())
    assert taken.aliased >= memory.size(state)


def command(photos, folder, *arguments, run='run', **settings):
    settings = {'model.head_init': 'lecun_normal', 'dtype': 'float16', **settings}
    recipe = processes.write_recipe(folder / f'{run}.py', photos, **settings)
    return ['main', f'--config={recipe}', f'--workdir={folder / run}', *arguments]


def lines_of(run: pathlib.Path):
    def refuse(word):
        raise AssertionError(f'{word} is no JSON')

    lines = (run / 'metrics.jsonl').read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


@pytest.mark.parametrize('first', [SMALL, TOO_LARGE])
def test_a_run_learns_as_in_float32(photos, tmp_path, monkeypatch, first):
    monkeypatch.setattr(loss_scale, 'FIRST', first)
    settings = {'total_steps': 60, 'eval_every': 60, 'checkpoint_every': 0}
    dropout = ('dropout_rate', 'attention_dropout_rate')
    settings |= {f'model.transformer.{rate}': 0.0 for rate in dropout}
    found = {}
    for dtype in ('float32', 'float16'):
        call = command(
            photos, tmp_path, f'--config.dtype={dtype}', run=dtype, **settings
        )
        assert main.main(call) == 0
        found[dtype] = lines_of(tmp_path / dtype)
    whole, half = ([line['loss'] for line in found[d]] for d in found)
    assert half != whole
    assert np.mean(half[-10:]) < 0.5 * half[0]
    last, expected = found['float16'][-1], found['float32'][-1]
    assert last['val_accuracy'] == expected['val_accuracy'] > 0.8
    skipped = int(last['skipped_steps'])
    assert last['loss_scale'] == first / 2**skipped
    if first == SMALL:
        # The same curve: float16 rounds by 5e-4, and sixty steps carry that on.
        np.testing.assert_allclose(half, whole, atol=0.02)
        assert skipped == 0
    else:
        assert 0 < skipped < 10
    assert last['val_loss'] == pytest.approx(expected['val_loss'], abs=0.02)
    assert not {'loss_scale', 'skipped_steps'} & set(expected)
    log = (tmp_path / 'float16' / 'train.log').read_text()
    steps = f'{skipped} steps skipped, ' if skipped else ''
    assert re.search(rf'{steps}[^\n]*loss scale {last["loss_scale"]:.0f}', log)
    assert ', 0 steps skipped' not in log


class DiedError(Exception):
    pass


@contextlib.contextmanager
def dying(last):
    """Lets the run that is started in it die after step `last`."""

    def steps_until(*args):
        for step, *rest in training_steps(*args):
            yield step, *rest
            if step == last:
                raise DiedError

    training_steps = loop.training_steps
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, 'training_steps', steps_until)
        with pytest.raises(DiedError):
            yield


@pytest.fixture
def overflowing(monkeypatch):
    """Lets runs begin with a scale that is too large."""
    monkeypatch.setattr(loss_scale, 'FIRST', TOO_LARGE)


def test_a_run_that_overflows_and_dies_ends_with_the_same_bits(
    photos, tmp_path, overflowing
):
    settings = {'total_steps': 12, 'checkpoint_every': 1, 'eval_every': 6}
    assert main.main(command(photos, tmp_path, run='whole', **settings)) == 0
    whole = lines_of(tmp_path / 'whole')
    skipped = [line['skipped_steps'] for line in whole]
    assert 2 <= skipped[-1] < 10
    assert skipped[0] == 1
    assert 'grad_norm' not in whole[0]
    assert whole[-1]['loss_scale'] == TOO_LARGE / 2 ** skipped[-1]
    rates = [line['learning_rate'] for line in whole]
    assert rates == pytest.approx(
        [
            float(optim.create_learning_rate_schedule(12, 0.03, 'cosine', 1)(s))
            for s in range(12)
        ]
    )

    call = command(photos, tmp_path, run='killed', **settings)
    for last in (1, skipped[-1] + 2):  # after a skipped step, and after finite ones
        with dying(last):
            main.main(call)
    assert main.main(call) == 0

    config = recipe_lib.load_recipe(str(tmp_path / 'whole.py'))
    optimizer, mesh = optim.create_optimizer(config), sharding.make_mesh()
    like = Initializer(config, 3, optimizer, mesh).shapes().to_saved()

    def saved(run):
        with TrainCheckpoints(tmp_path / run / 'checkpoints') as checkpoints:
            return checkpoints.restore(12, like)

    assert_same(saved('killed'), saved('whole'))
    assert float(saved('whole')['loss_scale'].scale) == whole[-1]['loss_scale']
    assert processes.records(tmp_path / 'killed') == processes.records(
        tmp_path / 'whole'
    )


def test_a_run_goes_on_with_stacked_blocks_and_other_devices(
    photos, tmp_path, overflowing
):
    config = tiny_config(photos, dtype='float16', total_steps=10, checkpoint_every=3)
    config.eval_every = 0
    # Stacked blocks draw other masks.
    config.model.transformer.dropout_rate = 0.0
    config.model.transformer.attention_dropout_rate = 0.0
    config.model.head_init = 'lecun_normal'
    whole, summary = train.train_and_evaluate(config, tmp_path / 'whole')

    with dying(4):
        train.train_and_evaluate(config, tmp_path / 'other')
    other = config.copy_and_resolve_references()
    other.scan_layers, other.sharding.fsdp = True, 4
    found, again = train.train_and_evaluate(other, tmp_path / 'other')
    assert again['step'] == summary['step']
    scales = [
        [(line['loss_scale'], line['skipped_steps']) for line in lines_of(run)]
        for run in (tmp_path / 'whole', tmp_path / 'other')
    ]
    assert scales[0] == scales[1]
    assert scales[0][-1][1] > 0
    # Rounding to float16, in another order.
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


@pytest.mark.parametrize(
    ('before', 'now'), [('float32', 'float16'), ('float16', 'float32')]
)
def test_a_run_of_another_type_does_not_go_on(photos, tmp_path, capsys, before, now):
    with dying(2):
        main.main(command(photos, tmp_path, dtype=before, checkpoint_every=1))
    capsys.readouterr()
    assert main.main(command(photos, tmp_path, dtype=now)) == 2
    assert f"config.dtype: '{before}' there, '{now}' now" in capsys.readouterr().err
    # The other way: its model is where another run starts.
    assert main.main(command(photos, tmp_path, dtype=before)) == 0
    weights = str(tmp_path / 'run' / 'model.npz')
    call = command(photos, tmp_path, run='on', dtype=now, pretrained=weights)
    assert main.main(call) == 0


def test_a_run_that_diverges_ends_with_the_error(photos, tmp_path, capsys):
    settings = {'base_lr': 1e30, 'grad_norm_clip': 1e30, 'warmup_steps': 0}
    call = command(
        photos, tmp_path, total_steps=60, checkpoint_every=1, eval_every=0, **settings
    )
    assert main.main(call) == 1
    error = capsys.readouterr().err
    assert 'The loss or a gradient was not finite in step' in error
    assert '--config.dtype=float32 holds more' in error
    lines = lines_of(tmp_path / 'run')
    # Only after the scale had fallen to its lowest.
    assert lines[-1]['loss_scale'] == loss_scale.LOWEST * 2
    with TrainCheckpoints(tmp_path / 'run' / 'checkpoints') as checkpoints:
        assert checkpoints.latest_step() == lines[-1]['step']


def test_a_dry_run(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, '_SECONDS', 0.1)
    monkeypatch.setattr(forecast, '_ENOUGH', 0)
    assert main.main(command(photos, tmp_path, '--dry_run')) == 0
    assert 'it fits' in capsys.readouterr().out
    config = plan.checked(tiny_config(photos, dtype='float16'))
    program = program_lib.Program.of(plan.prepare(config, tmp_path / 'other'))
    state = program.state()
    assert jax.tree.structure(state) == jax.tree.structure(program.shapes)
    assert float(state.loss_scale.scale) == loss_scale.FIRST


@pytest.mark.parametrize(
    ('capability', 'half'),
    [('7.0', 'float16'), ('7.5', 'float16'), ('8.0', 'bfloat16'), ('10.0', 'bfloat16'),
     ('gfx90a', 'bfloat16'), (None, 'bfloat16')],
)  # fmt: skip
def test_the_type_that_saves_memory_is_one_that_the_device_has(
    monkeypatch, capability, half
):
    class Device:
        if capability is not None:
            compute_capability = capability

    monkeypatch.setattr(memory.jax, 'default_backend', lambda: 'gpu')
    monkeypatch.setattr(memory.jax, 'devices', lambda: [Device()])
    (knob,) = (
        knob
        for knob in out_of_memory.knobs(tiny_config('/some/photos'), 8)
        if 'config.dtype' in knob
    )
    assert knob.startswith(f'--config.dtype={half} ')


def test_what_a_run_leaves(photos, tmp_path):
    """The parameters of a float16 run are float32, and are asked in float16."""
    assert main.main(command(photos, tmp_path)) == 0
    from vit_jax.inference.predictor import Predictor

    predictor = Predictor.load(tmp_path / 'run')
    assert predictor.model.dtype == jnp.float16
    leaves = jax.tree.leaves(models.unstack(predictor.params))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype('float32')}
