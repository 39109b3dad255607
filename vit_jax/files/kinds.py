"""What a file is, by how it begins: images, and what people have in their place."""

import re

# Patterns of the first bytes, without regard to case -> what it is, for people.
_KINDS = (
    (rb'\x89PNG\r\n\x1a\n', 'PNG'),
    (rb'\xff\xd8', 'JPEG'),
    (rb'GIF8[79]a', 'GIF'),
    (rb'RIFF....WEBP', 'WebP'),
    (rb'BM', 'BMP'),
    (rb'II\*\0|MM\0\*', 'TIFF'),
    (rb'....ftyp(hei[cxms]|hev[cx]|mif1|msf1)', 'HEIC'),
    (rb'....ftypavi[fs]', 'AVIF'),
    (rb'%PDF-', 'PDF'),
    (rb'8BPS', 'Photoshop document'),
    (rb'\s*(<\?xml[^>]*>\s*)?<svg', 'SVG drawing'),
    (rb'\s*<(!doctype html|html)', 'web page (HTML)'),
    (rb'version https://git-lfs', 'Git LFS pointer'),
    (rb'PK\x03\x04', 'ZIP archive'),
    (rb'....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI ', 'film'),
    (rb'\x89HDF', 'file of HDF5, as Keras writes it'),
    (rb'\x08[\x01-\x10]\x12', 'model in ONNX'),
)
_HINTS = {
    'Git LFS pointer': "What it stands for comes with 'git lfs pull'",
    'web page (HTML)': 'The address gives a page, not what the page shows',
    'ZIP archive': 'Unpack it',
}
# So much of a file is looked at.
START = 512


def kind(data: bytes) -> str | None:
    """What a file is; None: it is nothing that is known here."""
    start = data[:START]
    for pattern, name in _KINDS:
        if re.match(pattern, start, re.DOTALL | re.IGNORECASE):
            return name
    return None


def hint(name: str | None) -> str:
    """What to do about a file that is in another's place; may be empty."""
    return _HINTS.get(name, '')
