import functools
import itertools
import json

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import GOLDEN
from ml_collections import ConfigDict, FrozenConfigDict

from vit_jax import models
from vit_jax.models.vit import REMAT_POLICIES

# Sides and widths that no two axes share.
SMALL = {
    'patches': {'size': (4, 4)},
    'hidden_size': 12,
    'transformer': {
        'num_layers': 3,
        'num_heads': 2,
        'mlp_dim': 20,
        'dropout_rate': 0.0,
        'attention_dropout_rate': 0.0,
    },
}
HYBRID = {
    **SMALL,
    'patches': {'size': (1, 1)},
    'resnet': {'num_layers': (1, 1), 'width_factor': 0.5},
}
IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 12, 20, 3)).astype(np.float32)


def small(**fields):
    return models.from_config(
        SMALL, **{'num_classes': 7, 'head_init': 'lecun_normal', **fields}
    )


def hybrid(**fields):
    return models.from_config(
        HYBRID, **{'num_classes': 7, 'head_init': 'lecun_normal', **fields}
    )


def dropping(rate=0.0, attention_rate=0.0, **fields):
    rates = {'dropout_rate': rate, 'attention_dropout_rate': attention_rate}
    return small(transformer={**SMALL['transformer'], **rates}, **fields)


def initialize(model, shape=IMAGES.shape):
    key, images = jax.random.key(0), jnp.zeros(shape)
    return jax.jit(model.init)(key, images)['params']


@functools.cache
def shapes(model, shape=IMAGES.shape):
    images = jax.ShapeDtypeStruct(shape, np.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)['params']


