"""python -m vit_jax.predict, through the entry point."""

import csv
import io
import json
import os
import pathlib
import pty
import re
import subprocess
import sys
import termios

import jax
import numpy as np
import pandas as pd
import pytest
import web
from conftest import make_photos
from PIL import Image
from processes import environment

from vit_jax import checkpoint, data, evaluate, models
from vit_jax.checkpoint import ModelCard
from vit_jax.command_line.terminal import CLOSED_PIPE
from vit_jax.data.datasets.photos import Photos
from vit_jax.inference.predictor import Predictor
from vit_jax.predict import main

CLASSES = ['cat', 'dog', 'eel']


def save_model(folder: pathlib.Path, num_classes: int = 3, **card) -> pathlib.Path:
    """Writes a tiny model with random parameters, as a run leaves it."""
    config = models.get_config('testing').to_dict()
    model = models.from_config(config, num_classes=num_classes)
    images = np.zeros((1, 16, 16, 3), np.float32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    rng = np.random.default_rng(5)
    params = jax.tree.map(
        lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes['params']
    )
    folder.mkdir()
    checkpoint.save(folder / 'model.npz', params)
    card = ModelCard(config, num_classes, (16, 16), resize=18, **card)
    card.save(folder / 'model.json')
    return folder


@pytest.fixture(scope='module')
def run_dir(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp('model') / 'run', class_names=CLASSES)


@pytest.fixture
def album(tmp_path):
    """Returns a folder of 15 photos in three folders, in two formats."""
    root = make_photos(tmp_path / 'photos', train=1, test=5) / 'test'
    for path in root.glob('dog/*.png'):
        Image.open(path).save(path.with_suffix('.jpg'))
        path.unlink()
    return root


def expected(run_dir, paths) -> np.ndarray:
    """Returns the probabilities (b y) of photos, by the predictor."""
    found = Predictor.load(run_dir).outputs(Photos(paths))
    return np.concatenate([out['probabilities'] for out in found])


def as_json(text: str) -> dict[str, dict]:
    """Returns the predictions of each file."""
    lines = [json.loads(line) for line in text.splitlines()]
    return {line['file']: line['predictions'] for line in lines}


def test_formats_say_the_same(run_dir, album, monkeypatch, capsys):
    monkeypatch.chdir(album.parent)
    paths = Photos('test').names
    probabilities = expected(run_dir, 'test')
    order = np.argsort(-probabilities, axis=1, kind='stable')
    text = {}
    for form in ('table', 'json', 'csv'):
        assert main([str(run_dir), 'test', '--format', form]) == 0
        text[form], told = capsys.readouterr()
        assert told == ''

    table = pd.read_csv(io.StringIO(text['csv']))
    columns = ['file', 'rank', 'class', 'class_index', 'probability']
    assert list(table) == columns
    assert table['file'].tolist() == np.repeat(paths, 3).tolist()
    assert table['rank'].tolist() == [1, 2, 3] * 15
    assert table['class_index'].tolist() == order.ravel().tolist()
    assert table['class'].tolist() == [CLASSES[i] for i in order.ravel()]
    sorted_ = np.take_along_axis(probabilities, order, axis=1)
    np.testing.assert_array_equal(
        table['probability'].to_numpy(np.float32), sorted_.ravel()
    )

    read = [
        {'file': name, 'rank': rank, **found}
        for name, classes in as_json(text['json']).items()
        for rank, found in enumerate(classes, 1)
    ]
    pd.testing.assert_frame_equal(pd.DataFrame(read)[columns], table)

    head, *lines = text['table'].splitlines()
    assert head.split() == ['file', 'probability', 'class']
    assert [line[head.index('class') :] for line in lines] == table['class'].tolist()
    ends = head.index('probability') + len('probability')
    shown = [float(line[:ends].split()[-1]) for line in lines]
    np.testing.assert_allclose(shown, table['probability'], atol=5e-5)
    assert [line.split()[0] for line in lines[::3]] == list(paths)
    assert not any(line[:20].strip() for i, line in enumerate(lines) if i % 3)


def test_a_long_name_in_a_table(run_dir, album, monkeypatch, capsys):
    monkeypatch.chdir(album)
    long = 'long' * 30 + '.png'
    pathlib.Path('cat/0.png').rename(long)
    assert main([str(run_dir), long, 'eel/0.png']) == 0
    head, name, *lines = capsys.readouterr().out.splitlines()
    assert name == long
    at = head.index('class')
    assert len(lines) == 6
    assert {line[at:] for line in lines} == set(CLASSES)


def test_what_evaluation_counts(run_dir, album, capsys):
    assert evaluate.main([str(run_dir), '--dataset', str(album.parent), '--json']) == 0
    accuracy = json.loads(capsys.readouterr().out)['accuracy']
    arguments = ['--top_k', '1', '--format', 'csv', '--batch', '4']
    assert main(['--checkpoint', str(run_dir), str(album), *arguments]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    right = [pathlib.Path(x['file']).parent.name == x['class'] for x in lines]
    assert len(right) == 15
    assert np.mean(right) == accuracy
    assert 0 < accuracy < 1


def test_what_the_predictor_says_of_one(run_dir, album, capsys):
    path = album / 'dog/3.jpg'
    assert main([str(run_dir), str(path), '--top_k', '2', '--format', 'json']) == 0
    (found,) = as_json(capsys.readouterr().out).values()
    said = [(x['class'], x['probability']) for x in found]
    assert said == [
        (name, pytest.approx(p, abs=1e-6))
        for name, p in Predictor.load(run_dir).predict(path, top_k=2)
    ]


def test_files_folders_and_patterns_in_the_order_in_which_they_are_named(
    run_dir, album, monkeypatch, capsys
):
    monkeypatch.chdir(album)
    names = ['eel', 'cat/[01].png', 'dog/4.jpg', 'dog/4.jpg']
    assert main([str(run_dir), *names, '--batch', '3', '--format', 'json']) == 0
    lines = capsys.readouterr().out.splitlines()
    found = [json.loads(line)['file'] for line in lines]
    assert found == [
        *(f'eel/{i}.png' for i in range(5)),
        *('cat/0.png', 'cat/1.png', 'dog/4.jpg', 'dog/4.jpg'),
    ]
    assert lines[-1] == lines[-2]


def test_classes_without_names_and_fewer_of_them(album, tmp_path, capsys):
    run_dir = save_model(tmp_path / 'run', num_classes=7)
    photo = str(album / 'cat/0.png')
    for top_k, count in (([], 5), (['--top_k', '7'], 7), (['--top_k', '99'], 7)):
        assert main([str(run_dir), photo, *top_k, '--format', 'json']) == 0
        ((_, found),) = as_json(capsys.readouterr().out).items()
        assert len(found) == count
        assert all(x['class'] == str(x['class_index']) for x in found)


def test_names_that_are_not_unique_nor_ascii(album, tmp_path, capsys):
    names = ['crane', '鹤', 'crane']
    run_dir = save_model(tmp_path / 'run', class_names=names)
    photo = album / '猫, 1\n.png'
    (album / 'cat/0.png').rename(photo)
    for form in ('csv', 'json', 'table'):
        assert main([str(run_dir), str(photo), '--format', form]) == 0
        text = capsys.readouterr().out
        if form == 'csv':
            found = pd.read_csv(io.StringIO(text))
            assert found['file'].tolist() == [str(photo)] * 3
            assert found['class'].tolist() == [names[i] for i in found['class_index']]
        if form == 'json':
            ((name, found),) = as_json(text).items()
            assert name == str(photo)
            assert sorted(x['class'] for x in found) == sorted(names)
        if form == 'table':
            assert '鹤' in text


def test_ties_are_those_of_evaluation(album, tmp_path, capsys):
    """Before it has learned anything, a model finds all classes equally likely."""
    run_dir = save_model(tmp_path / 'run')
    params = checkpoint.load(run_dir / 'model.npz')
    params['head'] = jax.tree.map(np.zeros_like, params['head'])
    # Less than what one probability can be told apart from another by.
    params['head']['bias'][1] = 1e-9
    checkpoint.save(run_dir / 'model.npz', params)
    photo = str(album / 'cat/0.png')
    assert main([str(run_dir), photo, '--format', 'json']) == 0
    ((_, found),) = as_json(capsys.readouterr().out).items()
    assert [x['class_index'] for x in found] == [1, 0, 2]
    assert len({x['probability'] for x in found}) == 1


@pytest.mark.parametrize('batch', [2, 64])
@pytest.mark.parametrize('num_workers', [0, 2])
def test_broken_photos_are_told_and_do_not_stop_the_others(
    run_dir, album, batch, num_workers, capsys
):
    if num_workers and batch > 2:
        pytest.skip('once is enough')
    whole = (album / 'dog/0.jpg').read_bytes()
    broken = {
        'cat/0.png': (b'', 'the file is empty'),
        'dog/1.jpg': (b'no image', "no known image format begins with b'no image'"),
        'dog/2.jpg': (whole[:-100], 'Premature end of JPEG file'),
        'eel/4.png': ((album / 'eel/4.png').read_bytes()[:200], 'truncated'),
    }
    for name, (content, _) in broken.items():
        (album / name).write_bytes(content)
    arguments = ['--format', 'json', '--batch', str(batch)]
    arguments += ['--num_workers', str(num_workers)]
    assert main([str(run_dir), str(album), *arguments]) == 1
    out, err = capsys.readouterr()
    names = [n for n in Photos(album).names if os.path.relpath(n, album) not in broken]
    assert list(as_json(out)) == names
    *lines, count = err.splitlines()
    for line, (name, (_, reason)) in zip(lines, broken.items(), strict=True):
        assert line.startswith(f'predict: {album / name}: ')
        assert reason in line
    assert count == 'predict: 4 of 15 photos have no answer'


def test_one_broken_photo(run_dir, album, capsys):
    (album / 'cat/0.png').write_bytes(b'')
    assert main([str(run_dir), str(album / 'cat/0.png'), '--format', 'csv']) == 1
    out, err = capsys.readouterr()
    assert out == 'file,rank,class,class_index,probability\n'
    assert err == f'predict: {album / "cat/0.png"}: the file is empty\n'


def test_extreme_sizes(run_dir, tmp_path, capsys):
    Image.new('RGB', (1, 1), (9, 80, 200)).save(tmp_path / 'dot.png')
    Image.new('L', (1, 1), 7).save(tmp_path / 'dot.jpg')
    # 400 million pixels, in a file of 50 kB.
    Image.new('1', (20_000, 20_000)).save(tmp_path / 'wall.png')
    Image.new('L', (20_000, 1)).save(tmp_path / 'wall.jpg')
    wall = (tmp_path / 'wall.jpg').read_bytes()
    at = wall.index(b'\xff\xc0') + 5  # of the height, in the start of frame
    wall = wall[:at] + (20_000).to_bytes(2, 'big') + wall[at + 2 :]
    (tmp_path / 'wall.jpg').write_bytes(wall)
    assert main([str(run_dir), str(tmp_path), '--format', 'json']) == 1
    out, err = capsys.readouterr()
    names = [str(tmp_path / name) for name in ('dot.jpg', 'dot.png')]
    assert list(as_json(out)) == names
    *told, _ = err.splitlines()
    for name, line in zip(('wall.jpg', 'wall.png'), told, strict=True):
        assert line.startswith(f'predict: {tmp_path / name}: ')
        assert re.search('400000000 pixels|20,000 x 20,000 pixels', line)


def test_addresses(run_dir, album, monkeypatch, capsys):
    monkeypatch.setattr('time.sleep', lambda seconds: None)  # between tries
    with web.serving() as server:
        server.files['/1.jpg'] = (album / 'dog/1.jpg').read_bytes()
        server.files['/page.jpg'] = b'<!doctype html>'
        names = [f'{server.url}/{n}.jpg' for n in ('none', '1', 'page')]
        assert main([str(run_dir), *names, '--format', 'json']) == 1
        requests = list(server.requests)
    assert sorted(requests) == [('GET', f'/{n}.jpg') for n in ('1', 'none', 'page')]
    out, err = capsys.readouterr()
    ((name, found),) = as_json(out).items()
    assert name == names[1]
    file = expected(run_dir, album / 'dog/1.jpg')
    np.testing.assert_allclose(
        [x['probability'] for x in found], -np.sort(-file[0]), atol=1e-6
    )
    lines = err.splitlines()
    assert lines[0].startswith(f'predict: {names[0]}: there is no such file (404)')
    assert lines[1].startswith(f'predict: {names[2]}: it begins as a web page (HTML)')


def feed(monkeypatch, content: bytes) -> None:
    monkeypatch.setattr('sys.stdin', io.TextIOWrapper(io.BytesIO(content)))


def test_an_image_on_standard_input(run_dir, album, monkeypatch, capsys):
    photo = album / 'dog/1.jpg'
    feed(monkeypatch, photo.read_bytes())
    assert main([str(run_dir), '-', str(photo), '--format', 'json']) == 0
    found = as_json(capsys.readouterr().out)
    assert list(found) == ['-', str(photo)]
    assert found['-'] == found[str(photo)]
    feed(monkeypatch, b'')
    assert main(['--checkpoint', str(run_dir), '-']) == 1
    assert capsys.readouterr().err == 'predict: -: the file is empty\n'


def test_a_list_of_photos(run_dir, album, tmp_path, monkeypatch, capsys):
    paths = Photos(album).names
    listed = tmp_path / 'list.txt'
    listed.write_text('\r\n'.join([paths[3], '', str(album / 'eel')]))
    arguments = ['--format', 'json', '--files_from']
    assert main([str(run_dir), *arguments, str(listed), paths[0]]) == 0
    assert list(as_json(capsys.readouterr().out)) == [paths[0], paths[3], *paths[10:]]
    feed(monkeypatch, f'{paths[1]}\n{paths[2]}\n'.encode())
    assert main([str(run_dir), *arguments, '-']) == 0
    assert list(as_json(capsys.readouterr().out)) == [paths[1], paths[2]]


@pytest.mark.parametrize(
    ('name', 'form', 'begins'),
    [
        ('a/said.csv', [], 'file,rank'),
        ('said.jsonl', [], '{"file"'),
        ('said.json', ['--format', 'csv'], 'file,rank'),
        ('said', [], 'file  '),
    ],
)
def test_a_file(run_dir, album, tmp_path, name, form, begins, capsys):
    out = tmp_path / name
    assert main([str(run_dir), str(album), '--out', str(out), *form]) == 0
    assert capsys.readouterr() == ('', '')
    assert out.read_text().startswith(begins)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'no model is named'),
        (['{run}'], 'no photos are named'),
        (['nowhere.npz', '{album}'], 'There is no nowhere.npz'),
        (['{run}', 'nothing.jpg', '{album}'], 'nothing.jpg: there is no such file'),
        (['{run}', '{empty}'], 'no images in this folder: it is empty'),
        (['{run}', '{album}/*.gif'], 'no images among the 0 files'),
        (
            ['{run}', 'ftp://host/a.jpg'],
            'expected a path or an address with one of http://',
        ),
        (['{run}', '--files_from', 'list.txt'], 'list.txt'),
        (['{run}', '--files_from', '{album}/blank.txt'], 'no photos are named in it'),
        (['{run}', '-', '--files_from', '-'], 'cannot be both'),
        (['{headless}', '{album}'], 'the model has no head'),
        (['{bare}/weights.npz', '{album}'], 'no card (model.json)'),
    ],
)
def test_user_errors(run_dir, album, tmp_path, arguments, message, capsys):
    (album / 'blank.txt').write_text('\n')
    (tmp_path / 'empty').mkdir()
    save_model(tmp_path / 'headless', num_classes=0)
    (tmp_path / 'bare').mkdir()
    np.savez(tmp_path / 'bare/weights.npz', kernel=np.ones(3, np.float32))
    folders = {n: tmp_path / n for n in ('empty', 'headless', 'bare')}
    arguments = [a.format(run=run_dir, album=album, **folders) for a in arguments]
    out = tmp_path / 'out.csv'
    assert main([*arguments, '--out', str(out)]) == 2
    err = capsys.readouterr().err
    assert err.startswith('predict: ')
    assert message in err
    assert not out.exists()


