"""What a run leaves alone, and how fast it lets each layer learn."""

import functools
import json
import re

import jax
import numpy as np
import optax
import pytest
from conftest import tiny_config
from flax import traverse_util

from vit_jax import config as config_lib
from vit_jax import main, models, optim, train
from vit_jax.command_line import recipe
from vit_jax.runtime import sharding
from vit_jax.training import loop
from vit_jax.training import step as train_step
from vit_jax.training.checkpoints import TrainCheckpoints
from vit_jax.training.state import Initializer

HEAD = '^(?!head/)'


def config_of(**settings):
    config = tiny_config('none', batch=16, total_steps=10, warmup_steps=0)
    config.model.transformer.num_layers = 3
    config.model.head_init = 'lecun_normal'
    config.optim_dtype = 'float32'
    # Stacked blocks, and parts of a batch, draw other masks.
    config.model.transformer.dropout_rate = 0.0
    config.model.transformer.attention_dropout_rate = 0.0
    config.update_from_flattened_dict(settings)
    return config


def flat(tree) -> dict[str, np.ndarray]:
    tree = jax.tree.map(np.asarray, models.unstack(tree))
    return traverse_util.flatten_dict(tree, sep='/')


def started(config, devices=1):
    mesh = sharding.make_mesh(config.sharding.fsdp, jax.devices()[:devices])
    optimizer = optim.create_optimizer(config)
    model = models.from_config(
        config.model, num_classes=5, scan_layers=config.scan_layers
    )
    state = Initializer(config, 5, optimizer, mesh).state(tuple('abcde'))
    return mesh, state, train_step.compile_step(config, model, optimizer, state)


def batch_of(config, s: int, mesh):
    rng = np.random.default_rng(s)
    batch = {
        'image': rng.integers(0, 256, (config.batch, 16, 16, 3), np.uint8),
        'label': rng.integers(0, 5, config.batch).astype(np.int32),
        'skipped': np.zeros(config.batch, np.int32),
    }
    return sharding.to_devices(batch, sharding.batch_sharding(mesh))


@functools.cache
def run(steps: int = 3, devices: int = 1, **settings):
    """Returns parameters before and after some steps, by published name, and norms."""
    config = config_of(**settings)
    mesh, state, step = started(config, devices)
    before, norms = flat(state.params), []
    for s in range(steps):
        state, values = step(state, batch_of(config, s, mesh))
        norms.append(float(values['grad_norm']))
    return before, flat(state.params), norms, state


def moved(before, after) -> set[str]:
    return {name for name in before if not np.array_equal(before[name], after[name])}


BOTH = pytest.mark.parametrize('optimizer', ['sgd', 'adamw'])
LAYOUTS = pytest.mark.parametrize('scan_layers', [False, True])


@BOTH
@LAYOUTS
@pytest.mark.parametrize(
    ('frozen', 'expected'),
    [
        (HEAD, {'embedding', 'cls', 'Transformer'}),
        ('embedding|cls', {'embedding', 'posembed_input', 'cls'}),
        ('encoderblock_[01]/', {'encoderblock_0', 'encoderblock_1'}),
    ],
)
def test_frozen_is_what_the_expression_finds(frozen, expected, optimizer, scan_layers):
    """It does not move by a bit, has no state and does not count in the norm."""
    settings = {'optimizer': optimizer, 'weight_decay': 0.1, 'scan_layers': scan_layers}
    before, after, norms, state = run(frozen=frozen, **settings)
    still = set(before) - moved(before, after)
    assert still == {n for n in before if expected & set(n.split('/'))}
    held = sum(x.size for x in jax.tree.leaves(state.opt_state) if x.ndim)
    copies = {'sgd': 1, 'adamw': 2}[optimizer]
    assert held == copies * sum(before[n].size for n in before if n not in still)
    _, _, whole, _ = run(**settings)
    assert 0 < norms[0] < whole[0]


def test_the_norm_is_that_of_what_is_trained():
    """At a rate of 1 and with a large clip, SGD's first update is the gradient."""
    settings = {'base_lr': 1.0, 'grad_norm_clip': 1e9, 'optim_dtype': 'float32'}
    before, after, (norm,), _ = run(steps=1, frozen=HEAD, **settings)
    whole_before, whole_after, _, _ = run(steps=1, **settings)
    squares = 0.0
    for name in ('head/kernel', 'head/bias'):
        update = after[name] - before[name]
        whole = whole_after[name] - whole_before[name]
        np.testing.assert_allclose(update, whole, atol=1e-6)
        squares += (update**2).sum()
    np.testing.assert_allclose(squares**0.5, norm, rtol=1e-5)


