"""Features in files that other programs read."""

import csv
import importlib.util
import os
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import tiny_config
from sklearn.neighbors import KNeighborsClassifier

from vit_jax import data, train
from vit_jax import features as door
from vit_jax.inference import features
from vit_jax.inference.predictor import PRE_LOGITS, Predictor


@pytest.fixture(scope='module')
def run(photos, tmp_path_factory):
    path = tmp_path_factory.mktemp('features') / 'run'
    train.train_and_evaluate(tiny_config(photos, base_lr=0.1), path)
    return path


@pytest.fixture(scope='module')
def expected(run, photos):
    """Returns the rows that the predictor gives."""
    source = data.open_dataset(str(photos)).source('test[60%:]')
    names = [PRE_LOGITS, 'Transformer/encoderblock_0/tokens', 'logits']
    rows = list(Predictor.load(run).outputs(source, names, batch=4))
    whole = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    whole['name'] = [source[i]['name'] for i in range(len(source))]
    return whole


def written(run, path, *arguments, code: int = 0):
    command = [str(run), '--out', str(path), '--batch', '4', *map(str, arguments)]
    assert door.main(command) == code
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    return path


def test_npz(run, tmp_path, expected):
    names = [PRE_LOGITS, 'Transformer/encoderblock_0/tokens']
    options = [word for name in names for word in ('--feature', name)]
    with np.load(written(run, tmp_path / 'f.npz', *options)) as found:
        assert set(found) == {*features.COLUMNS, *names}
        for name in (*names, 'label', 'index'):
            np.testing.assert_array_equal(found[name], expected[name])
        assert found['name'].tolist() == expected['name']
        assert found['class_names'].tolist() == ['cat', 'dog', 'eel']
        neighbours = KNeighborsClassifier(1).fit(found[PRE_LOGITS], found['label'])
        assert neighbours.score(found[PRE_LOGITS], found['label']) == 1


def test_nothing_but_pixels_is_read_twice(run, photos, tmp_path, monkeypatch):
    read = []
    real = data.folder.Files.__getitem__
    monkeypatch.setattr(
        data.folder.Files, '__getitem__', lambda s, i: read.append(i) or real(s, i)
    )
    source = data.open_dataset(str(photos)).source('test')
    predictor = Predictor.load(run)
    for kind in ('npz', 'csv'):
        read.clear()
        features.write(predictor, source, [PRE_LOGITS], tmp_path / f'f.{kind}')
        assert len(read) == len(source) == 15


def test_worker_processes(run, tmp_path, expected):
    with np.load(written(run, tmp_path / 'f.npz', '--num_workers', 2)) as found:
        np.testing.assert_array_equal(found[PRE_LOGITS], expected[PRE_LOGITS])
        assert found['name'].tolist() == expected['name']


def test_npy(run, tmp_path, expected):
    found = np.load(written(run, tmp_path / 'f.npy'))
    np.testing.assert_array_equal(found, expected[PRE_LOGITS])


def test_csv(run, tmp_path, expected):
    path = written(run, tmp_path / 'f.csv', '--feature', 'logits')
    found = pd.read_csv(path)
    assert list(found) == ['name', 'label', 'class', 'f0', 'f1', 'f2']
    numbers = found[['f0', 'f1', 'f2']].to_numpy(np.float32)
    # As few digits as say which float32 it is.
    text = path.read_text().splitlines()[1].rsplit(',', 3)[1:]
    assert text == [str(x) for x in expected['logits'][0]]
    np.testing.assert_array_equal(numbers, expected['logits'])
    assert found['name'].tolist() == expected['name']
    names = np.array(['cat', 'dog', 'eel'])[found['label']]
    assert (found['class'] == names).all()


def test_parquet(run, tmp_path, expected):
    options = ['--feature', 'logits', '--feature', PRE_LOGITS]
    path = written(run, tmp_path / 'f.parquet', *options)
    found = pd.read_parquet(path)
    width = expected[PRE_LOGITS].shape[1]
    assert found.shape == (6, 3 + 3 + width)
    assert found['name'].tolist() == expected['name']
    assert set(found['class']) <= {'cat', 'dog', 'eel'}
    assert found['label'].tolist() == expected['label'].tolist()
    assert set(found.dtypes.iloc[3:]) == {np.dtype(np.float32)}
    np.testing.assert_array_equal(
        found[[f'{PRE_LOGITS}/{i}' for i in range(width)]], expected[PRE_LOGITS]
    )


def test_parquet_in_parts(run, photos, tmp_path, monkeypatch):
    """Of a large dataset only some rows are in memory."""
    source = data.open_dataset(str(photos)).source('test')
    predictor = Predictor.load(run)
    features.write(predictor, source, ['logits'], tmp_path / 'whole.parquet')
    monkeypatch.setattr(features, '_AT_ONCE', 3 * 4)  # numbers: 4 rows of 3
    features.write(predictor, source, ['logits'], tmp_path / 'parts.parquet')
    assert pq.ParquetFile(tmp_path / 'whole.parquet').num_row_groups == 1
    assert pq.ParquetFile(tmp_path / 'parts.parquet').num_row_groups == 4
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / 'parts.parquet'),
        pd.read_parquet(tmp_path / 'whole.parquet'),
    )


