"""One walk: every file is used, or counted and named in one line."""

import logging
import os
import subprocess
import sys

import pytest
from photo_files import jpeg, make, names, relative
from PIL import Image

from vit_jax import data
from vit_jax.data.datasets import walk
from vit_jax.data.datasets.photos import Photos


def opened(root, caplog) -> tuple[data.Dataset, str]:
    """A folder as a dataset, and what was said."""
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        dataset = data.open_folder(root, holdout=0)
    return dataset, caplog.text


@pytest.mark.parametrize(
    ('name', 'told'),
    [
        ('a/list.txt', '1 of kind .txt (a/list.txt)'),
        ('a/README', '1 without extension (a/README)'),
        ('a/deep/3.mov', '1 of kind .mov (a/deep/3.mov)'),
        ('stray.jpg', '1 beside the class folders (stray.jpg)'),
        ('a/Thumbs.db', '1 hidden or of the system (a/Thumbs.db)'),
        ('__MACOSX/a/._1.jpg', '1 hidden or of the system (__MACOSX)'),
        ('@eaDir/1.jpg/thumb.jpg', '1 hidden or of the system (@eaDir)'),
        ('.ipynb_checkpoints/1.jpg', '1 hidden or of the system (.ipynb_checkpoints)'),
    ],
)
def test_what_is_not_used_is_counted_and_named(tmp_path, caplog, name, told):
    make(tmp_path, 'a/1.jpg', 'b/2.jpg')
    make(tmp_path, name)
    dataset, said = opened(tmp_path, caplog)
    assert dataset.class_names == ('a', 'b')
    assert dataset.splits == {'train': 2}
    assert f'{tmp_path}: left out: {told}' in said


def test_many_are_told_in_one_line(tmp_path, caplog):
    make(tmp_path, 'a/1.jpg', 'b/2.jpg', *[f'{i}.jpg' for i in range(50)], 'a/x.gpx')
    _, said = opened(tmp_path, caplog)
    assert '50 beside the class folders (0.jpg, 1.jpg, 10.jpg, …)' in said
    assert said.count('left out') == 1


def test_nothing_is_said_of_nothing(tmp_path, caplog):
    make(tmp_path, 'a/1.jpg', 'b/2.jpg')
    assert opened(tmp_path, caplog)[1] == ''


def test_heic_needs_an_extra(tmp_path, caplog, monkeypatch):
    make(tmp_path, 'a/1.jpg', 'b/2.jpg', 'b/IMG_1.HEIC')
    monkeypatch.setattr(walk, 'extensions', lambda: walk.EXTENSIONS)
    dataset, said = opened(tmp_path, caplog)
    assert dataset.splits == {'train': 2}
    assert "1 in Apple's format HEIC: pip install 'vit_jax[heic]'" in said
    assert '(b/IMG_1.HEIC)' in said


@pytest.mark.parametrize('target', ['.', '..', '../a'])
def test_a_folder_is_entered_once(tmp_path, caplog, target):
    make(tmp_path, 'a/1.jpg', 'b/2.jpg')
    os.symlink(target, tmp_path / 'b/again')
    dataset, said = opened(tmp_path, caplog)
    assert relative(dataset.source('train'), tmp_path) == {'a/1.jpg', 'b/2.jpg'}
    assert '1 linked and there already (b/again)' in said
    assert names(Photos(tmp_path)) == [
        str(tmp_path / n) for n in ('a/1.jpg', 'b/2.jpg')
    ]


def test_two_classes_that_are_one_folder(tmp_path):
    make(tmp_path, 'a/1.jpg')
    os.symlink('a', tmp_path / 'b')
    with pytest.raises(ValueError, match="'b' leads to a folder that is there already"):
        data.open_folder(tmp_path)


def test_special_files_are_not_opened(tmp_path, caplog):
    make(tmp_path, 'a/1.jpg', 'b/2.jpg')
    os.mkfifo(tmp_path / 'a/pipe.jpg')
    dataset, said = opened(tmp_path, caplog)
    assert dataset.splits == {'train': 2}
    assert '1 no file but a pipe, socket or device (a/pipe.jpg)' in said


def test_prediction_walks_the_same_way(tmp_path, caplog):
    make(tmp_path, 'a/1.jpg', '2.jpg', 'b/notes.txt', '__MACOSX/3.jpg')
    os.symlink('.', tmp_path / 'again')
    assert names(Photos(tmp_path)) == [str(tmp_path / n) for n in ('2.jpg', 'a/1.jpg')]
    assert '1 of kind .txt (b/notes.txt)' in caplog.text


@pytest.mark.parametrize(
    ('variables', 'message'),
    [({}, 'is not UTF-8'), ({'LC_ALL': 'C', 'PYTHONUTF8': '0'}, 'is not UTF-8')],
)
def test_a_class_that_is_no_text_is_named(tmp_path, variables, message):
    make(tmp_path, 'cat/1.jpg')
    folder = os.fsencode(tmp_path) + b'/\xc4pfel'
    os.mkdir(folder)
    with open(folder + b'/1.jpg', 'wb') as file:
        file.write(jpeg())
    done = opened_elsewhere(tmp_path, variables)
    assert f'\\xc4pfel: the name of this folder {message}' in done.stderr
    assert 'convmv' in done.stderr


def test_python_that_takes_names_for_ascii(tmp_path):
    make(tmp_path, 'cat/1.jpg', 'Äpfel/1.jpg')
    strange = {'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'}
    done = opened_elsewhere(tmp_path, strange)
    assert 'Set the variable PYTHONUTF8=1' in done.stderr
    done = opened_elsewhere(tmp_path, strange | {'PYTHONUTF8': '1'})
    assert done.stdout.strip() == "('cat', 'Äpfel')"


def opened_elsewhere(root, variables) -> subprocess.CompletedProcess:
    code = (
        'import sys; from vit_jax import data;'
        'print(data.open_folder(sys.argv[1]).class_names)'
    )
    return subprocess.run(
        [sys.executable, '-c', code, root],
        env=os.environ | variables,
        capture_output=True,
        encoding='utf-8',
    )


def test_extensions_are_what_pillow_reads():
    Image.init()
    known = Image.registered_extensions()
    unknown = walk.EXTENSIONS - {'.npy'} - {*known}
    assert unknown <= {'.avif', '.npy'}  # since Pillow 11.3; NumPy's own
