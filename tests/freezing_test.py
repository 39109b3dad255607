"""What a run leaves alone, and how fast it lets each layer learn."""

import functools

import jax
import numpy as np
import pytest
from conftest import tiny_config
from flax import traverse_util

from vit_jax import main as main_lib
from vit_jax import models, optim, sharding, train, train_step
from vit_jax.train_state import Initializer

HEAD = '^(?!head/)'


def config_of(**settings):
    config = tiny_config('none', batch=16, total_steps=10, warmup_steps=0)
    config.optim_dtype = 'float32'
    # Stacked blocks draw other masks.
    config.model.transformer.dropout_rate = 0.0
    config.model.transformer.attention_dropout_rate = 0.0
    config.model.transformer.num_layers = 3
    config.model.head_init = 'lecun_normal'
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
def test_the_head_alone(optimizer, scan_layers):
    settings = {'optimizer': optimizer, 'weight_decay': 0.1, 'scan_layers': scan_layers}
    before, after, norms, state = run(frozen=HEAD, **settings)
    assert moved(before, after) == {'head/kernel', 'head/bias'}
    # There is state for the head alone, and the norm is that of its gradient.
    sizes = [x.size for x in jax.tree.leaves(state.opt_state) if x.ndim]
    copies = 1 if optimizer == 'sgd' else 2
    head = sum(after[name].size for name in ('head/kernel', 'head/bias'))
    assert sum(sizes) == copies * head
    *_, whole, _ = run(steps=1, **settings)
    assert 0 < norms[0] < whole[0]


@BOTH
@LAYOUTS
@pytest.mark.parametrize(
    ('frozen', 'expected'),
    [
        ('embedding|posembed|cls', {'embedding', 'posembed_input', 'cls'}),
        ('encoderblock_[01]/', {'encoderblock_0', 'encoderblock_1'}),
    ],
)
def test_frozen_is_what_the_expression_finds(frozen, expected, optimizer, scan_layers):
    before, after, *_ = run(
        frozen=frozen, optimizer=optimizer, weight_decay=0.1, scan_layers=scan_layers
    )
    still = set(before) - moved(before, after)
    assert still == {n for n in before if expected & set(n.split('/'))}


# With SGD: AdamW makes steps of full length of gradients that are but rounding, as
# those of the keys' biases, which no output depends on.
@pytest.mark.parametrize(
    'settings',
    [
        {'frozen': 'encoderblock_[01]/|embedding'},
        {'layer_decay': 0.5},
        {'frozen': 'encoderblock_2/', 'layer_decay': 0.7},
    ],
)
def test_stacked_blocks_give_the_same_numbers(settings):
    settings = {'weight_decay': 0.1, **settings}
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
    found = optim.layers(traverse_util.flatten_dict(params, sep='/'))
    assert max(found.values()) == found['head/kernel'] == 13
    for prefix, layer in expected.items():
        inside = {i for n, i in found.items() if n.startswith(f'{prefix}/')}
        inside |= {i for n, i in found.items() if n == prefix}
        assert inside == {layer}


def test_nothing_is_computed_for_what_is_frozen():
    """Backward takes twice the operations of forward, and the head hardly any."""

    def flops(**settings):
        config = config_of(**settings)
        mesh, state, step = started(config)
        compiled = step.lower(state, batch_of(config, 0, mesh)).compile()
        return compiled.cost_analysis()['flops']

    whole, head = flops(), flops(frozen=HEAD)
    assert head < 0.45 * whole
    assert (
        flops(frozen='embedding|posembed_input|cls|encoderblock_[01]/') < 0.75 * whole
    )


def test_by_default_nothing_changes():
    config = config_of()
    state = optim.create_optimizer(config).init({'head': {'kernel': np.ones((2, 2))}})
    assert optim.multipliers(config, {}) is None
    names = [type(part).__name__ for part in jax.tree.leaves(
        state, is_leaf=lambda x: hasattr(x, '_fields'))]  # fmt: skip
    assert 'PartitionState' not in names


@pytest.mark.parametrize('optimizer', ['sgd', 'adamw'])
@pytest.mark.parametrize('stacked', [(False, False), (True, True), (False, True)])
def test_a_run_that_is_continued(photos, tmp_path, optimizer, stacked):
    """Also with blocks stacked before and not after."""
    settings = {
        'frozen': 'embedding|encoderblock_0/',
        'layer_decay': 0.7,
        'optimizer': optimizer,
        'checkpoint_every': 2,
        'optim_dtype': 'float32',
        'model.transformer.dropout_rate': 0.0,
        'model.transformer.attention_dropout_rate': 0.0,
    }
    whole, _ = train.train_and_evaluate(
        tiny_config(photos, **settings), tmp_path / 'whole'
    )
    config = tiny_config(photos, **settings, scan_layers=stacked[0])
    with pytest.MonkeyPatch.context() as patch:

        def stop(steps):
            for step, *rest in steps:
                yield step, *rest
                if step == 3:
                    raise KeyboardInterrupt

        real = train.training_steps
        patch.setattr(train, 'training_steps', lambda *a: stop(real(*a)))
        with pytest.raises(KeyboardInterrupt):
            train.train_and_evaluate(config, tmp_path / 'parts')
    config = tiny_config(photos, **settings, scan_layers=stacked[1])
    parts, _ = train.train_and_evaluate(config, tmp_path / 'parts')
    whole, parts = flat(whole), flat(parts)
    for name, value in whole.items():
        if stacked == (False, False):
            np.testing.assert_array_equal(parts[name], value)
        else:
            np.testing.assert_allclose(parts[name], value, atol=1e-5)


@pytest.mark.parametrize(
    ('setting', 'messages'),
    [
        ('frozen=hedd', ["frozen is 'hedd'", 'no name of a parameter', 'embedding/']),
        ('frozen=.', ['nothing would be trained', '^(?!head/)']),
        ('frozen=(', ['no regular expression', 'position 0']),
        ('layer_decay=0', ['layer_decay is 0.0', 'at most 1']),
        ('layer_decay=1.5', ['layer_decay is 1.5', 'at most 1']),
    ],
)
def test_bad_input(tmp_path, monkeypatch, capsys, setting, messages):
    command = ['vit_jax', '--config=quickstart.py', f'--workdir={tmp_path / "run"}']
    assert main_lib.main([*command, f'--config.{setting}']) == 2
    error = capsys.readouterr().err
    for message in messages:
        assert message in error
    assert not (tmp_path / 'run' / 'checkpoints').exists() or not any(
        (tmp_path / 'run' / 'checkpoints').iterdir()
    )
