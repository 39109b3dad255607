"""Views: that what is shown is what the forward pass computes."""

import numpy as np
import pytest
from tiny_models import GRID, IMAGE_SIZE, MIXER, make_album, make_predictor

from vit_jax import data, models
from vit_jax.checkpoint import ModelCard
from vit_jax.data.datasets.photos import Photos
from vit_jax.inference.predictor import Predictor
from vit_jax.visualize import attention_maps, views

BLOCK = 'Transformer/encoderblock_{}'
WEIGHTS = BLOCK + '/MultiHeadDotProductAttention_0/attention_weights'


@pytest.fixture
def album(tmp_path):
    return make_album(tmp_path)


def all_outputs(predictor: Predictor, source: data.Source) -> dict[str, np.ndarray]:
    names = list(predictor.feature_names())
    parts = list(predictor.outputs(source, names))
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def layer_norm(x: np.ndarray, p: dict) -> np.ndarray:
    x = x - x.mean(axis=-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)
    return x * p['scale'] + p['bias']


def gelu(x: np.ndarray) -> np.ndarray:
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def by_hand(x: np.ndarray, p: dict) -> tuple[np.ndarray, np.ndarray]:
    """Returns the attention weights of a block, and its tokens."""
    y = layer_norm(x, p['LayerNorm_0'])
    attention = p['MultiHeadDotProductAttention_0']
    query, key, value = (
        np.einsum('bnd,dke->bkne', y, attention[name]['kernel'])
        + attention[name]['bias'][:, None]
        for name in ('query', 'key', 'value')
    )
    scores = query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1])
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    out = attention['out']
    x = x + np.einsum('bkne,ked->bnd', weights @ value, out['kernel']) + out['bias']
    first, second = p['MlpBlock_0']['Dense_0'], p['MlpBlock_0']['Dense_1']
    hidden = layer_norm(x, p['LayerNorm_1']) @ first['kernel'] + first['bias']
    return weights, x + gelu(hidden) @ second['kernel'] + second['bias']


@pytest.mark.parametrize('classifier', ['token', 'gap'])
def test_attention_is_that_of_the_forward_pass(album, classifier):
    predictor = make_predictor(classifier=classifier)
    source = Photos(album)
    outputs = all_outputs(predictor, source)
    tokens = outputs['Transformer/embedded']
    every = []
    for i in range(3):
        block = predictor.params['Transformer'][f'encoderblock_{i}']
        block = {
            name: {key: np.asarray(x) for key, x in p.items()}
            if name.startswith('LayerNorm')
            else {
                key: {k: np.asarray(x, np.float64) for k, x in q.items()}
                for key, q in p.items()
            }
            for name, p in block.items()
        }
        weights, tokens = by_hand(tokens.astype(np.float64), block)
        np.testing.assert_allclose(
            outputs[WEIGHTS.format(i)], weights, rtol=1e-4, atol=1e-5
        )
        # The tokens that go on to the next block have gathered by these weights.
        np.testing.assert_allclose(
            outputs[BLOCK.format(i) + '/tokens'], tokens, rtol=1e-3, atol=1e-4
        )
        np.testing.assert_allclose(
            outputs[WEIGHTS.format(i)].sum(axis=-1), 1, rtol=1e-5
        )
        every.append(weights)

    found = views.attention(predictor, source)
    assert found.index.tolist() == list(range(9))
    assert found.patch == (4, 4)
    weights = np.stack(every).astype(np.float32)
    rollout = attention_maps.rollout(weights, GRID)
    np.testing.assert_allclose(found.rollout, rollout, rtol=1e-3, atol=1e-6)
    for layer in range(3):
        distance = attention_maps.mean_distance(weights[layer], GRID, (4, 4))
        np.testing.assert_allclose(found.distance[:, layer], distance, rtol=1e-3)


@pytest.mark.parametrize(('budget', 'batch'), [(1, 32), (150_000, 32), (1 << 30, 8)])
def test_a_small_budget_takes_more_passes_and_gives_the_same(
    album, budget, batch, monkeypatch
):
    predictor = make_predictor()
    expected = views.attention(predictor, Photos(album))
    passes = []
    outputs = predictor.outputs

    def spy(source, names, **options):
        passes.append(names)
        return outputs(source, names, **options)

    monkeypatch.setattr(predictor, 'outputs', spy)
    found = views.attention(predictor, Photos(album), budget=budget, batch=batch)
    np.testing.assert_allclose(found.distance, expected.distance, rtol=1e-5)
    np.testing.assert_allclose(found.rollout, expected.rollout, rtol=1e-5)
    assert len(passes) == {1: 3, 150_000: 2, 1 << 30: 1}[budget]
    # The last layers come first.
    assert WEIGHTS.format(2) in passes[0]


def test_an_image_that_does_not_decode_is_left_out(album):
    predictor = make_predictor()
    expected = views.attention(predictor, Photos(album))
    (album / '4.png').write_bytes(b'no image')
    with pytest.raises(data.UndecodableImage, match=r'4\.png'):
        views.attention(predictor, Photos(album))
    found = views.attention(predictor, Photos(album), skip_corrupt=True)
    assert found.index.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    rest = np.delete(expected.rollout, 4, axis=0)
    np.testing.assert_allclose(found.rollout, rest, rtol=1e-5)
    with pytest.raises(ValueError, match='none of the images decodes'):
        views.attention(predictor, Photos(album / '4.png'), skip_corrupt=True)


