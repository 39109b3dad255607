"""What every family promises: one contract, whatever the network."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from ml_collections import ConfigDict

from vit_jax import checkpoint, models, optim
from vit_jax.models import Family, shape_trace


class Toy(nn.Module):
    """A convolution and a BatchNorm: a user's own network."""

    num_classes: int
    width: int = 4

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Conv(self.width, (3, 3), strides=2, name='layer_1')(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name='norm')(x))
        return nn.Dense(self.num_classes, name='head')(x.mean(axis=(1, 2)))


class Counting(nn.Module):
    """Has state under a name of its own."""

    num_classes: int

    @nn.compact
    def __call__(self, images, train=False):
        count = self.variable('counts', 'calls', lambda: jnp.zeros(()))
        return nn.Dense(self.num_classes)(images.mean(axis=(1, 2))) + count.value


TOY = Family('Toy', Toy)
COUNTING = Family('Counting', Counting)
NO_RECORD = Toy

# A small configuration of every family; a new one needs a row.
CONFIGS = {
    'vit': {
        'patches': {'size': (4, 4)},
        'hidden_size': 12,
        'transformer': {'num_layers': 3, 'num_heads': 2, 'mlp_dim': 20},
    },
    'hybrid': {
        'patches': {'size': (1, 1)},
        'hidden_size': 12,
        'transformer': {'num_layers': 2, 'num_heads': 3, 'mlp_dim': 20},
        'classifier': 'gap',
        'resnet': {'num_layers': (1, 2), 'width_factor': 0.5},
    },
    'mixer': {
        'patches': {'size': (4, 4)},
        'num_blocks': 3,
        'hidden_dim': 12,
        'tokens_mlp_dim': 5,
        'channels_mlp_dim': 20,
    },
    'toy': {'family': f'{__name__}:TOY', 'width': 8},
}
SIZE = (16, 16)
every_family = pytest.mark.parametrize('name', CONFIGS)


def make(name, **options):
    return models.from_config(CONFIGS[name], num_classes=7, **options)


@functools.cache
def shapes_of(name):
    shapes = models.parameter_shapes(CONFIGS[name], 7, SIZE)
    return {name: leaf.shape for name, leaf in shapes.items()}


@functools.cache
def variables_of(name):
    images = jnp.zeros((1, *SIZE, 3))
    return jax.jit(make(name).init)(jax.random.key(0), images)


def has_facts(name):
    return models.family_of(CONFIGS[name]).facts_of_shapes is not None


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_every_family_is_tested():
    tested = {models.family_of(config) for config in CONFIGS.values()}
    assert tested == {*models.FAMILIES.values(), TOY}
    names = [family.name for family in models.FAMILIES.values()]
    assert len(set(names)) == len(names)


@every_family
def test_a_configuration_makes_its_module(name):
    family, model = models.family_of(CONFIGS[name]), make(name)
    assert type(model) is family.module
    assert models.family_of(model) is family
    # As cards and run directories hold it.
    assert models.family_of(ConfigDict(CONFIGS[name])) is family
    with pytest.raises(ValueError, match='model field'):
        make(name, widht=3)


@every_family
def test_collections_are_those_that_the_family_names(name):
    family = models.family_of(CONFIGS[name])
    variables = variables_of(name)
    assert set(variables) == {'params', *(['batch_stats'] if name == 'toy' else [])}
    assert_equal(models.variables(models.weights(variables)), variables)
    images = np.zeros((2, *SIZE, 3), np.float32)
    logits, state = jax.eval_shape(
        lambda variables, key: make(name).apply(
            variables,
            images,
            train=True,
            rngs={'dropout': key},
            mutable=list(family.state),
        ),
        variables,
        jax.random.key(1),
    )
    assert logits.shape == (2, 7)
    assert set(state) == set(variables) - {'params'}
    shapes = models.weight_shapes(make(name), SIZE)
    weights = models.weights(variables)
    assert jax.tree.map(jnp.shape, weights) == jax.tree.map(jnp.shape, shapes)


@every_family
def test_blocks_are_stacked_and_unstacked(name):
    family, params = models.family_of(CONFIGS[name]), variables_of(name)['params']
    stacked = models.stack(params)
    assert_equal(models.unstack(stacked), params)
    assert_equal(models.unstack(params), params)
    names = traverse_util.flatten_dict(stacked, sep='/')
    assert not any(family.block_of(name) is not None for name in names)
    if family.stems:
        assert len(jax.tree.leaves(stacked)) < len(jax.tree.leaves(params))
        # The network computes with them.
        own = models.weight_shapes(make(name, scan_layers=True), SIZE)
        assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(jnp.shape, own)
    else:
        assert_equal(stacked, params)


@every_family
def test_names_and_shapes(name):
    family, shapes = models.family_of(CONFIGS[name]), shapes_of(name)
    params = traverse_util.flatten_dict(variables_of(name)['params'], sep='/')
    assert shapes == {name: x.shape for name, x in params.items()}
    assert shapes['head/kernel'][1:] == shapes['head/bias'] == (7,)
    kernel = models.input_kernel(shapes)
    if family.input_kernels:
        assert shapes[kernel][2] == 3
        grey = models.parameter_shapes(CONFIGS[name], 7, SIZE, channels=1)
        assert grey[kernel].shape[2] == 1
    for own in (family.position_embedding, family.token_kernel):
        assert not own or any(f'/{name}'.endswith(f'/{own}') for name in shapes)


@every_family
def test_weights_survive_a_file(name, tmp_path):
    params = models.weights(variables_of(name))
    for tree in (params, models.stack(params)):
        checkpoint.save(tmp_path / 'x.npz', tree)
        assert_equal(checkpoint.load(tmp_path / 'x.npz'), params)


