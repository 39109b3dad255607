"""Small image files in folders, and the names of those in a source."""

import io
import pathlib

from PIL import Image


def jpeg(colour=(10, 200, 30)) -> bytes:
    file = io.BytesIO()
    Image.new('RGB', (9, 7), colour).save(file, 'JPEG')
    return file.getvalue()


def make(root: pathlib.Path, *names: str) -> pathlib.Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg())
    return root


def names(source) -> list[str]:
    return [source[i]['name'] for i in range(len(source))]


def relative(source, root: pathlib.Path) -> set[str]:
    return {str(pathlib.Path(name).relative_to(root)) for name in names(source)}
