"""Everything the library can load, in one call."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import GOLDEN

import vit_jax
from vit_jax import checkpoint, models

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
        close(model.apply({'params': params}, images, train=False), logits + shift)


def test_renamed_pair(golden, run_dir, tmp_path):
    (run_dir / 'model.npz').rename(tmp_path / 'flowers.npz')
    # Without its card, the shapes tell the model, but not the names of the classes.
    model, _, card = checkpoint.load_model(tmp_path / 'flowers.npz')
    assert card.class_names is None
    assert model.representation_size is not None
    (run_dir / 'model.json').rename(tmp_path / 'flowers.json')
    model, params, _ = checkpoint.load_model(tmp_path / 'flowers.npz')
    arrays = golden('vit_token_rep.npz')
    logits = model.apply({'params': params}, arrays['inputs/images'], train=False)
    close(logits, arrays['outputs/logits'])


def test_features_and_compute_dtype(golden, run_dir):
    images = golden('vit_token_rep.npz')['inputs/images']
    model, params, card = checkpoint.load_model(run_dir, num_classes=0)
    assert 'head' not in params
    assert card.num_classes == 7
    assert model.apply({'params': params}, images, train=False).shape == (2, 20)
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


def published(path, name, size, num_classes=3, **fields):
    """Writes random weights of a published architecture; returns them."""
    model = models.get_model(name, num_classes=num_classes, **fields)
    shapes = jax.eval_shape(
        lambda x: model.init(jax.random.key(0), x, train=False),
        jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32),
    )['params']
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda s: rng.normal(size=s.shape, scale=0.05).astype('f'), shapes
    )
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
    params = published(tmp_path / f'{stem}.npz', name, size, **fields)
    model, found, card = vit_jax.load(tmp_path / f'{stem}.npz')
    assert card.image_size == (size, size)
    assert card.num_classes == fields.get('num_classes', 3)
    assert card.class_names is None
    assert model.representation_size == fields.get('representation_size')
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_name_of_another_architecture(tmp_path):
    published(tmp_path / 'ViT-S_16.npz', 'ViT-Ti_16', 32)
    with pytest.raises(ValueError, match='does not fit the model ViT-S_16') as e:
        checkpoint.load_model(tmp_path / 'ViT-S_16.npz')
    assert 'These look like the weights of ViT-Ti_16' in str(e.value)
    (tmp_path / 'ViT-S_16.npz').rename(tmp_path / 'mine.npz')
    _, _, card = checkpoint.load_model(tmp_path / 'mine.npz')
    assert card.model['model_name'] == 'ViT-Ti_16'


def test_weights_that_are_no_vision_transformer(tmp_path):
    np.savez(tmp_path / 'ViT-B_16.npz', a=np.ones(3))
    with pytest.raises(ValueError, match=r'ViT-B_16\.npz: 0 position embeddings'):
        checkpoint.load_model(tmp_path / 'ViT-B_16.npz')
    (tmp_path / 'ViT-B_16.npz').rename(tmp_path / 'mine.npz')
    with pytest.raises(ValueError, match=r'these are not the weights .* is no card'):
        checkpoint.load_model(tmp_path / 'mine.npz')