@pytest.mark.parametrize('norm_clip', [1e-3, 1e9])
def test_the_update_is_clipped_by_what_is_trained(norm_clip):
    settings = {'base_lr': 1.0, 'optim_dtype': 'float32', 'frozen': HEAD}
    before, after, (norm,), _ = run(steps=1, grad_norm_clip=norm_clip, **settings)
    update = [after[n] - before[n] for n in ('head/kernel', 'head/bias')]
    length = sum((x**2).sum() for x in update) ** 0.5
    np.testing.assert_allclose(length, min(norm, norm_clip), rtol=1e-3)


@LAYOUTS
def test_accumulation_changes_nothing(scan_layers):
    settings = {'frozen': 'encoderblock_[01]/|embedding', 'scan_layers': scan_layers}
    _, whole, *_ = run(**settings)
    before, parts, *_ = run(accum_steps=4, **settings)
    assert moved(before, parts) == {
        n for n in before if not re.search(settings['frozen'], n)
    }
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, atol=1e-6, err_msg=name)


# AdamW makes steps of full length of gradients that are but rounding, as those of the
# keys' biases, on which no output depends.
@pytest.mark.parametrize(
    'settings',
    [
        {'frozen': 'encoderblock_[01]/|embedding'},
        {'layer_decay': 0.5},
        {'frozen': 'encoderblock_2/', 'layer_decay': 0.7},
    ],
)
def test_stacked_blocks_give_the_same_numbers(settings):
    # At larger steps the gradients' norm jumps, and what is rounded otherwise with it.
    settings = {'weight_decay': 0.1, 'base_lr': 0.01, **settings}
    _, after, norms, _ = run(**settings)
    _, stacked, stacked_norms, _ = run(scan_layers=True, **settings)
    np.testing.assert_allclose(norms, stacked_norms, rtol=1e-5)
    for name, value in after.items():
        np.testing.assert_allclose(stacked[name], value, atol=2e-6, err_msg=name)


def test_eight_devices_that_share_parameters():
    settings = {'frozen': 'encoderblock_0/', 'layer_decay': 0.6}
    _, one, norms, _ = run(**settings)
    _, eight, eight_norms, _ = run(devices=8, **{'sharding.fsdp': 4}, **settings)
    np.testing.assert_allclose(norms, eight_norms, rtol=1e-5)
    for name, value in one.items():
        np.testing.assert_allclose(eight[name], value, atol=1e-5, err_msg=name)


def test_each_layer_learns_at_its_rate():
    """The first update of SGD is the gradient times the rate."""
    before, plain, *_ = run(steps=1)
    _, decayed, *_ = run(steps=1, layer_decay=0.5)
    for name in before:
        block = [f'encoderblock_{i}/' in name for i in range(3)]
        if any(block):
            factor = 0.5 ** (3 - block.index(True))
        elif name.startswith(('head/', 'Transformer/encoder_norm/')):
            factor = 1
        else:
            factor = 0.5**4
        np.testing.assert_allclose(
            decayed[name] - before[name],
            factor * (plain[name] - before[name]),
            atol=1e-7,
            err_msg=name,
        )


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('ViT-B_16', {'embedding': 0, 'cls': 0, 'Transformer/encoderblock_11': 12}),
        ('R50+ViT-B_16', {'conv_root': 0, 'block3': 0, 'head': 13}),
        ('Mixer-B_16', {'stem': 0, 'MixerBlock_0': 1, 'pre_head_layer_norm': 13}),
    ],
)
def test_layers_of_published_models(name, expected):
    model = models.get_model(name)
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), 'float32')
    params = jax.eval_shape(
        lambda x: model.init(jax.random.key(0), x, train=False), images
    )['params']
    found = optim.layers(
        traverse_util.flatten_dict(params, sep='/'), models.family_of(model)
    )
    assert max(found.values()) == found['head/kernel'] == 13
    for prefix, layer in expected.items():
        inside = {i for n, i in found.items() if n.startswith(f'{prefix}/')}
        inside |= {i for n, i in found.items() if n == prefix}
        assert inside == {layer}


def flops(**settings) -> float:
    """Returns how many operations the compiled step has."""
    # Wide enough for the products of matrices to be most of them.
    wide = {'model.hidden_size': 64, 'model.transformer.mlp_dim': 128}
    config = config_of(**wide, **settings)
    mesh, state, step = started(config)
    compiled = step.lower(state, batch_of(config, 0, mesh)).compile()
    return compiled.cost_analysis()['flops']


def test_nothing_is_computed_backwards_before_the_first_that_is_trained():
    """Backward is two thirds of a step; two of three blocks are as much of that."""
    whole = flops()
    assert flops(frozen=HEAD) < 0.4 * whole
    first = 'embedding|posembed_input|cls|encoderblock_[01]/'
    assert flops(frozen=first) < 0.65 * whole
    # What is behind the frozen can only be reached through it.
    assert flops(frozen='encoderblock_[12]/') < 0.9 * whole


