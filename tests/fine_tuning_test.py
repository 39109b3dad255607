"""One call fine-tunes and gives back a model that can be asked."""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_photos, tiny_config
from PIL import Image

import vit_jax
from vit_jax import checkpoint, data, evaluate, train

SETTINGS = {
    'total_steps': 4,
    'batch': 8,
    'accum_steps': 1,
    'warmup_steps': 1,
    'eval_every': 2,
    'base_lr': 0.1,
    'pp.train': 'train',
    'pp.val': 'test[:60%]',
    'pp.test': 'test[60%:]',
}


@pytest.fixture(scope='module')
def weights(photos, tmp_path_factory):
    """Returns a run that others start from."""
    path = tmp_path_factory.mktemp('fine_tuning') / 'first'
    train.train_and_evaluate(tiny_config(photos, base_lr=0.1), path)
    return path


@pytest.fixture(scope='module')
def others(tmp_path_factory):
    """Returns photos of other classes than those of the weights."""
    folder = tmp_path_factory.mktemp('others')
    return make_photos(folder, classes=('ant', 'bee'), train=8, test=5)


def test_the_result_is_the_run_and_the_other_way_round(
    weights, others, tmp_path, capsys
):
    run = tmp_path / 'run'
    predictor = vit_jax.finetune(others, weights, workdir=run, config=SETTINGS)
    assert predictor.card.class_names == ['ant', 'bee']
    assert predictor.card.image_size == (16, 16)  # as the weights have it
    config = json.loads((run / 'config.json').read_text())
    assert config['pretrained'] == str(weights)

    # As evaluate sees the same parameters, by counting what it predicts.
    assert evaluate.main([str(run), '--best', '--json']) == 0
    judged = json.loads(capsys.readouterr().out)
    test = data.open_dataset(str(others)).source('test[60%:]')
    right = [
        predictor.predict(str(others / example['name']))[0][0]
        == test.class_names[example['label']]
        for example in (test[i] for i in range(len(test)))
    ]
    assert judged['num_examples'] == len(test) == len(right)
    assert judged['accuracy'] == pytest.approx(np.mean(right))

    # Called again it finds the run complete.
    again = vit_jax.finetune(others, weights, workdir=run, config=SETTINGS)
    photo = others / 'test' / 'ant' / '0.png'
    assert again.predict(photo) == predictor.predict(photo)


def test_by_name_from_a_file(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = vit_jax.get_model('testing', num_classes=4)
    images = jnp.zeros((1, 32, 32, 3))
    params = model.init(jax.random.key(0), images, train=False)['params']
    checkpoint.save('testing.npz', params)
    settings = {**SETTINGS, 'pp.crop': 16, 'pp.val': None}
    predictor = vit_jax.finetune(photos, 'testing', config=settings)
    run = tmp_path / 'runs' / f'{photos.name}-testing'
    assert (run / 'model.npz').exists()
    assert not (run / 'model_best.npz').exists()
    assert predictor.card.class_names == ['cat', 'dog', 'eel']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'model': 'ViT-B_61'}, r'there is no such file or run. Did you mean ViT-B_16'),
        ({'config': {'total_step': 3}}, r'config\.total_step\..*total_steps'),
        ({'config': {'total_steps': 'many'}}, r'config\.total_steps: '),
        ({'config': {'base_lr': None}}, r'base_lr cannot be None'),
        ({'config': {'batch': 7, 'accum_steps': 2}}, 'does not divide'),
        ({'dataset': 'nowhere/at/all'}, 'nowhere/at/all'),
        ({'pretrained': 'x.npz', 'model': 'testing'}, r'x\.npz'),
    ],
)
def test_user_errors(photos, weights, tmp_path, arguments, message):
    arguments = {'dataset': photos, 'model': weights, 'config': SETTINGS, **arguments}
    with pytest.raises(ValueError, match=message):
        vit_jax.finetune(workdir=tmp_path / 'run', **arguments)
    assert not (tmp_path / 'run' / 'model.npz').exists()


def test_two_sets_of_weights(photos, weights, tmp_path):
    with pytest.raises(ValueError, match='two sets of weights'):
        vit_jax.finetune(photos, weights, pretrained='x.npz', workdir=tmp_path)


def test_it_leaves_the_logging_of_a_program_alone(photos, weights, tmp_path):
    before = logging.getLogger('vit_jax').level  # pytest has a handler
    vit_jax.finetune(photos, weights, workdir=tmp_path / 'run', config=SETTINGS)
    assert logging.getLogger('vit_jax').level == before


def test_predict_takes_files_pictures_and_pixels(photos, weights):
    predictor = vit_jax.Predictor.load(weights)
    path = photos / 'test' / 'dog' / '1.png'
    expected = predictor.predict(path)
    assert {name for name, _ in expected} == {'cat', 'dog', 'eel'}
    assert sum(p for _, p in expected) == pytest.approx(1)
    assert [p for _, p in expected] == sorted((p for _, p in expected), reverse=True)
    with Image.open(path) as image:
        assert predictor.predict(image) == expected
        assert predictor.predict(np.asarray(image)) == expected
    assert predictor.predict(str(path), top_k=1) == expected[:1]
    grey = np.full((9, 7), 80, np.uint8)
    assert predictor.predict(grey) == predictor.predict(np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize(
    ('image', 'message'),
    [
        (
            np.zeros((4, 4, 3)),
            r'an array float64\[4, 4, 3\], expected an encoded file or uint8 pixels',
        ),
        (np.zeros((4, 4, 3, 1), np.uint8), r'expected an encoded file or uint8 pixels'),
        ('test', 'found 15 images, expected one'),
        ('test/none.png', 'none.png'),
    ],
)
def test_predict_refuses(photos, weights, image, message):
    if isinstance(image, str):
        image = photos / image
    with pytest.raises(ValueError, match=message):
        vit_jax.Predictor.load(weights).predict(image)
