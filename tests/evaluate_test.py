"""Evaluation counts every example once, here and from the command line."""

import json
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from conftest import make_photos, tiny_config
from processes import environment

from vit_jax import checkpoint, data, evaluate, models, train
from vit_jax.checkpoint import class_names
from vit_jax.evaluation import accuracy, intervals, judgement
from vit_jax.runtime import sharding

BATCH = 8
NUM_CLASSES = 3


class Pictures:
    """Noise with random labels, of which some may not decode."""

    class_names = ('cat', 'dog', 'eel')

    def __init__(self, n: int, corrupt=()):
        rng = np.random.default_rng(n)
        self.images = rng.integers(0, 256, (n, 16, 16, 3), np.uint8)
        self.labels = rng.integers(0, NUM_CLASSES, n)
        self.corrupt = set(corrupt)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index) -> data.Example:
        image = b'no image' if index in self.corrupt else self.images[index]
        return {'image': image, 'label': int(self.labels[index]), 'name': str(index)}

    def fingerprint(self) -> str:
        return ''


@pytest.fixture(scope='module')
def network():
    """Returns a small network, parameters with a head that is not 0, and its step."""
    config = models.get_config('testing')
    model = models.from_config(config, num_classes=NUM_CLASSES)
    images = jnp.zeros((1, 16, 16, 3))
    params = model.init(jax.random.key(0), images, train=False)['params']
    kernel = jax.random.normal(jax.random.key(1), params['head']['kernel'].shape)
    params = {**params, 'head': {**params['head'], 'kernel': kernel}}
    return model, params, accuracy.make_eval_step(model)


def plain_loop(network, pictures: Pictures) -> dict[str, float]:
    """Returns what one example after another gives, by the definitions."""
    model, params, _ = network
    apply = jax.jit(lambda image: model.apply({'params': params}, image, train=False))
    correct, losses = [], []
    for i in range(len(pictures)):
        if i in pictures.corrupt:
            continue
        image = np.float32(pictures.images[i : i + 1]) / 127.5 - 1
        logits = np.asarray(apply(image)[0], np.float64)
        label = pictures.labels[i]
        correct.append(logits.argmax() == label)
        losses.append(np.log(np.exp(logits - logits[label]).sum()))
    return {
        'accuracy': np.mean(correct),
        'loss': np.mean(losses),
        'num_examples': len(losses),
    }


def judged(network, pictures, num_devices: int, **options) -> dict[str, float]:
    _, params, step = network
    mesh = sharding.make_mesh(devices=jax.devices()[:num_devices])
    params = jax.device_put(params, sharding.replicated(mesh))
    batches = data.eval_batches(
        pictures,
        data.Preprocess((16, 16)),
        batch=BATCH,
        reading=data.Reading(num_threads=2, **options),
    )
    return accuracy.evaluate(step, params, batches, mesh)


@pytest.mark.parametrize('num_devices', [1, 8])
@pytest.mark.parametrize('n', [1, BATCH - 1, BATCH, BATCH + 1, 3 * BATCH + 7])
def test_every_example_counts_once(network, n, num_devices):
    pictures = Pictures(n)
    found, expected = (
        judged(network, pictures, num_devices),
        plain_loop(network, pictures),
    )
    assert found['num_examples'] == expected['num_examples'] == n
    assert found['accuracy'] == expected['accuracy']
    assert found['loss'] == pytest.approx(expected['loss'], rel=1e-5)


@pytest.mark.parametrize('corrupt', [(0,), (3, 8, 30), range(8)])
def test_examples_that_do_not_decode_do_not_count(network, corrupt):
    pictures = Pictures(31, corrupt)
    found = judged(network, pictures, 8, skip_corrupt=True)
    expected = plain_loop(network, pictures)
    assert found['num_examples'] == 31 - len(corrupt)
    assert found['accuracy'] == expected['accuracy']
    assert found['loss'] == pytest.approx(expected['loss'], rel=1e-5)
    with pytest.raises(ValueError, match=rf'^{corrupt[0]} does not decode'):
        judged(network, pictures, 8)


def test_nothing_that_decodes_is_an_error(network):
    with pytest.raises(ValueError, match='none of the examples decodes'):
        judged(network, Pictures(3, range(3)), 8, skip_corrupt=True)


@pytest.mark.parametrize(
    ('wanted', 'num_examples', 'num_devices', 'size'),
    [(512, 1, 1, 1), (512, 1, 8, 8), (512, 9, 8, 16), (8, 100, 1, 8), (9, 100, 8, 16)],
)
def test_batch_size(wanted, num_examples, num_devices, size):
    assert accuracy.batch_size(wanted, num_examples, num_devices) == size


def test_classes_are_matched_by_name():
    labels = judgement.label_map(('eel', 'cat'), ['cat', 'dog', 'eel'], 3)
    assert labels.tolist() == [2, 0]
    assert judgement.label_map(('a', 'b'), None, 2).tolist() == [0, 1]
    with pytest.raises(ValueError, match=r'does not know: gnu\. The model knows cat'):
        judgement.label_map(('cat', 'gnu'), ['cat', 'dog', 'eel'], 3)
    with pytest.raises(ValueError, match='3 classes without names, the dataset 2'):
        judgement.label_map(('a', 'b'), None, 3)