def test_by_default_the_state_is_what_it_was():
    params = {'head': {'kernel': np.ones((2, 2), np.float32)}}
    config = config_of()
    assert optim.trainable(config, params) is None
    expected = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.sgd(lambda step: 0.1, momentum=0.9, accumulator_dtype='bfloat16'),
    )
    found = optim.create_optimizer(config).init(params)
    assert jax.tree.structure(found) == jax.tree.structure(expected.init(params))
    assert len(jax.tree.leaves(found)) == 2


def test_a_run_from_before_these_keys_goes_on(photos, tmp_path):
    config = tiny_config(photos)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, 'training_steps', stop_after(3))
        with pytest.raises(KeyboardInterrupt):
            train.train_and_evaluate(config, tmp_path / 'run')
    stored = tmp_path / 'run' / 'config.json'
    content = json.loads(stored.read_text())
    for key in ('frozen', 'layer_decay'):
        del content[key]
    stored.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"config\.frozen: '' there, 'cls' now"):
        train.train_and_evaluate(tiny_config(photos, frozen='cls'), tmp_path / 'run')
    _, summary = train.train_and_evaluate(tiny_config(photos), tmp_path / 'run')
    assert summary['step'] == 4


def stop_after(last: int):
    """Returns `training_steps` that a user stops."""
    training_steps = loop.training_steps

    def steps(*args):
        for step, *rest in training_steps(*args):
            yield step, *rest
            if step == last:
                raise KeyboardInterrupt

    return steps


@pytest.mark.parametrize(
    ('optimizer', 'before', 'after'),
    [
        ('sgd', {}, {}),
        ('adamw', {}, {}),
        ('adamw', {'scan_layers': True}, {'scan_layers': True}),
        ('sgd', {'scan_layers': True, 'sharding.fsdp': 2}, {}),
        ('sgd', {}, {'scan_layers': True}),
    ],
)
def test_four_steps_are_two_and_two(photos, tmp_path, optimizer, before, after):
    """Also if blocks are stacked, or parameters split, in one of the halves only."""
    settings = {
        'frozen': 'embedding|encoderblock_0/',
        'layer_decay': 0.7,
        'optimizer': optimizer,
        'model.transformer.num_layers': 2,
        'model.transformer.dropout_rate': 0.0,  # stacked blocks draw other masks
        'model.transformer.attention_dropout_rate': 0.0,
        'model.head_init': 'lecun_normal',
        'warmup_steps': 0,
        'optim_dtype': 'float32',
    }
    how = before if before == after else {}
    whole, _ = train.train_and_evaluate(
        tiny_config(photos, **settings, **how), tmp_path / 'whole'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, 'training_steps', stop_after(2))
        with pytest.raises(KeyboardInterrupt):
            train.train_and_evaluate(
                tiny_config(photos, **settings, **before), tmp_path / 'parts'
            )
    with TrainCheckpoints(tmp_path / 'parts' / 'checkpoints') as checkpoints:
        assert checkpoints.latest_step() in (1, 2)
    parts, _ = train.train_and_evaluate(
        tiny_config(photos, **settings, **after), tmp_path / 'parts'
    )
    whole, parts = flat(whole), flat(parts)
    for name, value in whole.items():
        if before != after:
            np.testing.assert_allclose(parts[name], value, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(parts[name], value, err_msg=name)


@pytest.mark.parametrize(
    ('setting', 'messages'),
    [
        ('frozen=hedd', ["frozen is 'hedd'", 'no parameter', 'Transformer/', 'head']),
        ('frozen=embeding/kernel', ['Did you mean embedding/kernel']),
        ('frozen=.', ['nothing would be trained', '^(?!head/)']),
        ('frozen=^head', ['head/kernel', 'zeros', 'config.keep_head']),
        ('frozen=(', ['no regular expression', 'position 0']),
        ('layer_decay=0', ['layer_decay is 0.0', 'at most 1']),
        ('layer_decay=1.5', ['layer_decay is 1.5', 'at most 1']),
        ('layer_decay=nan', ['layer_decay is nan', 'at most 1']),
    ],
)
def test_bad_input(tmp_path, capsys, setting, messages):
    command = ['vit_jax', '--config=quickstart.py', f'--workdir={tmp_path / "run"}']
    assert main.main([*command, f'--config.{setting}']) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1
    for message in messages:
        assert message in error
    assert not (tmp_path / 'run').exists()


def test_the_command_line_freezes_all_but_the_head():
    command = ['vit_jax', '--config=quickstart.py', '--workdir=x']
    config, _ = recipe.parse([*command, f'--config.frozen={HEAD}'])
    config_lib.check(config)
    names = config_lib.parameter_names(config)
    factors = optim.multipliers(config, names)
    assert {n for n in names if factors[n]} == {'head/kernel', 'head/bias'}
