"""What the original's runs saved, written here by flax's own writer."""

import os
import pathlib
import warnings

import jax
import numpy as np
import optax
import pytest
from conftest import forward
from flax import serialization, traverse_util

from vit_jax import checkpoint, models


def make_params(seed=0):
    model = models.get_model('testing', 4)
    images = np.zeros((1, 32, 32, 3), np.float32)
    params = jax.jit(model.init)(jax.random.key(seed), images)['params']
    return model, params


def save(workdir, params, step, with_orbax):
    """Saves the original's tuple with the (deprecated) writer that it uses."""
    from flax import config
    from flax.training import checkpoints

    state = (params, optax.sgd(0.1, 0.9).init(params), step)
    config.update('flax_use_orbax_checkpointing', with_orbax)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            checkpoints.save_checkpoint(str(workdir), state, step, keep=9)
    finally:
        config.update('flax_use_orbax_checkpointing', False)


@pytest.mark.parametrize('with_orbax', [False, True])
def test_loads_as_a_model(tmp_path, with_orbax):
    model, old = make_params(1)
    _, new = make_params(2)
    save(tmp_path, old, 9, with_orbax)
    save(tmp_path, new, 10, with_orbax)  # 10 is newer than 9
    assert (tmp_path / 'checkpoint_10').is_dir() == with_orbax
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype('f')
    for reference, params in (
        (tmp_path, new),
        (tmp_path / 'checkpoint_10', new),
        (tmp_path / 'checkpoint_9', old),
    ):
        loaded, found, card = checkpoint.load_model(reference)
        assert jax.tree.all(jax.tree.map(np.array_equal, found, params))
        assert card.model['model_name'] == 'testing'
        assert card.image_size == (32, 32)
        expected = forward(model, params, images)
        assert np.array_equal(forward(loaded, found, images), expected)


def test_fine_tunes_from_it(tmp_path):
    _, params = make_params()
    save(tmp_path, params, 5, with_orbax=False)
    model = models.get_model('testing', 3)
    init = jax.eval_shape(
        lambda: model.init(jax.random.key(0), np.zeros((1, 48, 48, 3), np.float32))
    )['params']
    found = checkpoint.load_pretrained(
        pretrained_path=tmp_path,
        init_params=init,
        model_config=models.get_config('testing'),
    )
    assert np.array_equal(found['cls'], params['cls'])
    assert found['Transformer']['posembed_input']['pos_embedding'].shape == (1, 10, 10)


def test_published_names_and_group_norms(tmp_path, golden):
    arrays = golden('hybrid_tiny_legacy.npz')
    params = {k[7:]: x for k, x in arrays.items() if k.startswith('params/')}
    tree = traverse_util.unflatten_dict(params, sep='/')
    (tmp_path / 'checkpoint_1').write_bytes(
        serialization.msgpack_serialize({'0': tree, '1': {}, '2': 1})
    )
    np.savez(tmp_path / 'x.npz', **params)
    expected = checkpoint.open(tmp_path / 'x.npz')
    found = checkpoint.open(tmp_path / 'checkpoint_1')
    assert set(found) == set(expected)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize('wrap', [['params'], ['target'], ['opt', 'target'], []])
def test_other_states(tmp_path, wrap):
    _, params = make_params()
    tree = jax.tree.map(np.asarray, params)
    for key in reversed(wrap):
        tree = {key: tree, 'step': 3} if key != wrap[0] or len(wrap) == 1 else {
            key: tree
        }  # fmt: skip
    path = tmp_path / 'state.msgpack'
    path.write_bytes(serialization.msgpack_serialize(tree))
    with checkpoint.open(path) as weights:
        assert np.array_equal(weights['cls'], params['cls'])
        assert weights.shape('cls') == (1, 1, 10)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'not a whole checkpoint'),
        (b'\x00', 'holds no parameters'),
        (serialization.msgpack_serialize({'0': {}}), 'holds no parameters'),
        (serialization.msgpack_serialize({'0': {'a': 'text'}}), 'no array of numbers'),
        (serialization.msgpack_serialize({'a': 1 + 2j}), 'no array of numbers'),
    ],
)
def test_files_without_parameters(tmp_path, content, message):
    (tmp_path / 'checkpoint_1').write_bytes(content)
    with pytest.raises(ValueError, match=message):
        checkpoint.open(tmp_path)


def test_damaged_directory(tmp_path):
    _, params = make_params()
    save(tmp_path, params, 1, with_orbax=True)
    for file in pathlib.Path(tmp_path / 'checkpoint_1').rglob('*'):
        if file.is_file() and file.stat().st_size > 50:
            file.write_bytes(os.urandom(50))
    with pytest.raises(ValueError, match='cannot be read as a checkpoint of Orbax'):
        checkpoint.open(tmp_path)
