"""Text files as people have them: whatever program wrote them, line by line."""

import codecs
import contextlib
import os
import pathlib
import re
from collections.abc import Iterator
from typing import TextIO

_MARKS = {
    codecs.BOM_UTF8: 'utf-8-sig',
    codecs.BOM_UTF16_LE: 'utf-16',
    codecs.BOM_UTF16_BE: 'utf-16',
}


@contextlib.contextmanager
def reading(path: str | os.PathLike) -> Iterator[TextIO]:
    """Opens a text file: UTF-8, or what its byte order mark says (UTF-16).

    Line ends are left as they are, as csv wants them.

    Raises:
        ValueError: it is in another encoding; names the line.
        OSError: what the system says.
    """
    path = pathlib.Path(path)
    with path.open('rb') as file:
        start = file.read(4)
    encoding = next((e for mark, e in _MARKS.items() if start.startswith(mark)), None)
    if encoding is None and b'\0' in start:
        encoding = 'utf-16-le' if start[1:2] == b'\0' else 'utf-16-be'
    try:
        with path.open(encoding=encoding or 'utf-8', newline='') as file:
            yield file
    except UnicodeDecodeError as error:
        raise ValueError(
            f'{_undecodable(path, encoding or "utf-8")}: expected UTF-8, or UTF-16 '
            'with its mark. Save the file as UTF-8 (in Excel: "CSV UTF-8")'
        ) from error


def lines(path: str | os.PathLike) -> list[str]:
    """The lines of a text file, without their ends; see `reading`."""
    with reading(path) as file:
        return file.read().splitlines()


def names(content: bytes) -> list[str]:
    """The names of files in a list, one in each line, whatever their bytes are.

    A byte order mark, line ends of other systems and quotation marks around a name are
    no part of it.
    """
    encoding = next((e for m, e in _MARKS.items() if content.startswith(m)), None)
    whole = content.decode(encoding) if encoding else os.fsdecode(content)
    stripped = (line.removesuffix('\r').strip() for line in whole.split('\n'))
    return [re.sub(r'^(["\'])(.+)\1$', r'\2', line) for line in stripped if line]


def _undecodable(path: pathlib.Path, encoding: str) -> str:
    """The first line that is not in an encoding, in words."""
    if encoding.startswith('utf-8'):
        for number, line in enumerate(path.read_bytes().split(b'\n'), start=1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as error:
                text = line[:60].decode('ascii', 'backslashreplace').strip()
                what = f'the byte 0x{line[error.start]:02x} in {text!r}'
                return f'{path}, line {number}: found {what}'
    return f'{path} is damaged'
