"""The shape trace, against the models' parameters and XLA's own count."""

import jax
import jax.numpy as jnp
import pytest

from vit_jax import models
from vit_jax.models import shape_trace

MODELS = [
    ('testing', (48, 32)),
    ('ViT-S_32', (96, 64)),
    ('ViT-S_32-gap-norep', (64, 64)),
    ('R+ViT-Ti_16', (93, 96)),  # the root rounds up: padding
    ('R26+ViT-S_32', (65, 96)),
    ('Mixer-S_32', (64, 96)),
]


def xla(model, image_size):
    """Returns the number of parameters, and XLA's analysis of the cost."""
    image = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
    params = jax.eval_shape(
        lambda x: model.init(jax.random.key(0), x, train=False), image
    )
    forward = jax.jit(lambda p, x: model.apply(p, x, train=False))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return count, forward.lower(params, image).cost_analysis()


@pytest.mark.parametrize(('name', 'size'), MODELS)
def test_totals_are_those_of_the_model_and_of_xla(name, size):
    model = models.get_model(name, 10)
    summary = shape_trace.summarize(model, size)
    parameters, cost = xla(model, size)
    assert summary.parameters == summary.folded().parameters == parameters
    # XLA counts exponentials and their like apart; one is one here.
    low, high = cost['flops'], cost['flops'] + cost['transcendentals']
    assert low * 0.9999 <= summary.flops <= high * 1.0001
    assert summary.folded().flops == summary.flops


@pytest.mark.parametrize(
    'fields',
    [
        {'scan_layers': True},
        {'remat': 'full'},
        {'classifier': 'token_unpooled'},
        {'representation_size': 7},
        {'gelu': 'exact'},
        {'dtype': 'bfloat16'},
    ],
    ids=str,
)
def test_fields_of_the_model(fields):
    transformer = {'num_layers': 3}
    model = models.get_model('testing', 10, transformer=transformer, **fields)
    plain = models.get_model('testing', 10, transformer=transformer)
    summary = shape_trace.summarize(model, (32, 32))
    assert summary.parameters == xla(model, (32, 32))[0]
    assert summary.dtype == fields.get('dtype', 'float32')
    # None of them changes the arithmetic by much; a loop runs three times.
    assert summary.flops == pytest.approx(
        shape_trace.summarize(plain, (32, 32)).flops, rel=0.1
    )


def rows(name, image_size, **fields):
    model = models.get_model(name, 10, **fields)
    summary = shape_trace.summarize(model, image_size).folded()
    return {(row.name, row.what): row for row in summary.layers}


def test_a_vision_transformer_tells_its_story():
    found = rows('ViT-S_32', (96, 64))
    block = 'Transformer/encoderblock_0…11'
    attention = f'{block}/MultiHeadDotProductAttention_0'
    story = [
        ('embedding', 'patches, each embedded', (3, 2, 384)),
        ('cls', 'tokens, the class token first', (7, 384)),
        ('Transformer/posembed_input', 'position embedding added', (7, 384)),
        (f'{block}/LayerNorm_0', '', (7, 384)),
        (f'{attention}/query', 'queries of each head', (7, 6, 64)),
        (f'{attention}/key', 'keys of each head', (7, 6, 64)),
        (f'{attention}/value', 'values of each head', (7, 6, 64)),
        (attention, 'attention of each head', (6, 7, 7)),
        (attention, 'values gathered by each head', (7, 6, 64)),
        (f'{attention}/out', 'heads joined', (7, 384)),
        (block, 'shortcut added', (7, 384)),
        (f'{block}/LayerNorm_1', '', (7, 384)),
        (f'{block}/MlpBlock_0/Dense_0', 'MLP, hidden units', (7, 1536)),
        (f'{block}/MlpBlock_0', 'GELU', (7, 1536)),
        (f'{block}/MlpBlock_0/Dense_1', 'MLP, output', (7, 384)),
        ('Transformer/encoder_norm', 'last LayerNorm', (7, 384)),
        ('', 'class token', (384,)),
        ('head', 'logits', (10,)),
    ]
    # The second shortcut has the name of the first.
    assert [(*key, row.output) for key, row in found.items()] == story
    query = found[f'{attention}/query', 'queries of each head']
    assert query.repeats == 12
    assert query.parameters == 384 * 384 + 384
    assert query.flops == 2 * 7 * 384 * 384 + 7 * 384
    assert query.parameter_bytes == 4 * query.parameters
    assert query.output_bytes == 4 * 7 * 384
    assert found['cls', 'tokens, the class token first'].parameters == 384


def test_other_networks_tell_theirs():
    hybrid = rows('R26+ViT-S_32', (64, 64))
    assert hybrid['conv_root', 'first convolution'].output == (32, 32, 64)
    assert hybrid['', 'ReLU, max pooling'].output == (16, 16, 64)
    assert hybrid['cls', 'tokens, the class token first'].parameters == 384
    assert hybrid['block1/unit1/conv_proj', ''].repeats == 1
    mixer = rows('Mixer-S_32', (64, 96))
    hidden = mixer[
        'MixerBlock_0…7/token_mixing/Dense_0', 'MLP over tokens, hidden units'
    ]
    assert (hidden.output, hidden.repeats) == ((512, 256), 8)
    assert mixer['', 'mean of the tokens'].output == (512,)
    gap = rows('ViT-S_32-gap-norep', (64, 64))
    assert ('cls', 'tokens, the class token first') not in gap
    assert gap['', 'mean of the tokens'].output == (384,)


def test_blocks_that_differ_are_not_folded():
    hybrid = rows('R50+ViT-B_16', (64, 64))
    names = [name for name, _ in hybrid]
    assert 'block1/unit1/conv1' in names
    assert hybrid['block1/unit2…3/conv1', ''].repeats == 2
    assert hybrid['block3/unit2…9/conv1', ''].repeats == 8


def test_bytes_follow_the_dtype():
    (float32,) = {r.output_bytes for k, r in rows('testing', (32, 32)).items()
        if k[0] == 'embedding'}  # fmt: skip
    (half,) = {r.output_bytes for k, r in rows('testing', (32, 32),
        dtype='bfloat16').items() if k[0] == 'embedding'}  # fmt: skip
    assert float32 == 2 * half == 4 * 2 * 2 * 10


def test_a_convolution_counts_pixels_and_not_padding():
    def conv(padding, stride=1, groups=1):
        jaxpr = jax.make_jaxpr(
            lambda x, k: jax.lax.conv_general_dilated(
                x, k, (stride, stride), padding, feature_group_count=groups,
                dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
            )
        )(jnp.ones((1, 5, 5, 4)), jnp.ones((3, 3, 4 // groups, 6)))  # fmt: skip
        return shape_trace.operations(jaxpr.eqns[0])

    assert conv('VALID') == 2 * (3 * 3) * (3 * 3) * 4 * 6
    # Of three positions under the kernel, the first and last pixel have two.
    assert conv('SAME') == 2 * (3 * 5 - 2) ** 2 * 4 * 6
    assert conv('SAME', stride=2) == 2 * (3 * 3 - 2) ** 2 * 4 * 6
    assert conv('VALID', groups=2) == 2 * (3 * 3) * (3 * 3) * 2 * 6


def test_a_size_that_the_model_does_not_take():
    with pytest.raises(ValueError, match='nearest sizes'):
        shape_trace.summarize(models.get_model('b16'), (100, 100))
