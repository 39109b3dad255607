"""Everything the library can load, in one call."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import GOLDEN, forward
from flax import traverse_util

import vit_jax
from vit_jax import checkpoint, models
from vit_jax.checkpoint.weights import Weights

FIELDS = ('patches', 'transformer', 'hidden_size', 'resnet', 'representation_size')


@pytest.fixture
def run_dir(tmp_path):
    """A finished run: the golden vit_token_rep, and better parameters beside it."""
    content = json.loads((GOLDEN / 'vit_token_rep.json').read_text())
    params = checkpoint.load(GOLDEN / 'vit_token_rep.npz')
    run = tmp_path / 'run'
    checkpoint.save(run / 'model.npz', params)
    params['head']['bias'] = params['head']['bias'] + 1
    checkpoint.save(run / 'model_best.npz', params)
    checkpoint.ModelCard(
        model={k: content[k] for k in FIELDS if k in content},
        num_classes=7,
        image_size=(64, 64),
        class_names=list('abcdefg'),
        resize=70,
        source={'step': 3},
    ).save(run / 'model.json')
    return run


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_run_directory(golden, run_dir):
    arrays = golden('vit_token_rep.npz')
    images, logits = arrays['inputs/images'], arrays['outputs/logits']
    for reference, best in (
        (run_dir, False),
        (str(run_dir), True),
        (run_dir / 'model.npz', False),
        (run_dir / 'model_best.npz', False),
    ):
        model, params, card = vit_jax.load(reference, best=best)
        assert card == checkpoint.ModelCard.load(run_dir / 'model.json')
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))
        shift = best or 'best' in str(reference)
        close(forward(model, params, images), logits + shift)


def test_renamed_pair(golden, run_dir, tmp_path):
    (run_dir / 'model.npz').rename(tmp_path / 'flowers.npz')
    # Without its card, the shapes tell the model, but not the names of the classes.
    model, _, card = checkpoint.load_model(tmp_path / 'flowers.npz')
    assert card.class_names is None
    assert model.representation_size is not None
    (run_dir / 'model.json').rename(tmp_path / 'flowers.json')
    model, params, _ = checkpoint.load_model(tmp_path / 'flowers.npz')
    arrays = golden('vit_token_rep.npz')
    logits = forward(model, params, arrays['inputs/images'])
    close(logits, arrays['outputs/logits'])


def test_features_and_compute_dtype(golden, run_dir):
    images = golden('vit_token_rep.npz')['inputs/images']
    model, params, card = checkpoint.load_model(run_dir, num_classes=0)
    assert 'head' not in params
    assert card.num_classes == 7
    assert forward(model, params, images).shape == (2, 20)
    model, params, _ = checkpoint.load_model(run_dir, num_classes=7, dtype='bfloat16')
    assert model.dtype == jnp.bfloat16
    assert params['head']['kernel'].dtype == jnp.float32
    with pytest.raises(ValueError, match='has 7 classes, not 3'):
        checkpoint.load_model(run_dir, num_classes=3)


def test_card_of_another_model(run_dir):
    path = run_dir / 'model.json'
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {'image_size': [48, 80]}))
    with pytest.raises(ValueError, match='do not belong together'):
        checkpoint.load_model(run_dir)
    path.write_text(json.dumps(content | {'num_classes': 9, 'class_names': None}))
    with pytest.raises(ValueError, match='has 7 classes, the model 9'):
        checkpoint.load_model(run_dir)


def test_run_that_has_not_finished(run_dir):
    (run_dir / 'model.npz').unlink()
    (run_dir / 'run.json').write_text('{}')
    with pytest.raises(ValueError, match='has not finished'):
        checkpoint.load_model(run_dir)


class ShapesAlone(Weights):
    """A file of weights of which nobody reads an array."""

    def __init__(self, path, shapes):
        self.path = path
        self._shapes = shapes

    def __getitem__(self, name):
        raise AssertionError(f'{name} is read')

    def __iter__(self):
        return iter(self._shapes)

    def __len__(self):
        return len(self._shapes)

    def shape(self, name):
        return self._shapes[name].shape

    def dtype(self, name):
        return self._shapes[name].dtype


def published_shapes(name, size, num_classes=3, **fields):
    config = models.get_config(name).to_dict() | fields
    return models.parameter_shapes(config, num_classes, (size, size))


def published(path, name, size, num_classes=3, **fields):
    """Writes random weights of a published architecture; returns them."""
    shapes = published_shapes(name, size, num_classes, **fields)
    rng = np.random.default_rng(0)
    flat = {
        name: rng.normal(size=leaf.shape, scale=0.05).astype('f')
        for name, leaf in shapes.items()
    }
    params = traverse_util.unflatten_dict(flat, sep='/')
    checkpoint.save(path, params)
    return params


@pytest.mark.parametrize(
    ('stem', 'name', 'size', 'fields'),
    [
        ('ViT-Ti_16', 'ViT-Ti_16', 64, {}),
        ('ViT-S_32-224', 'ViT-S_32', 96, {'representation_size': 40}),
        ('Ti_16-i21k-300ep-lr_0.001-aug_none', 'ViT-Ti_16', 48, {'num_classes': 0}),
        # The gsam folder has files without class token under the usual names.
        ('ViT-S_32', 'ViT-S_32', 64, {'classifier': 'gap'}),
        ('R_Ti_16-i1k', 'R+ViT-Ti_16', 96, {}),
    ],
)
def test_published_names_tell_the_model(tmp_path, stem, name, size, fields):
    shapes = published_shapes(name, size, **fields)
    card = checkpoint.card_of(ShapesAlone(tmp_path / f'{stem}.npz', shapes))
    assert card.image_size == (size, size)
    assert card.num_classes == fields.get('num_classes', 3)
    assert card.class_names is None
    model = models.from_config(card.model, num_classes=card.num_classes)
    assert model.representation_size == fields.get('representation_size')
    again = models.parameter_shapes(card.model, card.num_classes, card.image_size)
    assert {n: leaf.shape for n, leaf in again.items()} == {
        n: leaf.shape for n, leaf in shapes.items()
    }


def test_a_file_of_published_size(tmp_path):
    params = published(tmp_path / 'ViT-Ti_16.npz', 'ViT-Ti_16', 64)
    model, loaded, card = vit_jax.load(tmp_path / 'ViT-Ti_16.npz')
    assert (card.image_size, model.num_classes) == ((64, 64), 3)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_name_of_another_architecture(tmp_path):
    published(tmp_path / 'ViT-S_16.npz', 'ViT-Ti_16', 32)
    with pytest.raises(ValueError, match='does not fit the model ViT-S_16') as e:
        checkpoint.load_model(tmp_path / 'ViT-S_16.npz')
    assert 'These look like the weights of ViT-Ti_16' in str(e.value)
    (tmp_path / 'ViT-S_16.npz').rename(tmp_path / 'mine.npz')
    with checkpoint.open(tmp_path / 'mine.npz') as weights:
        assert checkpoint.card_of(weights).model['model_name'] == 'ViT-Ti_16'


def test_weights_that_are_no_vision_transformer(tmp_path):
    np.savez(tmp_path / 'ViT-B_16.npz', a=np.ones(3))
    with pytest.raises(ValueError, match=r'ViT-B_16\.npz: 0 position embeddings'):
        checkpoint.load_model(tmp_path / 'ViT-B_16.npz')
    (tmp_path / 'ViT-B_16.npz').rename(tmp_path / 'mine.npz')
    with pytest.raises(ValueError, match=r'these are not the weights .* is no card'):
        checkpoint.load_model(tmp_path / 'mine.npz')