@pytest.fixture(scope='module')
def run(photos, tmp_path_factory):
    """A finished run whose last and best parameters differ, and its results."""
    path = tmp_path_factory.mktemp('evaluate') / 'run'
    config = tiny_config(photos, total_steps=9, eval_every=2, base_lr=0.3)
    train.train_and_evaluate(config, path)
    results = json.loads((path / 'run.json').read_text())['results']
    return path, {(row['parameters'], row['role']): row for row in results}


def command(capsys, *arguments) -> dict[str, float]:
    assert evaluate.main([*map(str, arguments), '--json']) == 0
    return json.loads(capsys.readouterr().out)


def assert_equal(found, row):
    for name in ('accuracy', 'num_examples', 'split'):
        assert found[name] == row[name]
    assert found['loss'] == pytest.approx(row['loss'], rel=1e-6)


def test_a_run_is_judged_as_training_judged_it(run, capsys):
    path, rows = run
    assert_equal(command(capsys, path), rows['last', 'test'])
    assert_equal(command(capsys, path, '--best'), rows['best', 'test'])
    val = command(capsys, path, '--split', 'test[:60%]', '--batch', 4)
    assert_equal(val, rows['last', 'val'])
    best = command(capsys, path / 'model_best.npz', '--split', 'test[:60%]')
    assert_equal(best, rows['best', 'val'])
    workers = command(capsys, path / 'model.npz', '--num_workers', 1)
    assert_equal(workers, rows['last', 'test'])


def test_through_python_m(run, photos):
    path, rows = run
    done = subprocess.run(
        [sys.executable, '-m', 'vit_jax.evaluate', path],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
    )
    row = rows['best', 'test']
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        f'{path}: 6 examples of {photos} test[60%:]: accuracy '
        f'{intervals.text(row["accuracy"], 6)}, loss {row["loss"]:.4f}\n'
    )
    assert re.search(r'calibration error 0\.\d+ of 6 images, too few', done.stdout)
    assert f'{path}: the parameters that were best on val' in done.stderr
    assert '  dog ' in done.stdout


def test_everything_is_written(run, tmp_path, capsys):
    path, rows = run
    out = tmp_path / 'out'
    found = command(capsys, path, '--out', out)
    assert {file.name for file in out.iterdir()} == {
        *('metrics.json', 'predictions.csv', 'mistakes.csv', 'per_class.csv'),
        *('predictions.npz', 'confusion.csv', 'confusion.png', 'calibration.png'),
        *(['mistakes.png'] if found['accuracy'] < 1 else []),
    }
    assert json.loads((out / 'metrics.json').read_text()) == found
    tables = {file.stem: pd.read_csv(file) for file in out.glob('*.csv')}
    predictions = tables['predictions']
    assert len(predictions) == found['num_examples'] == 6
    assert predictions['correct'].mean() == found['accuracy']
    assert (predictions['label'] == predictions['prediction']).mean() == (
        found['accuracy']
    )
    assert predictions['loss'].mean() == pytest.approx(rows['last', 'test']['loss'])
    assert len(tables['mistakes']) == (~predictions['correct']).sum()
    assert tables['confusion']['count'].sum() == 6
    assert tables['per_class']['num_examples'].sum() == 6
    for row in predictions.to_dict('records'):
        assert f'/{row["label"]}/' in row['name']


def test_another_folder_with_other_classes_in_another_order(
    run, photos, tmp_path, capsys
):
    """Classes have other numbers there, but the same names."""
    path, _ = run
    for name in ('dog', 'eel'):
        shutil.copytree(photos / 'test' / name, tmp_path / 'some' / 'train' / name)
    some = command(capsys, path, '--dataset', tmp_path / 'some', '--split', 'train')
    by_hand = []
    model, params, _ = checkpoint.load_model(path)
    source = data.open_dataset(str(photos)).source('test')
    for batch in data.eval_batches(source, data.Preprocess((16, 16)), batch=15):
        logits = model.apply({'params': params}, batch['image'], train=False)
        right = np.asarray(logits.argmax(-1)) == batch['label']
        by_hand += right[batch['label'] > 0].tolist()
    assert some['num_examples'] == len(by_hand) == 10
    assert some['accuracy'] == np.mean(by_hand)


def test_an_image_that_does_not_decode(run, photos, tmp_path, capsys):
    folder = tmp_path / 'photos'
    shutil.copytree(photos, folder)
    (folder / 'test' / 'cat' / '0.png').write_bytes(b'no image')
    arguments = [str(run[0]), '--dataset', str(folder), '--split', 'test']
    assert evaluate.main(arguments) == 2
    error = capsys.readouterr().err
    assert 'test/cat/0.png' in error
    assert '--skip_corrupt' in error
    assert evaluate.main([*arguments, '--skip_corrupt', '--json']) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found['num_examples'], found['num_skipped']) == (14, 1)