@pytest.mark.parametrize('arguments', [['--top_k', '0'], ['--format', 'xml']])
def test_options_that_are_none(run_dir, album, arguments, capsys):
    with pytest.raises(SystemExit, match='2'):
        main([str(run_dir), str(album), *arguments])
    assert 'python -m vit_jax.predict: error' in capsys.readouterr().err


def test_a_model_that_gives_no_numbers(album, tmp_path, capsys):
    run_dir = save_model(tmp_path / 'run')
    params = checkpoint.load(run_dir / 'model.npz')
    params['head']['bias'][1] = np.nan
    checkpoint.save(run_dir / 'model.npz', params)
    assert main([str(run_dir), str(album)]) == 2
    assert 'is no number' in capsys.readouterr().err


COMMAND = [sys.executable, '-W', 'error', '-m', 'vit_jax.predict']


def test_a_terminal_shows_how_far_it_is(run_dir, album):
    """The bar is on standard error alone, and only if that is a terminal."""
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (24, 80))
    with subprocess.Popen(
        [*COMMAND, str(run_dir), str(album), '--format', 'json'],
        stdout=subprocess.PIPE, stderr=child, env=environment(), text=True,
    ) as process:  # fmt: skip
        os.close(child)
        shown = b''
        try:
            while piece := os.read(parent, 1 << 16):
                shown += piece
        except OSError:  # how Linux says that the other end is closed
            pass
        out = process.stdout.read()
    os.close(parent)
    assert process.returncode == 0, shown
    assert list(as_json(out)) == list(Photos(album).names)
    assert b'/15' in shown


