"""Files of other tools: what they are, and what to type."""

import re

import pytest

import vit_jax
from vit_jax.predict import main


@pytest.mark.parametrize('name', ['model.npz', 'model.safetensors', 'x.npz'])
@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'version https://git-lfs.github.com/spec/v1\noid sha256:0\n', 'git lfs pull'),
        (b'\x89HDF\r\n\x1a\n' + bytes(100), 'HDF5, as Keras writes it'),
        (b'<!DOCTYPE html><html>', 'is a web page'),
    ],
)
def test_they_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        vit_jax.load(path)


@pytest.mark.parametrize('name', ['pytorch_model.bin', 'best.pt', 'last.pth', 'a.ckpt'])
def test_pickles_of_torch_are_not_read(tmp_path, name, capsys):
    (tmp_path / name).write_bytes(b'PK\x03\x04')
    for reference in (tmp_path, tmp_path / name):
        assert main([str(reference), __file__]) == 2
        said = capsys.readouterr().err
        assert "is PyTorch's pickle. Convert it once" in said
        typed = re.search('python -c "(.*)" (.*) (.*)', said)
        compile(typed[1], name, 'exec')
        assert typed[2] == str(tmp_path / name)
        assert typed[3] == str(tmp_path / 'model.safetensors')
