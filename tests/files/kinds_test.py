"""What a file is, by how it begins."""

import pytest

from vit_jax.files import kinds


@pytest.mark.parametrize(
    ('start', 'kind'),
    [
        (b'\x89PNG\r\n\x1a\n', 'PNG'),
        (b'\xff\xd8\xff\xe0', 'JPEG'),
        (b'RIFF\x10\0\0\0WEBPVP8 ', 'WebP'),
        (b'\0\0\0\x18ftypheic', 'HEIC'),
        (b'\0\0\0\x1cftypavif', 'AVIF'),
        (b'\0\0\0\x18ftypmp42', 'film'),
        (b'<!DOCTYPE HTML>', 'web page (HTML)'),
        (b'\n <html lang="en">', 'web page (HTML)'),
        (b'version https://git-lfs.github.com/spec/v1\n', 'Git LFS pointer'),
        (b'\x89HDF\r\n\x1a\n', 'file of HDF5, as Keras writes it'),
        (b'PK\x03\x04', 'ZIP archive'),
        (b'', None),
        (b'nothing of the kind', None),
    ],
)
def test_kinds(start, kind):
    assert kinds.kind(start + bytes(600)) == kind


def test_what_to_do():
    assert 'git lfs pull' in kinds.hint('Git LFS pointer')
    assert kinds.hint('PNG') == kinds.hint(None) == ''
