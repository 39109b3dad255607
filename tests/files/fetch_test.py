"""What a reference to weights may be, and what is said of those that are none."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import web

from vit_jax import checkpoint
from vit_jax.files import fetch

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def folder(tmp_path):
    for name in ('ViT-B_16.npz', 'ViT-B_32.npz', 'R50+ViT-B_16.npz', 'notes.txt'):
        (tmp_path / name).touch()
    return tmp_path


def test_files(folder, monkeypatch):
    assert fetch.resolve(folder / 'ViT-B_16.npz') == folder / 'ViT-B_16.npz'
    monkeypatch.setenv('HOME', str(folder))
    assert fetch.resolve('~/ViT-B_16.npz') == folder / 'ViT-B_16.npz'
    assert fetch.resolve('~/R50+ViT-B_16.npz') == folder / 'R50+ViT-B_16.npz'


def test_missing_file(folder, tmp_path):
    with pytest.raises(ValueError, match=r'no .*ViT-B_61\.npz\. Did you mean') as e:
        fetch.resolve(folder / 'ViT-B_61.npz')
    assert isinstance(e.value, FileNotFoundError)
    for name in ('ViT-B_16.npz', 'ViT-B_32.npz', 'R50+ViT-B_16.npz'):
        assert name in str(e.value)
    assert 'notes.txt' not in str(e.value)
    with pytest.raises(ValueError, match=r'The folder .*nowhere does not exist either'):
        fetch.resolve(folder / 'nowhere' / 'ViT-B_16.npz')
    (folder / 'empty').mkdir()
    with pytest.raises(ValueError, match=r'empty holds no \.npz'):
        fetch.resolve(folder / 'empty' / 'ViT-B_16.npz')


def test_runs(tmp_path):
    run = tmp_path / 'run'
    run.mkdir()
    (tmp_path / 'ViT-B_16.npz').touch()
    with pytest.raises(ValueError, match='a folder, but not that of a run'):
        fetch.resolve(run)
    (run / 'run.json').touch()
    with pytest.raises(ValueError, match=r'has not finished.* Resume it'):
        fetch.resolve(run)
    (run / 'model.npz').touch()
    assert fetch.resolve(run) == run / 'model.npz'
    with pytest.raises(ValueError, match='evaluated no val split'):
        fetch.resolve(run, best=True)
    (run / 'model_best.npz').touch()
    assert fetch.resolve(run, best=True) == run / 'model_best.npz'
    assert fetch.resolve(run / 'model.npz') == run / 'model.npz'


# From the web.


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Yields a server with one file; downloads go to a cache of their own."""
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    monkeypatch.setenv(fetch.CACHE_VARIABLE, str(tmp_path / 'cache'))
    # Between tries pooch waits some seconds.
    monkeypatch.setattr('time.sleep', lambda seconds: None)
    with web.serving() as server:
        server.files['/ViT-B_16.npz'] = CONTENT
        yield server


def test_download_once(server, tmp_path, capfd):
    url = f'{server.url}/ViT-B_16.npz'
    path = fetch.resolve(url)
    assert path.name == 'ViT-B_16.npz'
    assert tmp_path / 'cache' in path.parents
    assert path.read_bytes() == CONTENT
    assert '1.02M' in capfd.readouterr().err  # the progress bar
    server.files.clear()
    assert fetch.resolve(url) == path
    assert server.gets('/ViT-B_16.npz') == 1


def test_addresses_do_not_mix(server):
    server.files['/other/ViT-B_16.npz'] = b'other'
    first = fetch.resolve(f'{server.url}/ViT-B_16.npz')
    second = fetch.resolve(f'{server.url}/other/ViT-B_16.npz')
    assert (first.read_bytes(), second.read_bytes()) == (CONTENT, b'other')


@pytest.mark.parametrize(
    'fault', ['truncate', 500, 503, 429, ('redirect', '/moved.npz')]
)
def test_tried_again(server, fault):
    server.files['/moved.npz'] = CONTENT
    server.faults['/ViT-B_16.npz'] = [2, fault]
    assert fetch.resolve(f'{server.url}/ViT-B_16.npz').read_bytes() == CONTENT


