"""What a reference to weights may be, and what is said of those that are none."""

import pytest

from vit_jax.checkpoint import fetch


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


@pytest.mark.parametrize(
    'url',
    [
        'https://example.org/ViT-B_16.npz',
        'http://example.org/ViT-B_16.npz',
        'gs://vit_models/imagenet21k/ViT-B_16.npz',
        'hf:google/vit-base-patch16-224',
        'hf://google/vit-base-patch16-224',
    ],
)
def test_urls_are_not_read_yet(url):
    with pytest.raises(ValueError, match=r'not a local path.* download it first'):
        fetch.resolve(url)


def test_pretrained_dir_may_not_be_a_url():
    with pytest.raises(ValueError, match=r'gs://vit_models/sam/ViT-B_16\.npz is not'):
        fetch.resolve('gs://vit_models/sam/ViT-B_16.npz')


def test_runs(tmp_path):
    run = tmp_path / 'run'
    run.mkdir()
    (tmp_path / 'ViT-B_16.npz').touch()
    with pytest.raises(ValueError, match='a folder, but not that of a run'):
        fetch.resolve(run)
    (run / 'config.json').touch()
    with pytest.raises(ValueError, match=r'has not finished.* Resume it'):
        fetch.resolve(run)
    (run / 'model.npz').touch()
    assert fetch.resolve(run) == run / 'model.npz'
    with pytest.raises(ValueError, match='evaluated no val split'):
        fetch.resolve(run, best=True)
    (run / 'model_best.npz').touch()
    assert fetch.resolve(run, best=True) == run / 'model_best.npz'
    assert fetch.resolve(run / 'model.npz') == run / 'model.npz'