@every_family
def test_weights_go_into_another_model(name, tmp_path):
    params = models.weights(variables_of(name))
    checkpoint.save(tmp_path / 'x.npz', params)
    found = checkpoint.load_pretrained(
        pretrained_path=tmp_path / 'x.npz',
        init_params=models.weight_shapes(make(name), SIZE),
        model_config=CONFIGS[name],
        keep_head=True,
    )
    assert_equal(found, params)
    checkpoint.save(tmp_path / 'x.npz', {'a': np.ones(3), 'head': params['head']})
    with pytest.raises(ValueError, match='does not fit the model'):
        checkpoint.load_pretrained(
            pretrained_path=tmp_path / 'x.npz',
            init_params=params,
            model_config=CONFIGS[name],
        )


@every_family
def test_order_of_layers(name):
    family, shapes = models.family_of(CONFIGS[name]), shapes_of(name)
    layers = optim.layers(shapes, family)
    if not family.stems:
        assert set(layers.values()) == {0}
        return
    blocks = {family.block_of(name) for name in shapes} - {None}
    assert blocks == set(range(len(blocks)))
    assert set(layers.values()) == set(range(len(blocks) + 2))
    assert layers['head/kernel'] == len(blocks) + 1
    assert layers[models.input_kernel(shapes)] == 0
    for name, layer in layers.items():
        block = family.block_of(name)
        assert block is None or layer == block + 1


@every_family
def test_grid(name):
    rows, columns = models.patch_grid(CONFIGS[name], SIZE)
    assert (rows, columns) == models.patch_grid(make(name), SIZE)
    assert rows > 0 < columns
    num_patches = models.family_of(CONFIGS[name]).num_patches(shapes_of(name))
    assert num_patches in (0, rows * columns)


@every_family
def test_facts(name):
    family, shapes = models.family_of(CONFIGS[name]), shapes_of(name)
    others = [f for f in models.FAMILIES.values() if f is not family]
    assert not any(other.facts_of_shapes(shapes) for other in others)
    if not has_facts(name):
        assert family.facts_of_config(CONFIGS[name]) == {}
        return
    facts = family.facts_of_shapes(shapes)
    assert facts == family.facts_of_config(CONFIGS[name])
    config = family.refine(family.config_of_facts(facts), shapes)
    assert models.family_of(config) is family
    assert family.facts_of_config(config) == facts
    found = models.parameter_shapes(config, 7, SIZE)
    assert {name: leaf.shape for name, leaf in found.items()} == shapes
    assert checkpoint.architecture.config_of_weights(shapes) == config


@every_family
def test_shape_trace(name):
    summary = shape_trace.summarize(make(name), SIZE)
    params = models.weights(variables_of(name))
    assert summary.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert [row.output for row in summary.layers][-1] == (7,)
    folded = summary.folded()
    assert folded.parameters == summary.parameters
    told = {row.name: row.what for row in summary.layers}
    assert told['head'] == 'logits'
    if models.family_of(CONFIGS[name]).stems:
        assert max(row.repeats for row in folded.layers) > 1


@every_family
def test_what_a_run_asks_of_any_network(name):
    config = ConfigDict(
        {
            'model': CONFIGS[name],
            'dtype': 'float32',
            'remat': 'none',
            'scan_layers': False,
            'attention': 'auto',
        }
    )
    assert models.for_run(config, 7) == make(name)
    fields = models.family_of(config.model).fields()
    for key, value in {
        'dtype': 'bfloat16',
        'remat': 'dots',
        'attention': 'xla',
    }.items():
        changed = config.copy_and_resolve_references()
        changed[key] = value
        if key in fields:
            assert getattr(models.for_run(changed, 7), key) == value
        else:
            with pytest.raises(ValueError, match=f"{key} is '{value}', but the family"):
                models.for_run(changed, 7)


def test_configurations_from_before_there_were_families():
    assert models.family_of({}) is models.FAMILIES['vit']
    assert models.family_of(models.get_config('R50+ViT-B_16')).name == (
        'Vision Transformer'
    )
    assert models.family_of(models.get_config('Mixer-S_8')).name == 'MLP-Mixer'
    config = {**models.get_config('Mixer-S_8'), 'family': 'mixer'}
    assert type(models.from_config(config, num_classes=2)) is models.MlpMixer


@pytest.mark.parametrize(
    ('family', 'message'),
    [
        ('mixr', r'config.model.family is .mixr.*one of vit, mixer, .*mean mixer\?'),
        ('no_such:X', 'there is no module no_such'),
        (f'{__name__}:TOYS', r'has no TOYS. Did you mean Toy'),
        (f'{__name__}:NO_RECORD', 'must be a vit_jax.models.Family'),
    ],
)
def test_an_unknown_family_is_named(family, message):
    with pytest.raises(ValueError, match=message):
        models.from_config({'family': family}, num_classes=2)


def test_state_that_the_family_does_not_name():
    config = {'family': f'{__name__}:COUNTING'}
    model = models.from_config(config, num_classes=2)
    with pytest.raises(ValueError, match=r"makes counts .*state=\('counts',\)"):
        models.weight_shapes(model, SIZE)


def test_a_network_of_no_family_can_be_traced():
    class Nameless(nn.Module):
        @nn.compact
        def __call__(self, images, train=False):
            return nn.Dense(3)(images.reshape(len(images), -1))

    summary = shape_trace.summarize(Nameless(), (2, 3), channels=1)
    assert [(row.name, row.output) for row in summary.layers] == [('Dense_0', (3,))]
    assert dataclasses.replace(summary) == summary.folded()