@functools.cache
def params_of(model, shape=IMAGES.shape):
    """Returns parameters none of which is zero, without compiling model.init."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        mean = 1 if path[-1].key == 'scale' else 0
        return jnp.asarray(rng.normal(mean, 0.2, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes(model, shape))


@functools.partial(jax.jit, static_argnums=0, static_argnames=('train', 'mutable'))
def run(model, params, images, seed=0, train=False, mutable=False):
    """model.apply, compiled: op by op it takes many times longer."""
    # rbg: its masks compile several times faster than threefry's.
    rngs = {'dropout': jax.random.key(seed, impl='rbg')}
    return model.apply(
        {'params': params}, images, train=train, rngs=rngs, mutable=mutable
    )


@functools.partial(jax.jit, static_argnums=0, static_argnames='train')
def gradient(model, params, train=False):
    """Of the sum of the squares of the logits."""

    def loss(params):
        logits = run(model, params, IMAGES, train=train)
        return (logits**2).sum(), logits

    return jax.grad(loss, has_aux=True)(params)


def assert_close(found, expected):
    """Within 1e-5 of the largest expected value of the whole tree.

    Not leaf by leaf: the gradient of the keys' bias is zero but for rounding.
    """
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected))

    def compare(path, a, b):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * scale, err_msg=name)

    jax.tree_util.tree_map_with_path(compare, found, expected)


def flat(tree):
    return flax.traverse_util.flatten_dict(tree, sep='/')


# Against the original.


def golden_model(golden, name):
    config = json.loads((GOLDEN / f'{name}.json').read_text())
    arrays = golden(f'{name}.npz')
    params = {
        key.removeprefix('params/'): array
        for key, array in arrays.items()
        if key.startswith('params/')
    }
    num_classes = config.pop('num_classes')
    del config['kind'], config['image_size']
    params = flax.traverse_util.unflatten_dict(params, sep='/')
    return config, num_classes, params, arrays


@pytest.mark.parametrize('wrap', [dict, ConfigDict, FrozenConfigDict])
@pytest.mark.parametrize(
    'name', ['vit_token', 'vit_token_rep', 'vit_gap', 'hybrid_r50like']
)
def test_equals_the_original(golden, name, wrap):
    config, num_classes, params, arrays = golden_model(golden, name)
    config = {k: wrap(v) if isinstance(v, dict) else v for k, v in config.items()}
    model = models.VisionTransformer(num_classes=num_classes, **config)
    logits = run(model, params, arrays['inputs/images'])
    assert_close(logits, arrays['outputs/logits'])


BLOCK = [
    'LayerNorm_0/bias',
    'LayerNorm_0/scale',
    'LayerNorm_1/bias',
    'LayerNorm_1/scale',
    'MlpBlock_0/Dense_0/bias',
    'MlpBlock_0/Dense_0/kernel',
    'MlpBlock_0/Dense_1/bias',
    'MlpBlock_0/Dense_1/kernel',
    'MultiHeadDotProductAttention_0/key/bias',
    'MultiHeadDotProductAttention_0/key/kernel',
    'MultiHeadDotProductAttention_0/out/bias',
    'MultiHeadDotProductAttention_0/out/kernel',
    'MultiHeadDotProductAttention_0/query/bias',
    'MultiHeadDotProductAttention_0/query/kernel',
    'MultiHeadDotProductAttention_0/value/bias',
    'MultiHeadDotProductAttention_0/value/kernel',
]
TRANSFORMER = [
    'Transformer/posembed_input/pos_embedding',
    'Transformer/encoder_norm/bias',
    'Transformer/encoder_norm/scale',
    *(f'Transformer/encoderblock_{i}/{key}' for i in range(3) for key in BLOCK),
]
AROUND = ['embedding/bias', 'embedding/kernel', 'head/bias', 'head/kernel']
STEM = ['conv_root/kernel', 'gn_root/bias', 'gn_root/scale']
UNIT = [
    'conv1/kernel',
    'conv2/kernel',
    'conv3/kernel',
    'gn1/bias',
    'gn1/scale',
    'gn2/bias',
    'gn2/scale',
    'gn3/bias',
    'gn3/scale',
]
PROJECTION = ['conv_proj/kernel', 'gn_proj/bias', 'gn_proj/scale']
STAGES = [
    *(f'block1/unit1/{key}' for key in [*UNIT, *PROJECTION]),
    *(f'block1/unit2/{key}' for key in UNIT),
    *(f'block2/unit1/{key}' for key in [*UNIT, *PROJECTION]),
]


@pytest.mark.parametrize(
    ('fields', 'expected'),
    [
        ({}, ['cls', *AROUND, *TRANSFORMER]),
        (
            {'representation_size': 5},
            ['cls', 'pre_logits/bias', 'pre_logits/kernel', *AROUND, *TRANSFORMER],
        ),
        ({'classifier': 'gap'}, [*AROUND, *TRANSFORMER]),
        ({'classifier': 'unpooled'}, [*AROUND, *TRANSFORMER]),
        ({'classifier': 'token_unpooled'}, ['cls', *AROUND, *TRANSFORMER]),
        ({'num_classes': 0}, ['cls', *AROUND[:2], *TRANSFORMER]),
        (
            {'resnet': {'num_layers': ()}, 'patches': {'size': (1, 1)}},
            ['cls', *STEM, *AROUND, *TRANSFORMER],
        ),
        (
            {'resnet': {'num_layers': (2, 1)}, 'patches': {'size': (1, 1)}},
            ['cls', *STEM, *STAGES, *AROUND, *TRANSFORMER],
        ),
    ],
)
def test_parameter_names_are_the_published_ones(fields, expected):
    model = small(**fields)
    params = shapes(model)
    assert sorted(flat(params)) == sorted(expected)


def test_parameter_shapes_are_the_published_ones():
    params = flat(shapes(small()))
    block = 'Transformer/encoderblock_2'
    attention = f'{block}/MultiHeadDotProductAttention_0'
    expected = {
        'cls': (1, 1, 12),
        'embedding/kernel': (4, 4, 3, 12),
        'Transformer/posembed_input/pos_embedding': (1, 16, 12),
        f'{attention}/query/kernel': (12, 2, 6),
        f'{attention}/query/bias': (2, 6),
        f'{attention}/out/kernel': (2, 6, 12),
        f'{attention}/out/bias': (12,),
        f'{block}/MlpBlock_0/Dense_0/kernel': (12, 20),
        'head/kernel': (12, 7),
    }
    assert {key: params[key].shape for key in expected} == expected


def test_initial_values_are_the_original_ones():
    one_layer = {'num_layers': 1}  # the others are initialised by the same lines
    model = models.get_model(
        'ViT-Ti_16', num_classes=5, head_bias_init=-10.0, transformer=one_layer
    )
    params = flat(initialize(model, (1, 224, 224, 3)))
    block = 'Transformer/encoderblock_0'
    attention = f'{block}/MultiHeadDotProductAttention_0'
    for key in ['cls', 'head/kernel', 'embedding/bias', f'{attention}/query/bias']:
        assert not params[key].any(), key
    assert (params['head/bias'] == -10).all()

    def deviation(key):
        return float(params[key].std())

    posembed = deviation('Transformer/posembed_input/pos_embedding')
    assert posembed == pytest.approx(0.02, rel=0.05)
    assert deviation(f'{block}/MlpBlock_0/Dense_0/bias') == pytest.approx(1e-6, rel=0.2)
    assert deviation(f'{block}/MlpBlock_0/Dense_1/bias') == pytest.approx(1e-6, rel=0.2)
    # Xavier: variance 2 / (inputs + outputs), heads taken together.
    for key, fan in [
        (f'{attention}/query/kernel', 192 + 192),
        (f'{attention}/out/kernel', 192 + 192),
        (f'{block}/MlpBlock_0/Dense_0/kernel', 192 + 768),
        (f'{block}/MlpBlock_0/Dense_1/kernel', 192 + 768),
    ]:
        assert deviation(key) == pytest.approx((2 / fan) ** 0.5, rel=0.05), key
        limit = (6 / fan) ** 0.5  # uniform
        assert float(np.abs(params[key]).max()) <= limit * 1.001, key


@pytest.mark.parametrize(
    ('head_init', 'deviation'), [('zeros', 0), ('lecun_normal', 12**-0.5)]
)
def test_head_init(head_init, deviation):
    one_layer = {**SMALL['transformer'], 'num_layers': 1}
    model = small(head_init=head_init, num_classes=500, transformer=one_layer)
    kernel = initialize(model)['head']['kernel']
    assert float(kernel.std()) == pytest.approx(deviation, rel=0.1)


# Shapes.


@pytest.mark.parametrize('representation_size', [None, 5])
@pytest.mark.parametrize('num_classes', [7, 0, None])
@pytest.mark.parametrize(
    ('classifier', 'tokens'),
    [('token', ()), ('gap', ()), ('unpooled', (15,)), ('token_unpooled', (16,))],
)
def test_output_shape(classifier, tokens, num_classes, representation_size):
    model = small(
        classifier=classifier,
        num_classes=num_classes,
        representation_size=representation_size,
    )
    output, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), IMAGES)
    assert output.shape == (2, *tokens, num_classes or representation_size or 12)
    assert output.dtype == jnp.float32


def test_classifiers_look_at_the_tokens_they_name():
    images = jnp.asarray(IMAGES)
    unpooled = small(classifier='unpooled', num_classes=0)
    params = params_of(unpooled)
    tokens = run(unpooled, params, images)
    gap = run(small(classifier='gap', num_classes=0), params, images)
    assert_close(gap, tokens.mean(axis=1))

    with_class = small(classifier='token_unpooled', num_classes=0)
    params = params_of(with_class)
    tokens = run(with_class, params, images)
    token = run(small(classifier='token', num_classes=0), params, images)
    assert_close(token, tokens[:, 0])


def test_no_head_gives_what_the_head_sees():
    model = small(representation_size=5)
    params = params_of(model)
    without_head = {k: v for k, v in params.items() if k != 'head'}
    features = run(small(representation_size=5, num_classes=0), without_head, IMAGES)
    head = params['head']
    logits = run(model, params, IMAGES)
    assert_close(features @ head['kernel'] + head['bias'], logits)


@pytest.mark.parametrize('model', [small(classifier='unpooled'), hybrid()])
@pytest.mark.parametrize('size', [(12, 20), (20, 12), (4, 8)])
def test_height_and_width_are_told_apart(model, size):
    images = np.random.default_rng(1).normal(size=(1, *size, 3)).astype(np.float32)
    params = params_of(model, images.shape)
    posembed = params['Transformer']['posembed_input']['pos_embedding']
    rows, columns = models.patch_grid(model, size)
    prefix = models.num_prefix_tokens(model)
    assert posembed.shape == (1, prefix + rows * columns, 12)
    assert bool(np.isfinite(run(model, params, images)).all())


def test_patches_are_tokens_in_row_order():
    model = small(classifier='unpooled', num_classes=0)
    params = params_of(model)

    def embedded(images):
        _, state = run(model, params, images, mutable='intermediates')
        return state['intermediates']['Transformer']['embedded'][0]

    images = np.zeros((1, 12, 20, 3), np.float32)
    changed = images.copy()
    changed[:, 4:8, 12:16] = 1  # row 1, column 3 of 3 x 5 patches
    difference = np.abs(embedded(changed) - embedded(images)).max(axis=(0, 2))
    assert list(difference > 0) == [i == 1 * 5 + 3 for i in range(15)]


@pytest.mark.parametrize('channels', [1, 4])
def test_any_number_of_channels(channels):
    shape = (1, 8, 8, channels)
    assert shapes(small(), shape)['embedding']['kernel'].shape == (4, 4, channels, 12)


# What a user gets wrong.


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'classifier': 'tokens'}, 'classifier .*mean token.*gap, unpooled'),
        ({'head_init': 'ones'}, r"head_init 'ones'\. .*zeros, lecun_normal"),
        ({'remat': 'all'}, "remat 'all'.*none, full, dots"),
        ({'dtype': 'bfloat'}, 'dtype .*mean bfloat16'),
        ({'dtype': np.int32}, "dtype 'int32'.*float32, bfloat16, float16"),
        ({'patches': {'size': 4}}, r'patches.size is 4, expected \(height, width\)'),
        ({'patches': {'sizes': (4, 4)}}, "'sizes'. Did you mean size"),
        ({'patches': (4, 4)}, 'patches is .*expected a mapping with size'),
        ({'hidden_size': 13}, 'hidden_size 13 does not divide into 2 attention heads'),
        ({'transformer': {'num_layers': 1}}, 'transformer lacks num_heads, mlp_dim'),
        (
            {'transformer': {**SMALL['transformer'], 'num_head': 2}},
            "'num_head'. Did you mean num_heads",
        ),
    ],
)
def test_wrong_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        small(**fields)


def test_wrong_images_are_named():
    model = small()
    params = params_of(model)
    with pytest.raises(ValueError, match=r'floats, found uint8.*127\.5'):
        model.apply({'params': params}, np.zeros((1, 12, 20, 3), np.uint8))
    with pytest.raises(ValueError, match=r'cannot take images of 13x20.*12x20, 16x20'):
        model.apply({'params': params}, np.zeros((1, 13, 20, 3), np.float32))
    with pytest.raises(ValueError, match=r'\(1, 16, 12\), but these images make 7 tok'):
        model.apply({'params': params}, np.zeros((1, 8, 12, 3), np.float32))


def test_a_model_is_hashable_and_independent_of_its_config():
    config = models.get_config('testing')
    model = models.from_config(config, num_classes=3)
    same = models.from_config(config, num_classes=3)
    config.transformer.num_layers = 9
    assert model.transformer.num_layers == 1
    assert model == same
    assert hash(model) == hash(same)
    assert model.clone(num_classes=4).num_classes == 4


# The type of the computation.


def operations(jaxpr):
    """Yields all operations of a jaxpr, those of inner jaxprs included."""
    for eqn in jaxpr.eqns:
        yield eqn
        for param in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda x: hasattr(x, 'eqns')
        ):
            inner = getattr(param, 'jaxpr', param)
            if hasattr(inner, 'eqns'):
                yield from operations(inner)


def products(model, params, images):
    """Returns the types of all operands of products in a training step."""

    def loss(params):
        rngs = {'dropout': jax.random.key(1)}
        return model.apply({'params': params}, images, train=True, rngs=rngs).sum()

    jaxpr = jax.make_jaxpr(jax.grad(loss))(params)
    return [
        (str(operand.aval.dtype), operand.aval.shape)
        for eqn in operations(jaxpr.jaxpr)
        if eqn.primitive.name in ('dot_general', 'conv_general_dilated')
        for operand in eqn.invars
    ]


@pytest.mark.parametrize('make', [small, hybrid])
@pytest.mark.parametrize('remat', ['none', 'dots'])
@pytest.mark.parametrize('scan_layers', [False, True])
@pytest.mark.parametrize('dtype', ['bfloat16', jnp.float16])
def test_dtype_reaches_every_layer(make, dtype, remat, scan_layers):
    model = make(
        dtype=dtype, remat=remat, scan_layers=scan_layers, representation_size=5
    )
    params = shapes(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype('float32')}
    found = products(model, params, IMAGES)
    name = np.dtype(dtype).name
    assert len([1 for d, _ in found if d == name]) > 20
    # Only the head: (b r), its kernel (r y), and in its gradient (b y).
    others = {shape for d, shape in found if d != name}
    assert others == {(2, 5), (5, 7), (2, 7)}


@pytest.mark.parametrize('make', [small, hybrid])
def test_half_precision_is_close_and_logits_are_float32(make):
    params = params_of(make())
    expected = run(make(), params, IMAGES)
    logits = run(make(dtype='bfloat16'), params, IMAGES)
    assert logits.dtype == jnp.float32
    # bfloat16 has 8 bits of mantissa: 2**-8 per operation.
    np.testing.assert_allclose(
        logits, expected, rtol=0, atol=0.05 * float(np.abs(expected).max())
    )
    assert float(np.abs(logits - expected).max()) > 0


def test_softmax_is_float32_in_half_precision():
    model = small(dtype='bfloat16')
    params = params_of(model)
    _, state = run(model, params, IMAGES, mutable='intermediates')
    for key, (value,) in flat(state['intermediates']).items():
        is_float32 = key.endswith(('attention_weights', 'features'))
        assert value.dtype == (jnp.float32 if is_float32 else jnp.bfloat16), key


# Features.


@pytest.mark.parametrize('representation_size', [None, 5])
@pytest.mark.parametrize('scan_layers', [False, True])
@pytest.mark.parametrize('remat', ['none', 'full'])
def test_features_come_out_by_name(scan_layers, remat, representation_size):
    model = small(
        scan_layers=scan_layers, remat=remat, representation_size=representation_size
    )
    params = params_of(model)
    expected = run(model, params, IMAGES)
    logits, state = run(model, params, IMAGES, mutable='intermediates')
    assert_close(logits, expected)

    features = flat(models.unstack(state['intermediates']))
    blocks = {}
    for i in range(3):
        block = f'Transformer/encoderblock_{i}'
        attention = f'{block}/MultiHeadDotProductAttention_0/attention_weights'
        blocks |= {f'{block}/tokens': (2, 16, 12), attention: (2, 2, 16, 16)}
        np.testing.assert_allclose(features[attention][0].sum(-1), 1, atol=1e-6)
    assert {key: value[0].shape for key, value in features.items()} == {
        'Transformer/embedded': (2, 16, 12),
        **blocks,
        'Transformer/encoded': (2, 16, 12),
        'pre_logits/features': (2, representation_size or 12),
    }
    if not representation_size:
        (encoded,) = features['Transformer/encoded']
        np.testing.assert_array_equal(features['pre_logits/features'][0], encoded[:, 0])


def test_features_are_no_parameters():
    variables = jax.eval_shape(small().init, jax.random.key(0), IMAGES)
    assert set(variables) == {'params'}


def test_features_cost_nothing_unless_asked_for(monkeypatch):
    model = small()
    params = params_of(model)

    def forward(params, images):
        return model.apply({'params': params}, images)

    def all_features(params, images):
        return model.apply({'params': params}, images, mutable=['intermediates'])

    def measure(function):
        compiled = jax.jit(function).lower(params, IMAGES).compile()
        cost = compiled.cost_analysis()
        text = str(jax.make_jaxpr(function)(params, IMAGES))
        return cost['flops'], cost['bytes accessed'], text

    with_sow = measure(forward)
    assert measure(all_features) != with_sow  # so the measure can tell
    monkeypatch.setattr(nn.Module, 'sow', lambda *args, **kwargs: False)
    jax.clear_caches()
    assert measure(forward) == with_sow


# Dropout.


def test_dropout_needs_train():
    model = dropping(0.5, 0.5)
    params = params_of(model)
    expected = run(dropping(), params, IMAGES)
    assert_close(run(model, params, IMAGES), expected)

    first, again, other = (
        run(model, params, IMAGES, seed=seed, train=True) for seed in [1, 1, 2]
    )
    np.testing.assert_array_equal(first, again)
    assert float(np.abs(first - other).max()) > 0.01
    assert float(np.abs(first - expected).max()) > 0.01


def test_dropout_places(monkeypatch):
    places = []
    original = nn.Dropout.__call__

    def record(self, inputs, *args, **kwargs):
        places.append((self.path[:-1], self.rate, inputs.shape, self.broadcast_dims))
        return original(self, inputs, *args, **kwargs)

    monkeypatch.setattr(nn.Dropout, '__call__', record)
    model = dropping(0.1, 0.2)
    jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    block = ('Transformer', 'encoderblock_1')
    tokens, inner, weights = (2, 16, 12), (2, 16, 20), (2, 2, 16, 16)
    assert [p for p in places if p[0] == ('Transformer',)] == [
        (('Transformer',), 0.1, tokens, ())
    ]
    assert [p for p in places if p[0][:2] == block] == [
        # Not broadcast over heads, or over anything.
        ((*block, 'MultiHeadDotProductAttention_0'), 0.2, weights, ()),
        (block, 0.1, tokens, ()),
        ((*block, 'MlpBlock_0'), 0.1, inner, ()),
        ((*block, 'MlpBlock_0'), 0.1, tokens, ()),
    ]
    assert len(places) == 1 + 3 * 4


@pytest.mark.parametrize('scan_layers', [False, True])
def test_dropout_differs_between_layers(scan_layers, monkeypatch):
    # With everything else zero, a block's mask shows in what it adds.
    model = dropping(0.5, scan_layers=scan_layers)
    params = jax.tree.map(jnp.zeros_like, params_of(model))
    params = models.unstack(params)
    for i in range(3):
        block = params['Transformer'][f'encoderblock_{i}']
        attention = block['MultiHeadDotProductAttention_0']
        attention['out']['bias'] = jnp.ones((12,))
    if scan_layers:
        params = models.stack(params)
    _, state = run(model, params, IMAGES, train=True, mutable='intermediates')
    features = models.unstack(state['intermediates'])['Transformer']
    tokens = [features['embedded'][0]]
    tokens += [features[f'encoderblock_{i}']['tokens'][0] for i in range(3)]
    masks = [np.asarray(b - a) for a, b in itertools.pairwise(tokens)]
    for mask in masks:
        assert set(np.unique(mask)) == {0.0, 2.0}
    for i, j in [(0, 1), (1, 2), (0, 2)]:
        # Independent masks agree in half of their places.
        assert 0.4 < (masks[i] == masks[j]).mean() < 0.6


# Ways to compute the same.


@pytest.mark.parametrize(
    ('make', 'remat', 'scan_layers'),
    [
        (hybrid, 'full', True),
        *((small, remat, scan) for remat in REMAT_POLICIES for scan in [False, True]),
    ],
)
def test_remat_and_scan_change_no_number(make, remat, scan_layers):
    params = params_of(make())
    expected = gradient(make(), params)
    other = make(remat=remat, scan_layers=scan_layers)
    given = models.stack(params) if scan_layers else params
    assert jax.tree.map(jnp.shape, shapes(other)) == jax.tree.map(jnp.shape, given)
    found, logits = gradient(other, given)
    assert_close((models.unstack(found), logits), expected)


@pytest.mark.parametrize('scan_layers', [False, True])
def test_remat_changes_no_mask(scan_layers):
    def of(remat):
        model = dropping(0.3, 0.3, remat=remat, scan_layers=scan_layers)
        params = params_of(small(scan_layers=scan_layers))
        return gradient(model, params, train=True)

    expected = of('none')
    assert_close(of('full'), expected)
    assert_close(of('dots'), expected)


def test_remat_stores_less_and_scan_compiles_one_block():
    def gradient_jaxpr(**fields):
        model = small(**fields)
        params = shapes(model)

        def loss(params):
            return model.apply({'params': params}, IMAGES).sum()

        return jax.make_jaxpr(jax.grad(loss))(params).jaxpr

    def count(jaxpr, *names):
        return sum(eqn.primitive.name in names for eqn in operations(jaxpr))

    # Products that are computed again in the backward pass: 'dots' keeps those with
    # parameters and repeats the two of the attention at most.
    none, dots, full = (
        count(gradient_jaxpr(remat=remat), 'dot_general')
        for remat in ['none', 'dots', 'full']
    )
    assert none <= dots < full
    assert count(gradient_jaxpr(scan_layers=True), 'dot_general') < none / 2


def test_scanned_layers_start_different():
    block = initialize(small(scan_layers=True))['Transformer']['encoderblock']
    kernel = block['MlpBlock_0']['Dense_0']['kernel']
    assert kernel.shape == (3, 12, 20)
    assert float(np.abs(kernel[0] - kernel[1]).max()) > 0.01
    # Xavier of one layer, not of three.
    assert float(np.abs(kernel).max()) <= (6 / (12 + 20)) ** 0.5