@pytest.mark.parametrize(
    ('arguments', 'messages'),
    [
        (['{run}', '--split=tset'], ["unknown split 'tset'", 'Did you mean test']),
        (['{run}', '--split=test[:0]'], ['no examples']),
        (['{run}', '--dataset=/nowhere/photos'], ['/nowhere/photos']),
        (['{run}', '--dataset=cifra10'], ['cifra10', 'cifar10']),
        (['{run}', '--dataset={other}'], ['does not know: gnu', 'knows cat, dog, eel']),
        (['/nowhere/run'], ['There is no /nowhere/run']),
        (['{tmp}'], ['not that of a run']),
        (['{unfinished}'], ['has not finished']),
        (['{bare}/ViT.npz'], ['does not say what it was trained on']),
        (['{silent}/model.npz'], ['name images with labels by --dataset']),
        (['{truncated}/model.npz'], ['{truncated}/model.npz']),
    ],
)
def test_bad_input(run, tmp_path, capsys, arguments, messages):
    """One line that says what was found and what to do, and exit code 2."""
    path = run[0]
    places = {'run': path, 'tmp': tmp_path}
    for name in ('other', 'unfinished', 'bare', 'silent', 'truncated'):
        places[name] = tmp_path / name
        places[name].mkdir()
    make_photos(places['other'], classes=('cat', 'gnu'), train=1, test=1)
    (places['unfinished'] / 'run.json').write_text('{}')
    shutil.copy(path / 'model.npz', places['bare'] / 'ViT.npz')
    for name in ('silent', 'truncated'):
        shutil.copy(path / 'model.npz', places[name])
        card = json.loads((path / 'model.json').read_text())
        (places[name] / 'model.json').write_text(json.dumps({**card, 'source': {}}))
    content = (path / 'model.npz').read_bytes()
    (places['truncated'] / 'model.npz').write_bytes(content[:-100])

    assert evaluate.main([part.format(**places) for part in arguments]) == 2
    out, error = capsys.readouterr()
    assert not out
    assert error.startswith('evaluate: ')
    for message in messages:
        assert message.format(**places) in error
    assert 'Traceback' not in error


def test_classes_of_imagenet_by_any_name():
    names = class_names.imagenet(1000)
    ids = class_names.wordnet_ids(1000)
    everything = np.arange(1000)
    # 'crane' stands twice in the names; in the same order that does not matter.
    assert np.array_equal(judgement.label_map(names, names, 1000), everything)
    assert np.array_equal(judgement.label_map(ids, names, 1000), everything)
    # A part of the classes, in an order of its own.
    few = (ids[517], ids[134], ids[0])
    assert judgement.label_map(few, names, 1000).tolist() == [517, 134, 0]
    with pytest.raises(ValueError, match='does not know: n99999999'):
        judgement.label_map(('n99999999', ids[0]), names, 1000)


def test_predictions_are_a_file(run, photos, tmp_path, capsys):
    """Everything but the photos follows from it, without model and data."""
    command = [str(run[0]), '--dataset', str(photos), '--split', 'test']
    assert evaluate.main([*command, '--out', str(tmp_path / 'a')]) == 0
    first = capsys.readouterr().out
    assert evaluate.main([*command, '--json']) == 0
    as_json = capsys.readouterr().out
    saved = tmp_path / 'a' / 'predictions.npz'
    moved = saved.rename(tmp_path / 'mine.npz')
    assert evaluate.main([str(moved), '--json']) == 0
    assert capsys.readouterr().out == as_json
    assert evaluate.main([str(moved), '--out', str(tmp_path / 'b')]) == 0
    again = capsys.readouterr().out

    def without_files(text):
        return [line for line in text.splitlines() if str(tmp_path) not in line]

    assert without_files(again) == without_files(first)
    written = {path.name for path in (tmp_path / 'b').iterdir()}
    for name in written - {'predictions.npz'}:
        one, two = ((tmp_path / folder / name).read_bytes() for folder in 'ab')
        assert one == two or name.endswith('.png'), name
    assert {'metrics.json', 'predictions.csv', 'predictions.npz'} <= written
    assert 'mistakes.png' not in written


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'version': np.array(2)}, 'version 2 of the format; this vit_jax reads'),
        ({'format': np.array('other')}, 'holds no predictions'),
        ({'losses': None}, 'is no whole file of predictions'),
    ],
)
def test_files_that_are_no_predictions(run, photos, tmp_path, capsys, change, message):
    command = [str(run[0]), '--dataset', str(photos), '--out', str(tmp_path / 'a')]
    assert evaluate.main([*command, '--split', 'test']) == 0
    path = tmp_path / 'a' / 'predictions.npz'
    with np.load(path) as file:
        arrays = {**file, **change}
    np.savez(path, **{k: x for k, x in arrays.items() if x is not None})
    capsys.readouterr()
    assert evaluate.main([str(path)]) == 2
    assert message in capsys.readouterr().err