def test_more_than_ten_layers_are_in_order():
    layers = views.attention_layers(
        make_predictor(transformer={'num_layers': 11, 'num_heads': 2, 'mlp_dim': 4})
    )
    assert layers == [WEIGHTS.format(i) for i in range(11)]


def test_positions_are_those_of_the_grid():
    predictor = make_predictor()
    found = views.positions(predictor.params, predictor.card)
    assert found.patches.shape == (*GRID, *GRID)
    embedding = predictor.params['Transformer']['posembed_input']['pos_embedding'][0]
    a, b = np.asarray(embedding[0]), np.asarray(embedding[1 + 5 * 1 + 3])
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    np.testing.assert_allclose(found.prefix[0, 1, 3], cosine, rtol=1e-5)
    predictor = make_predictor(classifier='gap')
    assert views.positions(predictor.params, predictor.card).prefix.shape[0] == 0


def test_filters_of_plain_models_hybrids_and_mixers():
    predictor = make_predictor()
    found = views.filters(predictor.params, predictor.card)
    assert (found.layer, found.components.shape) == ('embedding', (12, 4, 4, 3))

    hybrid = make_predictor(
        patches={'size': (1, 1)}, resnet={'num_layers': (1,), 'width_factor': 0.5}
    )
    found = views.filters(hybrid.params, hybrid.card)
    assert (found.layer, found.components.shape) == ('conv_root', (28, 7, 7, 3))
    # Each filter times a number of its own is the same filter when standardised.
    scaled = dict(hybrid.params)
    scale = np.arange(1.0, 33.0, dtype=np.float32)
    scaled['conv_root'] = {'kernel': scaled['conv_root']['kernel'] * scale}
    again = views.filters(scaled, hybrid.card)
    np.testing.assert_allclose(again.components, found.components, atol=1e-3)

    mixer = make_predictor(MIXER)
    assert views.filters(mixer.params, mixer.card).layer == 'stem'


def test_what_a_mixer_has_and_what_it_lacks(album):
    mixer = make_predictor(MIXER)
    found = views.token_mixing(mixer.params, mixer.card)
    assert list(found) == ['MixerBlock_0', 'MixerBlock_1']
    assert found['MixerBlock_0'].shape == (9, *GRID)
    with pytest.raises(views.Absent, match='tiny mixer has no position'):
        views.positions(mixer.params, mixer.card)
    with pytest.raises(views.Absent, match='tiny mixer has no attention'):
        views.attention(mixer, Photos(album))
    vit = make_predictor()
    with pytest.raises(views.Absent, match='tiny does not mix tokens'):
        views.token_mixing(vit.params, vit.card)


@pytest.mark.parametrize('shape', [(90, 160), (160, 90), (14, 30), (61, 60)])
@pytest.mark.parametrize('resize', [None, 8, 16, 40])
def test_the_visible_part_is_what_evaluation_crops(shape, resize):
    # Each pixel tells where it is.
    rows, columns = np.indices(shape).astype(np.float32)
    pixels = np.stack([rows, columns, rows], axis=-1).astype(np.uint8)
    card = ModelCard(
        models.get_config('testing'), 4, IMAGE_SIZE, resize=resize, mean=0, std=1
    )
    part = views.visible_part(pixels, card)

    class One:
        class_names = ()

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return {'image': pixels, 'label': 0, 'name': 'ramp'}

        def fingerprint(self):
            return ''

    (batch,) = data.eval_batches(
        One(), data.Preprocess(IMAGE_SIZE, resize, mean=0, std=1), batch=1
    )
    seen = batch['image'][0]
    for axis, side in enumerate(IMAGE_SIZE):
        # A pixel of the input covers so many of the photo; one between the resize and
        # a crop that enlarges may cover more.
        step = part.shape[axis] / side
        near = 1 + max(step, min(shape) / (resize or np.inf)) / 2
        first, last = seen[..., axis].min(), seen[..., axis].max()
        assert abs(first - (part[..., axis].min() + (step - 1) / 2)) <= near
        assert abs(last - (part[..., axis].max() - (step - 1) / 2)) <= near


@pytest.mark.parametrize('channels', [1, 3])
def test_a_picture_is_in_colour_or_grey(channels):
    params = {'embedding': {'kernel': np.zeros((2, 2, channels, 4))}}
    colour = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    found = views.picture({'image': colour, 'label': 0, 'name': 'x'}, params)
    np.testing.assert_array_equal(found, colour)
    grey = views.picture({'image': colour[..., :1], 'label': 0, 'name': 'x'}, params)
    np.testing.assert_array_equal(grey, colour[..., :1].repeat(3, axis=-1))


def test_a_picture_of_more_channels_is_their_mean():
    params = {'embedding': {'kernel': np.zeros((2, 2, 4, 4))}}
    image = np.arange(16, dtype=np.uint8).reshape(2, 2, 4)
    found = views.picture({'image': image, 'label': 0, 'name': 'x'}, params)
    np.testing.assert_array_equal(found[..., 0], [[1, 5], [9, 13]])