def test_parquet_needs_a_library(run, tmp_path, monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda m: None if m == 'pyarrow' else real(m)
    )
    assert door.main([str(run), '--out', str(tmp_path / 'f.parquet')]) == 2
    assert 'pip install pyarrow' in capsys.readouterr().err


@pytest.mark.parametrize('kind', features.FORMATS)
def test_after_an_error_all_is_as_before(run, photos, tmp_path, monkeypatch, kind):
    out = tmp_path / f'f{kind}'
    out.write_bytes(b'the old one')
    leftover = tmp_path / f'.{out.name}.tmp'  # of a process that was killed
    leftover.touch()
    source = data.open_dataset(str(photos)).source('test')
    predictor = Predictor.load(run)
    real = predictor.outputs

    def outputs(*args, **kwargs):
        rows = real(*args, batch=8, **kwargs)
        yield next(rows)
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(predictor, 'outputs', outputs)
    with pytest.raises(OSError, match=rf'No space left on device while writing {out}'):
        features.write(predictor, source, ['logits'], out)
    assert out.read_bytes() == b'the old one'
    assert list(tmp_path.iterdir()) == [out]
    monkeypatch.undo()
    assert features.write(predictor, source, ['logits'], out) == 15
    assert out.read_bytes() != b'the old one'
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize('kind', ['.npz', '.csv', '.parquet'])
def test_names_of_files_that_are_no_text(run, photos, tmp_path, kind):
    folder = tmp_path / 'photos'
    folder.mkdir()
    names = [os.fsdecode(b'caf\xe9.png'), 'a "b", c.png', '\u6587.png']
    for name in names:
        try:
            shutil.copy(photos / 'test' / 'cat' / '0.png', folder / name)
        except OSError:
            pytest.skip('file names are text here')
    out = tmp_path / f'f{kind}'
    assert door.main([str(run), str(folder), '--out', str(out)]) == 0
    if kind == '.npz':
        with np.load(out) as found:
            told = found['name'].tolist()
    elif kind == '.csv':
        with out.open(newline='', encoding='utf-8', errors='surrogateescape') as file:
            told = [row['name'] for row in csv.DictReader(file)]
    else:
        told = pd.read_parquet(out)['name'].tolist()
        names[0] = 'caf\\udce9.png'
    assert sorted(told) == sorted(str(folder / name) for name in names)


def test_photos_without_labels(run, photos, tmp_path):
    files = [photos / 'test' / 'cat', photos / 'test' / 'dog' / '0.png']
    path = tmp_path / 'f.csv'
    command = [str(run), *map(str, files), '--out', str(path)]
    assert door.main(command) == 0
    found = pd.read_csv(path)
    assert len(found) == 6
    assert (found['label'] == -1).all()
    assert found['class'].isna().all()


def test_bfloat16_becomes_float32(run, photos, tmp_path):
    predictor = Predictor.load(run, dtype='bfloat16')
    name = 'Transformer/encoderblock_0/tokens'
    source = data.open_dataset(str(photos)).source('test')
    features.write(predictor, source, [name], tmp_path / 'f.npy')
    assert np.load(tmp_path / 'f.npy').dtype == np.float32


def test_the_list(run, capsys):
    assert door.main([str(run), '--list']) == 0
    told = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert told['logits'] == '3'
    assert PRE_LOGITS in told


def test_what_does_not_decode(run, photos, tmp_path, capsys):
    (tmp_path / 'broken.png').write_bytes(b'no image')
    good = photos / 'test' / 'cat' / '0.png'
    out = tmp_path / 'out' / 'f.npz'
    command = [str(run), str(tmp_path / 'broken.png'), str(good), '--out', str(out)]
    assert door.main(command) == 2
    assert 'broken.png does not decode' in capsys.readouterr().err
    assert list(out.parent.iterdir()) == []  # nothing half-made
    assert door.main([*command, '--skip_corrupt']) == 1
    assert '1 of 2 images do not decode' in capsys.readouterr().err
    with np.load(out) as found:
        assert found['name'].tolist() == [str(good)]
        assert found['index'].tolist() == [1]
        assert len(found[PRE_LOGITS]) == 1


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'no model is named'),
        (['{run}'], '--out is missing'),
        (['{run}', '--out', 'f.txt'], 'should end with one of .npz'),
        (['{run}', '--out', 'f.npz', '--feature', 'logit'], 'Did you mean logits'),
        (
            ['{run}', '--out', 'f.npy', '--feature', 'logits', '--feature', PRE_LOGITS],
            'holds one array, 2 are asked for',
        ),
        (['{run}', 'x.png', '--dataset', 'digits', '--out', 'f.npz'], 'leave one out'),
        (['{run}', '{tmp}', '--out', 'f.npz'], 'no images in this folder'),
        (['{run}', '--split', 'test[:0]', '--out', 'f.npz'], 'no examples'),
        (['{run}', '--split', 'tset', '--out', 'f.npz'], 'Did you mean test'),
        (['{run}', '--out', 'gs://bucket/f.npz'], 'is a URL'),
    ],
)
def test_bad_input(run, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    arguments = [a.format(run=run, tmp=tmp_path) for a in arguments]
    assert door.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_that_name(run, tmp_path, capsys):
    out = tmp_path / 'f.npz'
    out.mkdir()
    assert door.main([str(run), '--out', str(out)]) == 2
    assert 'is a folder' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [out]