def test_whoever_reads_may_have_seen_enough(run_dir, album, tmp_path):
    for i in range(300):
        (album / f'cat/copy{i}.png').symlink_to(album / 'cat/0.png')
    errors = tmp_path / 'errors'
    with errors.open('w') as file, subprocess.Popen(
        [*COMMAND, str(run_dir), str(album), '--batch', '8'],
        stdout=subprocess.PIPE, stderr=file, env=environment(),
    ) as process:  # fmt: skip
        assert process.stdout.readline().split() == [b'file', b'probability', b'class']
        process.stdout.close()
        assert process.wait(60) == CLOSED_PIPE
    assert errors.read_text() == ''


def test_names_that_are_no_text(run_dir, album, tmp_path):
    name = os.fsencode(album) + b'/caf\xe9.png'
    os.rename(album / 'cat/0.png', name)
    done = subprocess.run(
        [*COMMAND, str(run_dir), name, '--format', 'csv'],
        capture_output=True, check=False, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b'caf\xe9.png,1,' in done.stdout
    out = tmp_path / 'out.json'
    assert main([str(run_dir), os.fsdecode(name), '--out', str(out)]) == 0
    assert list(as_json(out.read_text())) == [os.fsdecode(name)]


def test_decoding_is_that_of_evaluation(run_dir, album):
    """Both see the same pixels: here, of a photo that stands on its side."""
    photo = album / 'dog/0.jpg'
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(photo).save(photo, exif=exif)
    source = data.open_dataset(str(album.parent)).source('test')
    (labelled,) = (i for i in range(15) if source[i]['name'] == str(photo))
    found = Predictor.load(run_dir).outputs(source, ['probabilities'])
    probabilities = np.concatenate([out['probabilities'] for out in found])
    np.testing.assert_allclose(
        expected(run_dir, photo)[0], probabilities[labelled], atol=1e-6
    )
