"""Downloads, against a web server that misbehaves."""

import hashlib
import pathlib
import subprocess
import sys

import pytest

from vit_jax.files import fetch

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(web_server):
    """Returns a web server with one file."""
    web_server.files['/ViT-B_16.npz'] = CONTENT
    return web_server


def test_download_once(server, tmp_path, capfd):
    url = f'{server.url}/ViT-B_16.npz'
    path = fetch.local(url)
    assert path.name == 'ViT-B_16.npz'
    assert tmp_path / 'cache' in path.parents
    assert path.read_bytes() == CONTENT
    assert '1.02M' in capfd.readouterr().err  # the progress bar
    server.files.clear()
    assert fetch.local(url) == path
    assert server.gets('/ViT-B_16.npz') == 1


def test_addresses_do_not_mix(server):
    server.files['/other/ViT-B_16.npz'] = b'other'
    first = fetch.local(f'{server.url}/ViT-B_16.npz')
    second = fetch.local(f'{server.url}/other/ViT-B_16.npz')
    assert (first.read_bytes(), second.read_bytes()) == (CONTENT, b'other')


@pytest.mark.parametrize(
    'fault', ['truncate', 500, 503, 429, ('redirect', '/moved.npz')]
)
def test_tried_again(server, fault):
    server.files['/moved.npz'] = CONTENT
    server.faults['/ViT-B_16.npz'] = [2, fault]
    assert fetch.local(f'{server.url}/ViT-B_16.npz').read_bytes() == CONTENT


def test_stalled_server(server, monkeypatch):
    monkeypatch.setattr(fetch, 'TIMEOUT', 0.2)
    monkeypatch.setattr(fetch, '_RETRIES', 1)
    server.stall_seconds = 1.5
    server.faults['/x.npz'] = [9, 'stall']
    server.files['/x.npz'] = CONTENT
    with pytest.raises(ValueError, match=r'sent nothing for .* 2 times'):
        fetch.local(f'{server.url}/x.npz')
    server.faults.clear()
    assert fetch.local(f'{server.url}/x.npz').read_bytes() == CONTENT


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
        fetch.local(f'{server.url}{path}')
    assert str(e.value) == f'{server.url}{path}: {e.value.reason}'
    assert server.gets(path) == tries
    kept = [p for p in (tmp_path / 'cache').rglob('*') if p.is_file()]
    assert [p.name for p in kept] == ['.lock']


def test_no_server(server):
    url = server.url
    server.server_close()
    with pytest.raises(ValueError, match=r'cannot be reached .* offline\?'):
        fetch.local(f'{url}/ViT-B_16.npz')


@pytest.mark.parametrize('url', ['http://[/b.npz', 'http://?/b.npz'])
def test_addresses_that_are_none(web_server, url):
    with pytest.raises(fetch.DownloadError, match='cannot be followed'):
        fetch.local(url)


def test_a_limit_and_a_folder_of_ones_own(server, tmp_path, capfd):
    url = f'{server.url}/ViT-B_16.npz'
    with pytest.raises(fetch.DownloadError, match='it has more than 0 MiB'):
        fetch.local(url, folder=tmp_path / 'mine', max_bytes=len(CONTENT) - 1)
    assert server.gets('/ViT-B_16.npz') == 1
    path = fetch.local(url, folder=tmp_path / 'mine', max_bytes=len(CONTENT))
    assert path.read_bytes() == CONTENT
    assert path.parent.parent == tmp_path / 'mine'
    assert capfd.readouterr().err == ''


def test_checksum(server):
    url = f'{server.url}/ViT-B_16.npz'
    assert fetch.local(f'{url}#sha256={SHA256}').read_bytes() == CONTENT
    with pytest.raises(ValueError, match='another checksum than expected'):
        fetch.local(f'{url}#sha256={"0" * 64}')
    with pytest.raises(ValueError, match='is no checksum'):
        fetch.local(f'{url}#abc')


def test_a_damaged_copy_is_downloaded_again(server):
    url = f'{server.url}/ViT-B_16.npz#sha256={SHA256}'
    fetch.local(url).write_bytes(b'damaged')
    assert fetch.local(url).read_bytes() == CONTENT


def test_public_bucket(server, monkeypatch):
    monkeypatch.setenv(fetch.GCS_VARIABLE, server.url)
    server.files['/vit_models/imagenet21k/R50+ViT-B_16.npz'] = CONTENT
    path = fetch.local('gs://vit_models/imagenet21k/R50+ViT-B_16.npz')
    assert path.name == 'R50+ViT-B_16.npz'
    assert path.read_bytes() == CONTENT
    with pytest.raises(
        ValueError, match=r'gs://vit_models/sam/ViT-L_32\.npz: there is'
    ):
        fetch.local('gs://vit_models/sam/ViT-L_32.npz')


def test_several_processes_download_once(server, tmp_path):
    program = 'import sys; from vit_jax.files import fetch; '
    program += 'print(fetch.local(sys.argv[1]))'
    command = [sys.executable, '-c', program, f'{server.url}/ViT-B_16.npz']
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    paths = {process.communicate()[0] for process in running}
    assert len(paths) == 1
    assert server.gets('/ViT-B_16.npz') == 1


def test_full_disk(server, tmp_path):
    program = (
        'import resource, signal, sys; from vit_jax.files import fetch; '
        'signal.signal(signal.SIGXFSZ, signal.SIG_IGN); '
        'resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); '
        'fetch.local(sys.argv[1])'
    )
    command = [sys.executable, '-c', program, f'{server.url}/ViT-B_16.npz']
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 'OSError' in found.stderr
    assert f'set {fetch.CACHE_VARIABLE} to a folder with more room' in found.stderr
    assert not list((tmp_path / 'cache').rglob('*.npz'))


def test_other_schemes():
    with pytest.raises(ValueError, match='not s3://'):
        fetch.local('s3://bucket/ViT-B_16.npz')


@pytest.mark.parametrize(
    'url', ['http://', 'gs://bucket', 'hf://owner/repo', 'hf:/owner/repo/file']
)
def test_addresses_that_name_no_file(url):
    with pytest.raises(ValueError, match=r'names no file; expected an address'):
        fetch.local(url)


def test_files():
    assert fetch.local('~/x.npz') == pathlib.Path('~/x.npz').expanduser()


def test_the_hub(web_server, monkeypatch):
    monkeypatch.setenv('HF_ENDPOINT', web_server.url)
    web_server.add_repo('me/mirror', {'a/x.npz': CONTENT}, revision='v2')
    assert fetch.local('hf://me/mirror/a/x.npz@v2').read_bytes() == CONTENT
    assert fetch.local('hf://me/mirror@v2/a/x.npz').read_bytes() == CONTENT
    with pytest.raises(fetch.MissingFileError, match='me/mirror has no file a/x'):
        fetch.local('hf://me/mirror/a/x.npz')  # not on main
