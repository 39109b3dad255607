"""One walk through folders of images, for training and for prediction.

Every file is used, or counted under the reason why it is not; `Walk.told` says so in
one line. A folder is entered once, however many links lead to it.
"""

import functools
import importlib.util
import os
import pathlib
from collections import Counter
from collections.abc import Iterator

from vit_jax.data.images import containers

# fmt: off
EXTENSIONS = frozenset({
    '.avif', '.bmp', '.gif', '.jfif', '.jpe', '.jpeg', '.jpg', '.npy', '.pbm', '.pgm',
    '.png', '.pnm', '.ppm', '.tif', '.tiff', '.webp',
})
# What systems and programs leave in people's folders, besides what is hidden.
_SYSTEMS = frozenset({
    '$recycle.bin', '@eadir', '__macosx', '__pycache__', 'desktop.ini', 'ehthumbs.db',
    'icon\r', 'lost+found', 'system volume information', 'thumbs.db',
})
# fmt: on
# What iPhones write.
HEIC = frozenset({'.heic', '.heif', '.hif'})
# Of each reason, how many names are told.
_NAMED = 3


@functools.cache
def extensions() -> frozenset[str]:
    """The extensions that are read here."""
    has_heic = importlib.util.find_spec('pillow_heif') is not None
    return EXTENSIONS | HEIC if has_heic else EXTENSIONS


class Walk:
    """A walk through a folder, and what it has left out.

    Attributes:
      root: the folder; all names are relative to it.
    """

    def __init__(self, root: str | os.PathLike):
        self.root = os.fspath(root)
        self._extensions = extensions()
        self._entered: set[tuple[int, int]] = set()
        self._left_out: Counter[str] = Counter()
        self._names: dict[str, list[str]] = {}
        self._scanned: set[str] = set()

    def enter(self, directory: str) -> bool:
        """Whether a folder is entered for the first time."""
        status = os.stat(os.path.join(self.root, directory))
        key = status.st_dev, status.st_ino
        is_new = key not in self._entered
        self._entered.add(key)
        return is_new

    def scan(self, directory: str) -> tuple[list[str], list[str]]:
        """Folders and images in one folder, by name, sorted; the rest is counted."""
        folders, images = [], []
        is_first = directory not in self._scanned
        self._scanned.add(directory)

        def leave_out(reason: str, name: str) -> None:
            if is_first:
                self.leave_out(reason, os.path.join(directory, name))

        with os.scandir(os.path.join(self.root, directory)) as entries:
            for entry in entries:
                name = entry.name
                if name[0] == '.' or name.lower() in _SYSTEMS:
                    leave_out('hidden or of the system', name)
                elif entry.is_dir():
                    folders.append(name)
                elif not entry.is_file() and os.path.exists(entry.path):
                    leave_out('no file but a pipe, socket or device', name)
                # An image that is a link to nothing is an error when it is read.
                elif (kind := os.path.splitext(name)[1].lower()) in self._extensions:
                    images.append(name)
                elif kind in HEIC:
                    leave_out(f"in Apple's format HEIC: {containers.HEIC_HINT}", name)
                else:
                    leave_out(f'of kind {kind}' if kind else 'without extension', name)
        return sorted(folders), sorted(images)

    def below(self, directory: str) -> Iterator[tuple[str, list[str]]]:
        """Yields a folder and all below it, each with its images, sorted.

        A folder that was entered before is left out.
        """
        if self.enter(directory):
            yield from self.inside(directory)
        else:
            self.leave_out('linked and there already', directory)

    def inside(self, directory: str) -> Iterator[tuple[str, list[str]]]:
        """As `below`, of a folder that is entered already."""
        folders, images = self.scan(directory)
        yield directory, images
        for name in folders:
            yield from self.below(os.path.join(directory, name))

    def leave_out(self, reason: str, *names: str) -> None:
        """Counts what is not used."""
        if not names:
            return
        self._left_out[reason] += len(names)
        told = self._names.setdefault(reason, [])
        told += names[: _NAMED - len(told)]

    def told(self) -> str:
        """What was left out, in one line; '' if nothing was."""
        parts = []
        for reason, count in self._left_out.items():
            names = ', '.join(map(shown, self._names[reason]))
            more = ', …' if count > len(self._names[reason]) else ''
            parts.append(f'{count} {reason} ({names}{more})')
        return f'{self.root}: left out: {"; ".join(parts)}' if parts else ''


def check_name(root: str, name: str) -> None:
    """Raises a ValueError if a folder's name, which names a class, is no text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        path = shown(os.path.join(root, name))
        try:
            os.fsencode(name).decode()
        except UnicodeDecodeError:
            raise ValueError(
                f'{path}: the name of this folder is not UTF-8 (an archive from an '
                'older system?), and it names a class. Rename it, or all of them: '
                f'convmv -r -f latin1 -t utf8 --notest {shown(root)}'
            ) from None
        raise ValueError(
            f'{path}: the name of this folder is not ASCII, and Python takes names for '
            'that here. Set the variable PYTHONUTF8=1.'
        ) from None


def shown(name: str) -> str:
    """A name that can be printed in one line, whatever its bytes are."""
    text = os.fsencode(name).decode('utf-8', 'backslashreplace')
    return ''.join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def has_images(root: str | os.PathLike, directory: str) -> bool:
    """Whether there is an image in a folder or below it."""
    walk = Walk(pathlib.Path(root))
    return any(images for _, images in walk.below(directory))
