"""Files that are no images are found by how they begin, before any work."""

import pytest
from photo_files import jpeg, make
from PIL import Image

from vit_jax import data
from vit_jax.data.datasets import walk


def test_whole_images_pass(tmp_path):
    paths = []
    for ending in sorted(walk.EXTENSIONS - {'.npy', '.avif'}):
        paths.append(tmp_path / f'x{ending}')
        Image.new('1' if ending == '.pbm' else 'RGB', (9, 7)).save(paths[-1])
    make(tmp_path, 'large.jpg')
    large = tmp_path / 'large.jpg'
    large.write_bytes(jpeg() + bytes(1 << 17))
    assert data.broken([*map(str, paths), str(large)]) == []


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (b'', 'the file is empty'),
        (b'<!DOCTYPE html>', 'it is a web page (HTML), not an image'),
        (b'version https://git-lfs.github.com/spec/v1', 'git lfs pull'),
        (jpeg()[:20], 'it ends before its size is told'),
        (b'nothing of the kind', 'no known image format begins with'),
        (b'%PDF-1.4', 'it is a PDF'),
    ],
)
def test_what_is_no_image_is_named(tmp_path, content, reason):
    path = tmp_path / 'x.jpg'
    path.write_bytes(content)
    ((name, why),) = data.broken([str(path)])
    assert name == str(path)
    assert reason in why


def test_what_is_not_there(tmp_path):
    ((_, why),) = data.broken([str(tmp_path / 'x.jpg')])
    assert why == 'No such file or directory'
