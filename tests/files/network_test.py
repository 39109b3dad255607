"""Whether a server can be reached; and what commands say where none can."""

import contextlib
import socket
import time

import processes
import pytest

from vit_jax import main, predict
from vit_jax.files import fetch, network


@pytest.fixture
def nobody(monkeypatch):
    """Returns an address at which nobody listens; no proxy is set."""
    for name in ('http_proxy', 'https_proxy', 'no_proxy', 'all_proxy'):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with contextlib.closing(socket.create_server(('127.0.0.1', 0))) as server:
        port = server.getsockname()[1]
    return f'http://127.0.0.1:{port}'


def test_a_server_that_answers_and_one_that_does_not(nobody):
    assert 'refused' in network.unreachable(f'{nobody}/file.npz')
    assert 'offline?' in network.unreachable('https://no-such-host.invalid')
    port = int(nobody.rpartition(':')[2])
    with contextlib.closing(socket.create_server(('127.0.0.1', port))):
        assert network.unreachable(f'{nobody}/file.npz') == ''


def test_a_proxy_is_asked_in_its_place(nobody, monkeypatch):
    monkeypatch.setenv('https_proxy', nobody)
    assert '127.0.0.1 cannot' in network.unreachable('https://no-such-host.invalid/x')
    port = int(nobody.rpartition(':')[2])
    with contextlib.closing(socket.create_server(('127.0.0.1', port))):
        assert network.unreachable('https://no-such-host.invalid/x') == ''
    monkeypatch.setenv('no_proxy', 'no-such-host.invalid')
    assert 'no-such-host.invalid cannot' in network.unreachable(
        'https://no-such-host.invalid/x'
    )


@pytest.mark.parametrize('dataset', ['cifar10', 'hf:owner/name'])
def test_a_dataset_without_a_network_is_said_soon(
    nobody, dataset, tmp_path, monkeypatch, capsys
):
    if dataset.startswith('hf:'):
        pytest.importorskip('datasets')
    monkeypatch.setenv('VIT_JAX_CIFAR_URL', nobody)
    monkeypatch.setenv(fetch.HUB_VARIABLE, nobody)
    recipe = processes.write_recipe(tmp_path / 'tiny.py', dataset)
    command = [f'--config.tfds_data_dir={tmp_path}/data', f'--workdir={tmp_path}/run']
    begin = time.monotonic()
    assert main.main(['main', f'--config={recipe}', *command]) == 2
    assert time.monotonic() - begin < 20
    said = capsys.readouterr().err
    assert '127.0.0.1 cannot be reached' in said
    assert 'Is this machine offline?' in said


def test_weights_of_the_hub_without_a_network_are_said_soon(
    nobody, tmp_path, monkeypatch, capsys
):
    pytest.importorskip('huggingface_hub')
    monkeypatch.setenv(fetch.HUB_VARIABLE, nobody)
    monkeypatch.setenv(fetch.CACHE_VARIABLE, str(tmp_path))
    photo = processes.ROOT / 'docs' / 'digits' / '3.png'
    begin = time.monotonic()
    assert predict.main(['hf://owner/name', str(photo)]) == 2
    assert time.monotonic() - begin < 20
    assert '127.0.0.1 cannot be reached' in capsys.readouterr().err
