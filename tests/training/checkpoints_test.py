"""Checkpoints of a run: which ones stay, what they hold, and what survives a kill."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from jax.sharding import NamedSharding, PartitionSpec

from vit_jax import models
from vit_jax.runtime import sharding
from vit_jax.training.checkpoints import TrainCheckpoints


def make_state(step: int, dtype=jnp.bfloat16):
    """Returns what a checkpoint holds; the numbers differ from step to step."""
    keys = iter(jax.random.split(jax.random.key(step), 10))

    def block():
        return {'kernel': jax.random.normal(next(keys), (8, 4))}

    params = {
        'Transformer': {'encoderblock_0': block(), 'encoderblock_1': block()},
        'head': {'bias': jax.random.normal(next(keys), (3,))},
    }
    optimizer = optax.sgd(0.1, momentum=0.9, accumulator_dtype=dtype)
    opt_state = optimizer.init(params)
    trace = jax.tree.map(lambda p: p.astype(dtype), params)
    opt_state = (opt_state[0]._replace(trace=trace), *opt_state[1:])
    return {'params': params, 'opt_state': opt_state, 'step': jnp.int32(step)}


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def steps(directory) -> set[str]:
    return {path.name for path in directory.iterdir()}


def val(accuracy: float, loss: float = 1.0) -> dict[str, float]:
    return {'accuracy': accuracy, 'loss': loss}


def test_what_is_saved_is_restored_bit_by_bit(tmp_path):
    with TrainCheckpoints(tmp_path / 'c') as checkpoints:
        assert checkpoints.latest_step() is None
        checkpoints.save(3, make_state(3))
    with TrainCheckpoints(tmp_path / 'c') as checkpoints:
        assert checkpoints.latest_step() == 3
        assert_same(checkpoints.restore(3, make_state(0)), make_state(3))


def test_a_relative_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with TrainCheckpoints('c') as checkpoints:
        checkpoints.save(1, make_state(1))
    assert steps(tmp_path / 'c') == {'1'}


def test_the_arrays_may_be_donated_while_they_are_written(tmp_path):
    state = {'params': {'kernel': jnp.arange(1e6)}}
    with TrainCheckpoints(tmp_path / 'c') as checkpoints:
        checkpoints.save(1, state)
        state['params']['kernel'].delete()
        checkpoints.wait()
        like = {'params': {'kernel': jnp.zeros(1_000_000)}}
        kernel = checkpoints.restore(1, like)['params']['kernel']
    np.testing.assert_array_equal(kernel, np.arange(1e6))


def test_the_newest_and_the_best_are_kept(tmp_path):
    accuracies = {2: 0.5, 4: 0.7, 6: 0.7, 8: 0.6}
    with TrainCheckpoints(tmp_path / 'c', keep=2) as checkpoints:
        for step in range(1, 10):
            metrics = val(accuracies[step]) if step in accuracies else None
            checkpoints.save(step, make_state(step), metrics)
        checkpoints.wait()
        assert steps(tmp_path / 'c') == {'4', '8', '9'}
        assert checkpoints.best() == {**val(0.7), 'step': 4}
        assert_same(checkpoints.restore(4, make_state(0)), make_state(4))
    with TrainCheckpoints(tmp_path / 'c', keep=1) as checkpoints:
        assert checkpoints.best() == {**val(0.7), 'step': 4}
        checkpoints.save(10, make_state(10), val(0.8))
        checkpoints.wait()
        assert steps(tmp_path / 'c') == {'10'}
        assert checkpoints.best()['step'] == 10


def test_without_val_the_newest_are_kept(tmp_path):
    for keep in (1, 3):
        directory = tmp_path / str(keep)
        with TrainCheckpoints(directory, keep=keep) as checkpoints:
            for step in range(1, 6):
                checkpoints.save(step, make_state(step))
            checkpoints.wait()
            assert checkpoints.best() is None
        assert steps(directory) == {str(step) for step in range(6 - keep, 6)}


@pytest.mark.parametrize(
    ('metrics', 'better'),
    [
        (val(0.7, 1.0), False),  # equal: the earlier one stays
        (val(0.7, 0.9), True),
        (val(0.7, 1.1), False),
        (val(0.8, 9.0), True),
        (val(0.6, 0.0), False),
    ],
)
def test_better_is_accuracy_then_loss_then_earlier(tmp_path, metrics, better):
    with TrainCheckpoints(tmp_path / 'c', keep=1) as checkpoints:
        assert checkpoints.is_better(0, val(0.0))
        checkpoints.save(2, make_state(2), val(0.7, 1.0))
        assert checkpoints.is_better(4, metrics) == better
        checkpoints.save(4, make_state(4), metrics)
        checkpoints.save(5, make_state(5))
        checkpoints.wait()
        assert checkpoints.best()['step'] == (4 if better else 2)
        assert steps(tmp_path / 'c') == {'4' if better else '2', '5'}
    with TrainCheckpoints(tmp_path / 'c') as checkpoints:
        assert checkpoints.best()['step'] == (4 if better else 2)


def test_files_hold_the_published_layout(tmp_path):
    """Saved stacked or not, restored stacked or not: the same files, the same bits."""
    published = make_state(1)
    stacked = models.stack(published)
    names = {}
    for saved in ('published', 'stacked'):
        state = {'published': published, 'stacked': stacked}[saved]
        with TrainCheckpoints(tmp_path / saved) as checkpoints:
            checkpoints.save(1, state)
            checkpoints.wait()
            found = checkpoints._manager.item_metadata(1)['state']
            names[saved] = set(traverse_util.flatten_dict(found['params'], sep='/'))
            assert_same(checkpoints.restore(1, published), published)
            assert_same(checkpoints.restore(1, stacked), stacked)
    assert names['stacked'] == names['published']
    assert 'Transformer/encoderblock_1/kernel' in names['stacked']


@pytest.mark.parametrize('stack', [False, True])
def test_a_state_is_restored_where_like_says(tmp_path, stack):
    """Saved from 8 devices that each hold all, restored to 2 × 4 that share."""
    state = make_state(1)
    all_of_it = sharding.replicated(sharding.make_mesh())
    with TrainCheckpoints(tmp_path / 'c') as checkpoints:
        checkpoints.save(1, jax.device_put(state, all_of_it))
    wanted = models.stack(state) if stack else state
    mesh = sharding.make_mesh(fsdp=4)
    where = sharding.state_sharding(mesh, wanted)
    like = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), wanted, where
    )
    with TrainCheckpoints(tmp_path / 'c') as checkpoints:
        restored = checkpoints.restore(1, like)
    assert_same(restored, wanted)
    for found, expected in zip(
        jax.tree.leaves(restored), jax.tree.leaves(where), strict=True
    ):
        assert found.sharding == expected
    split = NamedSharding(
        mesh, PartitionSpec(None, 'fsdp') if stack else PartitionSpec('fsdp')
    )
    name = 'encoderblock' if stack else 'encoderblock_0'
    kernel = restored['params']['Transformer'][name]['kernel']
    assert kernel.sharding.is_equivalent_to(split, kernel.ndim)


def test_what_a_killed_run_had_begun_to_write_is_removed(tmp_path):
    with TrainCheckpoints(tmp_path / 'c') as checkpoints:
        checkpoints.save(1, make_state(1))
    begun = tmp_path / 'c' / '2.orbax-checkpoint-tmp' / 'state'
    begun.mkdir(parents=True)
    (begun / 'd').write_text('half')
    with TrainCheckpoints(tmp_path / 'c') as checkpoints:
        assert checkpoints.latest_step() == 1
        checkpoints.save(2, make_state(2))
        checkpoints.wait()
        assert steps(tmp_path / 'c') == {'1', '2'}
        assert_same(checkpoints.restore(2, make_state(0)), make_state(2))


@pytest.mark.parametrize(
    'gone',
    ['metrics', 'metrics/metrics', '_CHECKPOINT_METADATA', 'state', 'state/d', '.'],
)
def test_what_a_killed_run_had_begun_to_remove_does_no_harm(tmp_path, gone):
    """A directory is not removed at once: any of its files may be gone."""
    directory = tmp_path / 'c'
    with TrainCheckpoints(directory) as checkpoints:
        for step, accuracy in ((2, 0.3), (3, 0.2), (4, 0.2)):
            checkpoints.save(step, make_state(step), val(accuracy))
    half = directory / '1'
    shutil.copytree(directory / '3', half)
    if (half / gone).is_dir():
        shutil.rmtree(half / gone)
    else:
        (half / gone).unlink()
    half.mkdir(exist_ok=True)
    with TrainCheckpoints(directory) as checkpoints:
        assert checkpoints.best() == {**val(0.3), 'step': 2}
        assert checkpoints.latest_step() == 4
        assert_same(checkpoints.restore(4, make_state(0)), make_state(4))
        checkpoints.save(5, make_state(5))
        checkpoints.wait()
        assert steps(directory) == {'2', '3', '4', '5'}
