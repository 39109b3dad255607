"""python -m vit_jax.visualize, through the entry point."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from tiny_models import MIXER, make_album, save_model

from vit_jax.visualize.__main__ import main


@pytest.fixture
def album(tmp_path):
    return make_album(tmp_path)


@pytest.fixture
def run_dir(tmp_path):
    folder = save_model(tmp_path / 'run')
    lines = [{'step': s, 'loss': 1 / s, 'val_loss': 1.0} for s in (1, 2, 3)]
    (folder / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    return folder


def arrays(path) -> dict[str, np.ndarray]:
    with np.load(path) as file:  # without pickles
        return dict(file)


def test_a_run_and_photos(run_dir, album, tmp_path):
    out = tmp_path / 'a' / 'b'
    done = subprocess.run(
        [sys.executable, '-W', 'error', '-m', 'vit_jax.visualize', str(run_dir),
         '--out', str(out), str(album)],
        capture_output=True, text=True, check=False,
        env={**os.environ, 'DISPLAY': ''},
    )  # fmt: skip
    # Not that it is silent: matplotlib may tell that it looks for fonts.
    assert done.returncode == 0, done.stderr
    names = {
        'filters.png', 'filters.npz', 'position_embeddings.png',
        'position_embeddings.npz', 'attention_distance.png', 'attention.npz',
        'attention_rollout_1.png', 'attention_rollout_2.png',
        'learning_curves.png', 'learning_curves.npz',
    }  # fmt: skip
    assert {path.name for path in out.iterdir()} == names
    assert done.stdout.split() == [str(out / n) for n in map(os.path.basename,
        done.stdout.split())]  # fmt: skip
    for path in out.glob('*.png'):
        with Image.open(path) as image:
            assert image.format == 'PNG'
            assert len(np.unique(np.asarray(image.convert('RGB')))) > 20
    found = arrays(out / 'attention.npz')
    assert found['distance'].shape == (9, 3, 3)
    assert found['rollout'].shape == (9, 3, 5)
    assert found['names'].tolist() == [str(album / f'{i}.png') for i in range(9)]
    assert found['patch'].tolist() == [4, 4]
    assert arrays(out / 'filters.npz')['components'].shape == (12, 4, 4, 3)
    assert arrays(out / 'position_embeddings.npz')['patches'].shape == (3, 5, 3, 5)
    curves = arrays(out / 'learning_curves.npz')
    assert curves['loss/step'].tolist() == [1, 2, 3]


def test_a_dataset(run_dir, photos, tmp_path):
    argv = ['--checkpoint', str(run_dir), '--out', str(tmp_path / 'out')]
    assert main([*argv, '--dataset', str(photos), '--num_images', '11',
        '--num_rollouts', '20']) == 0  # fmt: skip
    assert len(arrays(tmp_path / 'out/attention.npz')['index']) == 11
    assert (tmp_path / 'out/attention_rollout_2.png').exists()


def test_without_images_the_rest_is_shown(run_dir, tmp_path, capsys):
    assert main([str(run_dir), '--out', str(tmp_path / 'out')]) == 0
    assert 'attention: no images: name photos' in capsys.readouterr().out
    assert (tmp_path / 'out/learning_curves.png').exists()
    assert not (tmp_path / 'out/attention.npz').exists()


def test_the_dataset_of_a_card_that_is_gone(run_dir, tmp_path, capsys):
    card = json.loads((run_dir / 'model.json').read_text())
    card['source'] = {'dataset': str(tmp_path / 'gone'), 'test_split': 'test'}
    (run_dir / 'model.json').write_text(json.dumps(card))
    assert main([str(run_dir), '--out', str(tmp_path / 'out')]) == 0
    assert 'because dataset' in capsys.readouterr().out


def test_a_run_under_way_has_its_curves(run_dir, tmp_path, capsys):
    (run_dir / 'model.npz').unlink()
    (run_dir / 'checkpoints').mkdir()
    assert main([str(run_dir), '--out', str(tmp_path / 'out')]) == 2
    assert 'has not finished' in capsys.readouterr().err
    names = {path.name for path in (tmp_path / 'out').iterdir()}
    assert names == {'learning_curves.png', 'learning_curves.npz'}


def test_images_of_unusual_sizes(run_dir, tmp_path, capsys):
    Image.new('RGB', (1, 1)).save(tmp_path / 'dot.png')
    Image.new('L', (3000, 2)).save(tmp_path / 'line.png')
    # 400 million pixels, in a file of 50 kB.
    Image.new('1', (20_000, 20_000)).save(tmp_path / 'wall.png')
    names = [str(tmp_path / name) for name in ('dot.png', 'line.png', 'wall.png')]
    assert main([str(run_dir), '--out', str(tmp_path / 'out'), *names]) == 1
    assert 'wall.png does not decode' in capsys.readouterr().err
    assert arrays(tmp_path / 'out/attention.npz')['index'].tolist() == [0, 1]


def test_a_mixer_and_a_hybrid(album, tmp_path, capsys):
    mixer = save_model(tmp_path / 'mixer', MIXER)
    out = tmp_path / 'out'
    assert main([str(mixer), '--out', str(out), str(album)]) == 0
    told = capsys.readouterr().out
    assert 'attention: tiny mixer has no attention' in told
    assert 'position_embeddings: tiny mixer has no position embeddings' in told
    assert {path.stem for path in out.iterdir()} == {'filters', 'token_mixing'}

    resnet = {'num_layers': (1,), 'width_factor': 0.5}
    changes = {'patches': {'size': (1, 1)}, 'resnet': resnet}
    hybrid = save_model(tmp_path / 'hybrid', **changes)
    out = tmp_path / 'out-hybrid'
    assert main([str(hybrid), '--out', str(out), str(album / '1.png')]) == 0
    assert arrays(out / 'filters.npz')['components'].shape == (28, 7, 7, 3)
    assert arrays(out / 'attention.npz')['rollout'].shape == (1, 3, 5)


def test_a_broken_photo_does_not_stop_the_others(run_dir, album, tmp_path, capsys):
    (album / '3.png').write_bytes(b'')
    (album / '5.png').write_bytes(b'no image')
    assert main([str(run_dir), '--out', str(tmp_path / 'out'), str(album)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(':')[0] for line in lines] == ['visualize'] * 2
    assert '3.png does not decode: the file is empty' in lines[0]
    assert '5.png does not decode' in lines[1]
    index = arrays(tmp_path / 'out/attention.npz')['index']
    assert index.tolist() == [0, 1, 2, 4, 6, 7, 8]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'no model is named'),
        (['nowhere.npz'], 'There is no nowhere.npz'),
        (['{run}', 'nothing.jpg'], r'nothing.jpg: there is no such file'),
        (['{run}', '{album}', '--dataset', 'x'], 'both photos and --dataset'),
        (['{run}', '--dataset', './x'], "dataset './x' does not exist"),
    ],
)
def test_user_errors(run_dir, album, tmp_path, arguments, message, capsys):
    arguments = [a.format(run=run_dir, album=album) for a in arguments]
    out = tmp_path / 'out'
    assert main([*arguments, '--out', str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_no_photo_decodes(run_dir, album, tmp_path, capsys):
    for path in album.iterdir():
        path.write_bytes(b'no image')
    assert main([str(run_dir), '--out', str(tmp_path / 'out'), str(album)]) == 2
    assert 'none of the images decodes' in capsys.readouterr().err


def test_without_matplotlib(run_dir, tmp_path, monkeypatch, capsys):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        'importlib.util.find_spec', lambda n: None if n == 'matplotlib' else find(n)
    )
    assert main([str(run_dir), '--out', str(tmp_path / 'out')]) == 2
    assert "pip install 'vit_jax[plot]'" in capsys.readouterr().err
