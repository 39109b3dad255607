"""One step against the original's numbers; devices, accumulation and dispatch."""

import concurrent.futures
import functools
import json
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import GOLDEN, tiny_config
from flax import traverse_util

from vit_jax import config as config_lib
from vit_jax import models, optim
from vit_jax.runtime import sharding
from vit_jax.training import loop
from vit_jax.training import step as train_step
from vit_jax.training.state import Initializer, TrainState


def test_four_steps_of_the_original(golden):
    arrays = golden('finetune_steps.npz')
    start = golden('vit_token.npz')
    facts = json.loads((GOLDEN / 'finetune_steps.json').read_text())
    model_config = json.loads((GOLDEN / 'vit_token.json').read_text())
    fields = {k: v for k, v in model_config.items() if k not in ('kind', 'image_size')}
    model = models.VisionTransformer(**fields)
    params = traverse_util.unflatten_dict(
        {
            name.removeprefix('params/'): jnp.asarray(value)
            for name, value in start.items()
            if name.startswith('params/')
        },
        sep='/',
    )
    config = config_lib.default()
    for key in ('total_steps', 'base_lr', 'decay_type', 'warmup_steps', 'accum_steps'):
        config[key] = facts[key]
    config.grad_norm_clip = facts['clip']
    config.optim_dtype = facts['momentum_dtype']

    optimizer = optim.create_optimizer(config)
    state = TrainState.create(params, optimizer)
    step = train_step.compile_step(config, model, optimizer, state)
    for i, (images, labels) in enumerate(
        zip(arrays['images'], arrays['labels'], strict=True)
    ):
        batch = {
            'image': jnp.asarray(images * 127.5 + 127.5),
            'label': jnp.asarray(labels, jnp.int32),
            'skipped': jnp.zeros(len(labels), jnp.int32),
        }
        state, values = step(state, batch)
        np.testing.assert_allclose(values['loss'], arrays['losses'][i], rtol=1e-5)
    after = traverse_util.flatten_dict(state.params, sep='/')
    expected = {k[6:]: v for k, v in arrays.items() if k.startswith('after/')}
    assert set(after) == set(expected)
    largest = max(np.abs(value).max() for value in expected.values())
    for name, value in expected.items():
        np.testing.assert_allclose(after[name], value, atol=1e-5 * largest, rtol=0)


DROPOUT = {
    'model.transformer.dropout_rate': 0.1,
    'model.transformer.attention_dropout_rate': 0.1,
}
NO_DROPOUT = dict.fromkeys(DROPOUT, 0.0)


@functools.cache
def run(*, devices=8, steps=20, **settings):
    """Returns losses and the final state of a few steps of a tiny model."""
    config = tiny_config('none', batch=16, total_steps=40, warmup_steps=2)
    config.model.head_init = 'lecun_normal'
    config.update_from_flattened_dict(NO_DROPOUT | settings)
    mesh = sharding.make_mesh(config.sharding.fsdp, jax.devices()[:devices])
    optimizer = optim.create_optimizer(config)
    model = models.from_config(
        config.model, num_classes=5, scan_layers=config.scan_layers, remat=config.remat
    )
    state = Initializer(config, 5, optimizer, mesh).state(tuple('abcde'))
    step = train_step.compile_step(config, model, optimizer, state)
    losses = []
    for s in range(steps):
        rng = np.random.default_rng(s)
        batch = {
            'image': rng.integers(0, 256, (config.batch, 16, 16, 3), np.uint8),
            'label': rng.integers(0, 5, config.batch).astype(np.int32),
            'skipped': np.zeros(config.batch, np.int32),
        }
        batch = sharding.to_devices(batch, sharding.batch_sharding(mesh))
        state, values = step(state, batch)
        losses.append(float(values['loss']))
    assert int(state.step) == steps
    return np.array(losses), state


@pytest.mark.parametrize(
    ('optim_dtype', 'fsdp', 'tolerance'),
    # The rounding of a bfloat16 momentum is the larger difference.
    [('float32', 1, 1e-5), ('float32', 2, 1e-5), ('bfloat16', 1, 1e-4)],
)
def test_eight_devices_equal_one(optim_dtype, fsdp, tolerance):
    one, _ = run(devices=1, optim_dtype=optim_dtype, **DROPOUT)
    eight, state = run(optim_dtype=optim_dtype, **DROPOUT, **{'sharding.fsdp': fsdp})
    np.testing.assert_allclose(eight, one, atol=tolerance, rtol=0)
    kernel = state.params['embedding']['kernel']
    assert kernel.size == fsdp * kernel.addressable_shards[0].data.size
    if optim_dtype == 'float32' and fsdp == 1:
        without, _ = run(devices=1, optim_dtype=optim_dtype)
        assert np.abs(without - one).max() > 1e-3  # dropout was on


def test_accumulation_changes_nothing():
    whole, _ = run(steps=5, optim_dtype='float32', batch=32)
    parts, _ = run(steps=5, optim_dtype='float32', batch=32, accum_steps=4)
    np.testing.assert_allclose(parts, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    'settings',
    [
        {},
        DROPOUT,
        {'scan_layers': True, 'remat': 'full', 'sharding.fsdp': 2},
        {'scan_layers': True, 'remat': 'full'},
        {'frozen': 'embedding|encoderblock_0/LayerNorm_0/'},
    ],
)
def test_accumulation_on_eight_devices_equals_one(settings):
    settings = {'optim_dtype': 'float32', 'batch': 32, 'accum_steps': 4} | settings
    one, before = run(devices=1, steps=8, **settings | {'sharding.fsdp': 1})
    eight, after = run(steps=8, **settings)
    np.testing.assert_allclose(eight, one, atol=1e-5, rtol=0)
    for a, b in zip(
        jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=0)


