"""Photos without labels: files, folders and patterns, as a source."""

import difflib
import glob
import operator
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import SupportsIndex

from vit_jax.data import folder, sources

# Of each kind of thing, how many names an error lists.
_LISTED = 5


class Photos:
    """A source of image files that nobody has labelled.

    Attributes:
      names: the files' paths, in the order of the examples.
      class_names: empty; the label of every example is -1.
    """

    def __init__(self, paths: str | os.PathLike | Iterable[str | os.PathLike]):
        """Finds the photos; they are opened later, one at a time.

        Args:
          paths: each is a file, whatever its name; a folder, which gives the images in
            it and in its folders, by their extensions, without hidden ones, sorted; or
            a pattern with wildcards (`**` for folders in folders), which gives the
            images and folders of images that match. `~` is expanded.

        Raises:
          ValueError: there is no such file, or no image in a folder or pattern; a URL.
        """
        if isinstance(paths, str | os.PathLike):
            paths = [paths]
        self.names = tuple(name for path in paths for name in _find(os.fspath(path)))
        self.class_names: tuple[str, ...] = ()
        if not self.names:
            raise ValueError('no photos are named: name files, folders or patterns')

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: SupportsIndex) -> sources.Example:
        name = self.names[operator.index(index)]
        try:
            image = pathlib.Path(name).read_bytes()
        except OSError as error:
            from vit_jax.data import ops  # imports cv2

            # What cannot be read is one bad image among others.
            raise ops.UndecodableImage(name, error.strerror or str(error)) from error
        return {'image': image, 'label': -1, 'name': name}

    def __repr__(self) -> str:
        return f'Photos({len(self)} files)'

    def fingerprint(self) -> str:
        """Returns a sha256 (hex) of the paths, in order."""
        return sources.sha256('photos', self.names)


def _find(path: str) -> list[str]:
    """Returns the files that a path or a pattern names."""
    if '://' in path:
        raise ValueError(f'{path} is a URL, expected files, folders or patterns')
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        if not (found := list(_images(path))):
            raise ValueError(f'{path}: no images in this folder{_instead(path)}')
        return found
    if os.path.exists(path):  # also a name in which * or ? is but a letter
        return [path]
    if not glob.has_magic(path):
        raise _missing(path)
    matches = sorted(glob.glob(path, recursive=True))
    found = {}  # a dict keeps the order; `**` finds files and the folders they are in
    for match in matches:
        if os.path.isdir(match):
            found.update(dict.fromkeys(_images(match)))
        elif _is_image(match):
            found[match] = None
    if not found:
        others = f': {_list(matches)}' if matches else ''
        raise ValueError(
            f'{path}: no images among the {len(matches)} files and folders that match '
            f'this pattern{others}'
        )
    return list(found)


def _images(root: str) -> Iterator[str]:
    """Yields the images in a folder and its folders, sorted by name."""
    for parent, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        for name in sorted(files):
            if not name.startswith('.') and _is_image(name):
                yield os.path.join(parent, name)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in folder.EXTENSIONS


def _instead(path: str) -> str:
    """Says what a folder without images holds."""
    names = sorted(os.listdir(path))
    extensions = ' '.join(sorted(folder.EXTENSIONS))
    found = f'found {_list(names)}' if names else 'it is empty'
    return f': {found}, expected files whose names end with one of {extensions}'


def _missing(path: str) -> ValueError:
    parent = os.path.dirname(path) or '.'
    if not os.path.isdir(parent):
        return ValueError(
            f'{path}: there is no such file, nor the folder {parent} that it would be '
            'in'
        )
    near = difflib.get_close_matches(os.path.basename(path), os.listdir(parent))
    hint = f'; did you mean {_list(near)}?' if near else ''
    return ValueError(f'{path}: there is no such file{hint}')


def _list(names: list[str]) -> str:
    more = f' and {len(names) - _LISTED} more' if len(names) > _LISTED else ''
    return ', '.join(names[:_LISTED]) + more
