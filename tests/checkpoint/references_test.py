"""What a reference to weights may be, and what is said of those that are none."""

import os
import subprocess
import sys

import numpy as np
import pytest
import web

from vit_jax import checkpoint
from vit_jax.checkpoint import references

CONTENT = b'weights'


@pytest.fixture
def folder(tmp_path):
    for name in ('ViT-B_16.npz', 'ViT-B_32.npz', 'R50+ViT-B_16.npz', 'notes.txt'):
        (tmp_path / name).touch()
    return tmp_path


def test_files(folder, monkeypatch):
    assert references.resolve(folder / 'ViT-B_16.npz') == folder / 'ViT-B_16.npz'
    monkeypatch.setenv('HOME', str(folder))
    assert references.resolve('~/ViT-B_16.npz') == folder / 'ViT-B_16.npz'
    assert references.resolve('~/R50+ViT-B_16.npz') == folder / 'R50+ViT-B_16.npz'


def test_missing_file(folder, tmp_path):
    with pytest.raises(ValueError, match=r'no .*ViT-B_61\.npz\. Did you mean') as e:
        references.resolve(folder / 'ViT-B_61.npz')
    assert isinstance(e.value, FileNotFoundError)
    for name in ('ViT-B_16.npz', 'ViT-B_32.npz', 'R50+ViT-B_16.npz'):
        assert name in str(e.value)
    assert 'notes.txt' not in str(e.value)
    with pytest.raises(ValueError, match=r'The folder .*nowhere does not exist either'):
        references.resolve(folder / 'nowhere' / 'ViT-B_16.npz')
    (folder / 'empty').mkdir()
    with pytest.raises(ValueError, match=r'empty holds no \.npz'):
        references.resolve(folder / 'empty' / 'ViT-B_16.npz')


def test_runs(tmp_path):
    run = tmp_path / 'run'
    run.mkdir()
    (tmp_path / 'ViT-B_16.npz').touch()
    with pytest.raises(ValueError, match='a folder, but not that of a run'):
        references.resolve(run)
    (run / 'run.json').write_text('{"starts": []}')
    unfinished = pytest.raises(ValueError, match=r'has not finished.* Resume it')
    with unfinished:
        references.resolve(run)
    # The weights alone are no model, by whatever name.
    (run / 'model.npz').touch()
    for reference in (run, run / 'model.npz', run / 'model_best.npz'):
        with unfinished:
            references.resolve(reference)
    (run / 'run.json').write_text('{"summary": {"step": 2}}')
    assert references.resolve(run) == run / 'model.npz'
    with pytest.raises(ValueError, match=r'evaluated no val split.*--last'):
        references.resolve(run, best=True)
    (run / 'model_best.npz').touch()
    assert references.resolve(run, best=True) == run / 'model_best.npz'
    assert references.resolve(run / 'model.npz') == run / 'model.npz'


def test_the_best_on_val_where_val_has_chosen(tmp_path, caplog):
    caplog.set_level('INFO')
    (tmp_path / 'model.npz').touch()
    assert references.resolve(tmp_path) == tmp_path / 'model.npz'
    assert not caplog.text
    (tmp_path / 'model_best.npz').touch()
    assert references.resolve(tmp_path) == tmp_path / 'model_best.npz'
    assert 'best on val (--last: the last)' in caplog.text
    assert references.resolve(tmp_path, best=False) == tmp_path / 'model.npz'


# From elsewhere.


@pytest.mark.parametrize('fault', [404, 500])
def test_alternatives(web_server, fault):
    path = '/vit_models/imagenet21k/ViT-B_16.npz'
    web_server.faults[path] = [99, fault]
    with pytest.raises(ValueError, match=str(fault)) as e:
        references.resolve(f'{web_server.url}{path}')
    assert 'hf://timm/vit_base_patch16_224.orig_in21k' in str(e.value)


def test_other_schemes():
    with pytest.raises(ValueError, match='not s3://'):
        references.resolve('s3://bucket/ViT-B_16.npz')


@pytest.fixture
def hub(web_server, monkeypatch):
    monkeypatch.setenv('HF_ENDPOINT', web_server.url)
    files = {'config.json': b'{}', 'model.safetensors': CONTENT}
    web_server.add_repo('timm/vit', files)
    return web_server


def test_repository(hub, tmp_path):
    folder = references.resolve('hf://timm/vit')
    assert tmp_path / 'cache' in folder.parents
    assert (folder / 'model.safetensors').read_bytes() == b'weights'
    assert (folder / 'config.json').read_bytes() == b'{}'


def test_file_and_revision_of_a_repository(hub):
    hub.add_repo('me/mirror', {'a/ViT-B_16.npz': CONTENT}, revision='v2')
    path = references.resolve('hf://me/mirror/a/ViT-B_16.npz@v2')
    assert path.name == 'ViT-B_16.npz'
    assert path.read_bytes() == CONTENT
    with pytest.raises(ValueError, match='me/mirror has no file a/ViT'):
        references.resolve('hf://me/mirror/a/ViT-B_16.npz')  # not on main


def test_weights_in_several_files(hub):
    index = {'weight_map': {'a': 'model-1.safetensors', 'b': 'model-2.safetensors'}}
    files = {'model-1.safetensors': b'1', 'model-2.safetensors': b'2'}
    files['model.safetensors.index.json'] = web.as_json(index)
    hub.add_repo('me/large', files)
    folder = references.resolve('hf://me/large')
    assert {p.name for p in folder.iterdir()} == set(files)


def test_no_such_repository_and_no_weights(hub):
    with pytest.raises(ValueError, match=r'holds none of model\.safetensors'):
        references.resolve('hf://nobody/nothing')
    with pytest.raises(ValueError, match='expected hf://owner/repo'):
        references.resolve('hf://vit')


def test_hub_from_the_cache_when_it_cannot_be_reached(hub, monkeypatch):
    folder = references.resolve('hf://timm/vit')
    hub.server_close()
    assert references.resolve('hf://timm/vit') == folder
    with pytest.raises(ValueError, match='hf://google/vit-base-patch16-224'):
        references.resolve('hf://google/vit-base-patch16-224')


# Through the commands.


def test_fine_tune_from_the_web(web_server, photos, tmp_path):
    from conftest import tiny_config

    from vit_jax import train

    config = tiny_config(photos, total_steps=1)
    first = train.train_and_evaluate(config, tmp_path / 'first')[0]
    checkpoint.save(tmp_path / 'tiny.npz', first)
    web_server.files['/w/testing.npz'] = (tmp_path / 'tiny.npz').read_bytes()
    config.pretrained_dir = f'{web_server.url}/w'
    config.pretrained = f'{config.pretrained_dir}/testing.npz'
    params, _ = train.train_and_evaluate(config, tmp_path / 'second')
    # The first step of the warm-up has rate 0: these are the file's.
    cls = [tree['cls'] for tree in (params, first)]
    assert np.array_equal(*cls)
    assert web_server.gets('/w/testing.npz') == 1


def test_evaluate_says_what_went_wrong(web_server):
    command = [sys.executable, '-m', 'vit_jax.evaluate']
    command += [f'{web_server.url}/imagenet21k/ViT-H_14.npz', '--dataset', 'digits']
    found = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ
    )
    assert found.returncode == 2
    downloading, refused = found.stderr.splitlines()
    assert 'Downloading' in downloading
    assert '404' in refused
    assert 'hf://google/vit-huge-patch14-224-in21k' in found.stderr