def test_what_draws_random_numbers():
    config = models.get_config('testing')  # with dropout
    images = jnp.zeros((2, 16, 16, 3), jnp.uint8)
    for rate, scan_layers in ((0.0, False), (0.0, True), (0.1, False), (0.1, True)):
        config.transformer.dropout_rate = rate
        config.transformer.attention_dropout_rate = 0.0
        model = models.from_config(config, num_classes=3, scan_layers=scan_layers)
        pixels = train_step.normalize(images)
        params = model.init(jax.random.key(0), pixels, train=False)['params']
        objective = train_step.Objective(model)
        state = STATE.replace(params=params)
        assert objective.draws(state, images) == (rate > 0)


@pytest.mark.parametrize('reduced_once', [False, True])
def test_accumulation_gathers_no_batch(reduced_once):
    """The parts of a batch that is split over devices move between no devices."""
    mesh = sharding.make_mesh()
    rows = sharding.batch_sharding(mesh)
    params = jax.device_put({'w': jnp.ones((12, 3))}, sharding.replicated(mesh))

    def loss_and_grad(params, model_state, batch, rng):
        del rng
        return jax.value_and_grad(
            lambda p: ((batch['image'].reshape(-1, 12) @ p['w']).mean(), model_state),
            has_aux=True,
        )(params)

    batch = {'image': jax.device_put(jnp.ones((32, 2, 2, 3)), rows)}
    step = functools.partial(train_step.accumulate_gradient, loss_and_grad)
    compiled = (
        jax.jit(step, static_argnums=(4, 5))
        .lower(params, {}, batch, jax.random.key(0), 4, mesh if reduced_once else None)
        .compile()
    )
    assert 'all-reduce' in compiled.as_text()
    for collective in ('all-gather', 'all-to-all', 'collective-permute'):
        assert collective not in compiled.as_text()


@pytest.mark.parametrize('remat', ['none', 'full'])
def test_stacked_blocks_and_remat_give_the_same_numbers(remat):
    layers = {'model.transformer.num_layers': 3}
    plain, _ = run(steps=3, optim_dtype='float32', **layers)
    stacked, state = run(
        steps=3, optim_dtype='float32', scan_layers=True, remat=remat, **layers
    )
    np.testing.assert_allclose(stacked, plain, atol=1e-5, rtol=0)
    assert set(state.params['Transformer']) >= {'encoderblock'}


def test_the_first_step_that_is_not_finite_is_remembered():
    _, state = run(steps=6, base_lr=1e30, grad_norm_clip=1e30, warmup_steps=0)
    first = int(state.first_nonfinite)
    assert 0 < first < 6


def test_dropout_depends_on_seed_and_step_alone():
    first, _ = run(steps=3, **DROPOUT)
    again, _ = run.__wrapped__(steps=3, **DROPOUT)
    other, _ = run(steps=3, seed=1, **DROPOUT)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0


class Device:
    """Computes one step after another, in the background, as an accelerator does.

    Args:
        gate: step 0 computes until this is set.
    """

    def __init__(self, gate):
        self._queue = concurrent.futures.ThreadPoolExecutor(1)
        self._gate = gate
        self.opened = None

    def _compute(self, step):
        if step == 0:
            self.opened = self._gate.wait(timeout=30)

    def step_fn(self, state, batch):
        return state, {'loss': Loss(self._queue.submit(self._compute, batch))}


class Loss:
    def __init__(self, future):
        self.future = future

    def block_until_ready(self):
        self.future.result()


STATE = TrainState(0, params=None, opt_state=None, skipped=0, first_nonfinite=-1)


def test_later_steps_are_dispatched_while_one_computes():
    """Step 0 computes until batch MAX_IN_FLIGHT is drawn: who waits for it is stuck."""
    gate = threading.Event()
    device = Device(gate)

    def batches():
        for step in range(10):
            if step == loop.MAX_IN_FLIGHT:
                gate.set()
            yield step

    steps = loop.training_steps(device.step_fn, STATE, batches(), 0, 10)
    assert [step for step, *_ in steps] == list(range(1, 11))
    assert device.opened


def test_the_host_is_a_few_steps_ahead_at_most():
    gate = threading.Event()
    drawn = []

    def batches():
        for step in range(10):
            drawn.append(step)
            yield step

    steps = loop.training_steps(Device(gate).step_fn, STATE, batches(), 0, 10)
    runner = threading.Thread(target=lambda: list(steps))
    runner.start()
    runner.join(timeout=1)
    assert len(drawn) == loop.MAX_IN_FLIGHT + 1  # and there it waits
    gate.set()
    runner.join(timeout=30)
    assert len(drawn) == 10


def test_the_gradient_is_clipped():
    _, state = run(steps=1, grad_norm_clip=1e-6, base_lr=1.0, warmup_steps=0)
    moved = optax.tree.norm(
        jax.tree.map(jnp.subtract, state.params, run(steps=0)[1].params)
    )
    np.testing.assert_allclose(moved, 1e-6, rtol=1e-2)
