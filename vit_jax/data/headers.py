"""Whether image files can be images, told from how they begin, before any work."""

import concurrent.futures
import io
import os
from collections.abc import Iterable

from vit_jax.data.datasets.walk import HEIC, extensions
from vit_jax.data.images import containers, jpeg
from vit_jax.files import kinds

# What says which size an image has stands here, but for rare files.
_START = 1 << 16
_THREADS = 16
_NPY = b'\x93NUMPY'


def broken(paths: Iterable[str]) -> list[tuple[str, str]]:
    """The files that are no images, with the reason; damage inside is not seen.

    Args:
      paths: of image files on this machine.
    """
    paths = list(paths)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        reasons = pool.map(_reason, paths)
        return [(p, why) for p, why in zip(paths, reasons, strict=True) if why]


def _reason(path: str) -> str:
    try:
        with open(path, 'rb') as file:
            start = file.read(_START)
            is_whole = os.fstat(file.fileno()).st_size <= _START
    except OSError as error:
        return error.strerror or str(error)
    if not start:
        return 'the file is empty'
    if start.startswith(_NPY):
        return ''
    kind = kinds.kind(start)
    if kind == 'JPEG':
        has_size = not is_whole or all(jpeg.read_header(start).seen)
        return '' if has_size else 'it ends before its size is told'
    if kind == 'HEIC' and HEIC - extensions():
        return f"it is in Apple's format HEIC: {containers.HEIC_HINT}"
    if kind in containers.IMAGES or _opens(start, path):
        return ''
    if kind is None:
        return f'no known image format begins with {start[:12]!r}'
    return f'it is a {kind}, not an image. {kinds.hint(kind)}'.rstrip('. ')


def _opens(start: bytes, path: str) -> bool:
    """Whether Pillow knows the format, among them those without a mark."""
    from PIL import Image

    for file in (io.BytesIO(start), path):
        try:
            with Image.open(file):
                return True
        except Exception:  # what Pillow raises is not bounded
            continue
    return False