def test_stalled_server(server, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    monkeypatch.setattr(fetch, 'TIMEOUT', 0.2)
    monkeypatch.setattr(fetch, '_RETRIES', 1)
    server.stall_seconds = 1.5
    server.faults['/x.npz'] = [9, 'stall']
    server.files['/x.npz'] = CONTENT
    with pytest.raises(ValueError, match=r'sent nothing for .* 2 times'):
        fetch.resolve(f'{server.url}/x.npz')
    server.faults.clear()
    assert fetch.resolve(f'{server.url}/x.npz').read_bytes() == CONTENT


@pytest.mark.parametrize(
    ('fault', 'message', 'tries'),
    [
        (403, 'access is refused .403.', 1),
        (401, 'access is refused .401.', 1),
        (404, 'no such file .404.', 1),
        (500, 'the server answered 500', 4),
        ('truncate', 'connection broke before the end, 4 times', 4),
    ],
)
def test_told_and_nothing_kept(server, tmp_path, fault, message, tries):
    path = '/vit_models/imagenet21k/ViT-B_16.npz'
    server.files[path] = CONTENT
    server.faults[path] = [99, fault]
    with pytest.raises(ValueError, match=message) as e:
        fetch.resolve(f'{server.url}{path}')
    assert 'hf://timm/vit_base_patch16_224.orig_in21k' in str(e.value)
    assert server.gets(path) == tries
    kept = [p for p in (tmp_path / 'cache').rglob('*') if p.is_file()]
    assert [p.name for p in kept] == ['.lock']


def test_no_server(server):
    url = server.url
    server.server_close()
    with pytest.raises(ValueError, match=r'cannot be reached .* offline\?'):
        fetch.resolve(f'{url}/ViT-B_16.npz')


def test_checksum(server):
    url = f'{server.url}/ViT-B_16.npz'
    assert fetch.resolve(f'{url}#sha256={SHA256}').read_bytes() == CONTENT
    with pytest.raises(ValueError, match='another checksum than expected'):
        fetch.resolve(f'{url}#sha256={"0" * 64}')
    with pytest.raises(ValueError, match='is no checksum'):
        fetch.resolve(f'{url}#abc')


def test_a_damaged_copy_is_downloaded_again(server):
    url = f'{server.url}/ViT-B_16.npz#sha256={SHA256}'
    fetch.resolve(url).write_bytes(b'damaged')
    assert fetch.resolve(url).read_bytes() == CONTENT


def test_public_bucket(server, monkeypatch):
    monkeypatch.setenv(fetch.GCS_VARIABLE, server.url)
    server.files['/vit_models/imagenet21k/R50+ViT-B_16.npz'] = CONTENT
    path = fetch.resolve('gs://vit_models/imagenet21k/R50+ViT-B_16.npz')
    assert path.name == 'R50+ViT-B_16.npz'
    assert path.read_bytes() == CONTENT
    with pytest.raises(
        ValueError, match=r'gs://vit_models/sam/ViT-L_32\.npz: there is'
    ):
        fetch.resolve('gs://vit_models/sam/ViT-L_32.npz')


def test_several_processes_download_once(server, tmp_path):
    program = 'import sys; from vit_jax.checkpoint import fetch; '
    program += 'print(fetch.resolve(sys.argv[1]))'
    command = [sys.executable, '-c', program, f'{server.url}/ViT-B_16.npz']
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    paths = {process.communicate()[0] for process in running}
    assert len(paths) == 1
    assert server.gets('/ViT-B_16.npz') == 1


def test_full_disk(server, tmp_path):
    program = (
        'import resource, signal, sys; from vit_jax.checkpoint import fetch; '
        'signal.signal(signal.SIGXFSZ, signal.SIG_IGN); '
        'resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); '
        'fetch.resolve(sys.argv[1])'
    )
    command = [sys.executable, '-c', program, f'{server.url}/ViT-B_16.npz']
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 'OSError' in found.stderr
    assert f'set {fetch.CACHE_VARIABLE} to a folder with more room' in found.stderr
    assert not list((tmp_path / 'cache').rglob('*.npz'))


def test_other_schemes():
    with pytest.raises(ValueError, match='not from s3://'):
        fetch.resolve('s3://bucket/ViT-B_16.npz')


# From the hub.


@pytest.fixture
def hub(server, monkeypatch):
    monkeypatch.setenv('HF_ENDPOINT', server.url)
    server.add_repo('timm/vit', {'config.json': b'{}', 'model.safetensors': b'weights'})
    return server


def test_repository(hub, tmp_path):
    folder = fetch.resolve('hf://timm/vit')
    assert tmp_path / 'cache' in folder.parents
    assert (folder / 'model.safetensors').read_bytes() == b'weights'
    assert (folder / 'config.json').read_bytes() == b'{}'


def test_file_and_revision_of_a_repository(hub):
    hub.add_repo('me/mirror', {'a/ViT-B_16.npz': CONTENT}, revision='v2')
    path = fetch.resolve('hf://me/mirror/a/ViT-B_16.npz@v2')
    assert path.name == 'ViT-B_16.npz'
    assert path.read_bytes() == CONTENT
    with pytest.raises(ValueError, match='me/mirror has no file a/ViT'):
        fetch.resolve('hf://me/mirror/a/ViT-B_16.npz')  # not on main


def test_weights_in_several_files(hub):
    index = {'weight_map': {'a': 'model-1.safetensors', 'b': 'model-2.safetensors'}}
    files = {'model-1.safetensors': b'1', 'model-2.safetensors': b'2'}
    files['model.safetensors.index.json'] = web.as_json(index)
    hub.add_repo('me/large', files)
    folder = fetch.resolve('hf://me/large')
    assert {p.name for p in folder.iterdir()} == set(files)


def test_no_such_repository_and_no_weights(hub):
    with pytest.raises(ValueError, match=r'holds none of model\.safetensors'):
        fetch.resolve('hf://nobody/nothing')
    with pytest.raises(ValueError, match='expected hf://owner/repo'):
        fetch.resolve('hf://vit')


def test_hub_from_the_cache_when_it_cannot_be_reached(hub, monkeypatch):
    folder = fetch.resolve('hf://timm/vit')
    hub.server_close()
    assert fetch.resolve('hf://timm/vit') == folder
    with pytest.raises(ValueError, match='hf://google/vit-base-patch16-224'):
        fetch.resolve('hf://google/vit-base-patch16-224')


# Through the commands.


def test_fine_tune_from_the_web(server, photos, tmp_path):
    from conftest import tiny_config

    from vit_jax import train

    config = tiny_config(photos, total_steps=1)
    first = train.train_and_evaluate(config, tmp_path / 'first')[0]
    checkpoint.save(tmp_path / 'tiny.npz', first)
    server.files['/w/testing.npz'] = (tmp_path / 'tiny.npz').read_bytes()
    config.pretrained_dir = f'{server.url}/w'
    config.pretrained = f'{config.pretrained_dir}/testing.npz'
    params, _ = train.train_and_evaluate(config, tmp_path / 'second')
    # The first step of the warm-up has rate 0: these are the file's.
    cls = [tree['cls'] for tree in (params, first)]
    assert np.array_equal(*cls)
    assert server.gets('/w/testing.npz') == 1


def test_evaluate_says_what_went_wrong(server):
    command = [sys.executable, '-m', 'vit_jax.evaluate']
    command += [f'{server.url}/imagenet21k/ViT-H_14.npz', '--dataset', 'digits']
    found = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ
    )
    assert found.returncode == 2
    assert found.stderr.count('\n') == 1
    assert '404' in found.stderr
    assert 'hf://google/vit-huge-patch14-224-in21k' in found.stderr
