"""Figures of judgements and grids of images: what is on them."""

import dataclasses
import io

import numpy as np
import pytest
from conftest import tiny_config
from PIL import Image

from vit_jax import data, train
from vit_jax.evaluation import judgement
from vit_jax.inference.predictor import Predictor
from vit_jax.visualize import drawing, image_grid, judged


@pytest.fixture(scope='module')
def predictor(photos, tmp_path_factory):
    path = tmp_path_factory.mktemp('judged') / 'run'
    train.train_and_evaluate(tiny_config(photos, base_lr=0.0), path)
    return Predictor.load(path)


@pytest.fixture(scope='module')
def found(predictor, photos):
    source = data.open_dataset(str(photos)).source('test')
    return judgement.predict_split(predictor, source, np.arange(3, dtype=np.int32))


def texts(figure) -> list[str]:
    """Returns everything that is written on a figure."""
    import matplotlib.text

    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


def test_confusion(found):
    figure = judged.confusion(found)
    assert {'cat', 'dog', 'eel'} <= set(texts(figure))
    # Nothing is learned, so that all are taken for the first class.
    shown = np.asarray(figure.axes[0].images[0].get_array())
    np.testing.assert_array_equal(shown, [[1, 0, 0], [1, 0, 0], [1, 0, 0]])
    assert texts(figure).count('5') == 3


def test_calibration(found):
    figure = judged.calibration(found)
    assert 'expected calibration error 0.00%' in texts(figure)  # ⅓ sure, ⅓ right


def test_mistakes(found, predictor):
    figure = judged.mistakes(found, predictor)
    written = texts(figure)
    assert written.count('cat 33%\nis dog') == 5
    assert written.count('cat 33%\nis eel') == 5
    first = np.asarray(figure.axes[0].images[0].get_array())
    example = found.example(int(found.mistakes()[0]))
    np.testing.assert_array_equal(first, data.pixels(example['image']))


def test_no_mistakes_no_figure(found, predictor):
    fine = dataclasses.replace(found, labels=found.predicted)
    assert set(judged.all_figures(fine, predictor)) == {'confusion', 'calibration'}
    assert set(judged.all_figures(found, predictor)) == {
        'confusion',
        'calibration',
        'mistakes',
    }


def test_many_classes_have_no_names_or_no_matrix(found, predictor):
    many = dataclasses.replace(found, class_names=tuple(map(str, range(50))))
    assert '49' not in texts(judged.confusion(many))
    more = dataclasses.replace(found, class_names=tuple(map(str, range(2000))))
    assert 'confusion' not in judged.all_figures(more, predictor)


def test_what_the_model_sees_is_what_the_pipeline_gives(photos):
    source = data.open_dataset(str(photos)).source('test')
    options = {'mean': (10.0, 20.0, 30.0), 'std': 50.0}
    preprocess = data.Preprocess((20, 24), **options)
    batches = data.eval_batches(source, preprocess, batch=4)
    figure = image_grid.seen(batches, source.class_names, 'seen', count=6, **options)
    shown = [ax.images[0] for ax in figure.axes if ax.images]
    assert len(shown) == 6
    for i, image in enumerate(shown):  # the images are 20×24, so nothing is resized
        pixels = data.pixels(source[i]['image'])
        np.testing.assert_array_equal(np.asarray(image.get_array()), pixels)
    titles = [ax.get_title() for ax in figure.axes if ax.images]
    assert titles == [source.class_names[source[i]['label']] for i in range(6)]


@pytest.mark.parametrize('channels', [1, 2])
def test_other_channels_are_shown_in_grey(channels):
    batch = {
        'image': np.full((2, 4, 4, channels), 7, np.uint8),
        'label': np.array([0, 1]),
    }
    figure = image_grid.seen(iter([batch]), ('a', 'b'), 'grey', count=9)
    assert (np.asarray(figure.axes[0].images[0].get_array()) == 7).all()
    assert Image.open(io.BytesIO(drawing.png(figure))).size[0] > 100
