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
        (
            b'\x89HDF\r\n\x1a\n' + bytes(100),
            'it is a file of HDF5, as Keras',
        ),
        (
            b'<!DOCTYPE html><html>',
            r'is not an \.npz .*: it is a web page',
        ),
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


def test_the_weights_are_meant_and_not_what_lies_beside_them(tmp_path, capsys):
    (tmp_path / 'training_args.bin').write_bytes(b'PK')
    (tmp_path / 'pytorch_model.bin').write_bytes(bytes(1000))
    (tmp_path / 'optimizer.pt').write_bytes(b'PK')
    assert main([str(tmp_path), __file__]) == 2
    assert f"{tmp_path / 'pytorch_model.bin'} is PyTorch's" in capsys.readouterr().err
