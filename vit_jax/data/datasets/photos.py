"""Photos without labels: files, folders, patterns and web addresses, as a source."""

import glob
import hashlib
import logging
import operator
import os
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from typing import SupportsIndex

from vit_jax.data import sources
from vit_jax.data.datasets.walk import Walk, extensions
from vit_jax.files import fetch
from vit_jax.words import suggest

log = logging.getLogger(__name__)
# Of each kind of thing, how many names an error lists.
_LISTED = 5
# A larger file on the web is taken for no photo.
MAX_BYTES = 256 << 20


class Photos:
    """A source of image files that nobody has labelled.

    Attributes:
      names: the files' paths and addresses, in the order of the examples.
      class_names: empty; the label of every example is -1.
    """

    def __init__(
        self,
        paths: str | os.PathLike | Iterable[str | os.PathLike],
        contents: Mapping[str, bytes] | None = None,
    ):
        """Finds the photos; they are opened later, one at a time.

        Args:
          paths: each is a file, whatever its name; a folder, which gives the images in
            it and in its folders, by their extensions, without hidden ones, sorted; a
            pattern with wildcards (`**` for folders in folders), which gives the images
            and folders of images that match; or the address of a public file: http://,
            https://, gs://bucket/file, hf://owner/repo/file, hf://datasets/…. `~` is
            expanded. What is named twice is there twice. Downloads are kept in a
            temporary folder for as long as this object lives.
          contents: what is in files that are nowhere, by their names, such as what came
            by standard input.

        Raises:
          ValueError: there is no such file, or no image in a folder or pattern; or it
            is an address of another kind.
        """
        if isinstance(paths, str | os.PathLike):
            paths = [paths]
        self._contents = dict(contents or {})
        self.names = tuple(
            name
            for path in map(os.fspath, paths)
            for name in ([path] if path in self._contents else _find(path))
        )
        self.class_names: tuple[str, ...] = ()
        if not self.names:
            raise ValueError(
                'no photos are named: name files, folders, patterns or addresses'
            )
        self._downloads = ''
        if any(map(fetch.is_url, self.names)):
            self._downloads = tempfile.mkdtemp(prefix='vit_jax-photos-')
            # Of this object alone: its copies in worker processes do not clear up.
            weakref.finalize(self, shutil.rmtree, self._downloads, ignore_errors=True)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: SupportsIndex) -> sources.Example:
        name = self.names[operator.index(index)]
        try:
            image = self._read(name)
        except (OSError, fetch.DownloadError) as error:
            from vit_jax.data.images import decoding  # imports cv2

            # What cannot be read is one bad image among others.
            is_web = isinstance(error, fetch.DownloadError)
            reason = error.reason if is_web else error.strerror or str(error)
            raise decoding.UndecodableImage(name, reason) from error
        return {'image': image, 'label': -1, 'name': name}

    def __repr__(self) -> str:
        return f'Photos({len(self)} files)'

    def fingerprint(self) -> str:
        """Returns a sha256 (hex) of the names, in order, and of given contents."""
        hashes = [hashlib.sha256(c).hexdigest() for c in self._contents.values()]
        return sources.sha256('photos', self.names, hashes)

    def _read(self, name: str) -> bytes:
        if name in self._contents:
            return self._contents[name]
        if not fetch.is_url(name):
            return pathlib.Path(name).read_bytes()
        # An address is asked once, also if its answer is no photo.
        key = hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()
        refusal = pathlib.Path(self._downloads, f'{key}.refused')
        if refusal.exists():
            raise fetch.DownloadError(name, refusal.read_text())
        try:
            path = fetch.local(name, folder=self._downloads, max_bytes=MAX_BYTES)
        except fetch.DownloadError as error:
            refusal.write_text(error.reason)
            raise
        return path.read_bytes()


def _find(path: str) -> list[str]:
    """Returns the files that a path or a pattern names."""
    if fetch.is_url(path):
        fetch.web_address(path)
        return [path]
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        if not (found := _images(path)):
            raise ValueError(f'{path}: no images in this folder{_instead(path)}')
        return found
    if os.path.exists(path):  # also a name in which * or ? is but a letter
        return [path]
    if not glob.has_magic(path):
        raise _missing(path)
    matches = sorted(glob.glob(path, recursive=True))
    found = {}  # a dict keeps the order; `**` finds files and the folders they are in
    walked: tuple[str, ...] = ()
    for match in matches:
        if os.path.isdir(match):
            if not match.startswith(walked):  # else it was looked into with its parent
                found.update(dict.fromkeys(_images(match)))
                walked = (*walked, os.path.join(match, ''))
        elif _is_image(match):
            found[match] = None
    if not found:
        others = f': {_list(matches)}' if matches else ''
        raise ValueError(
            f'{path}: no images among the {len(matches)} files and folders that match '
            f'this pattern{others}'
        )
    return list(found)


def _images(root: str) -> list[str]:
    """The images in a folder and its folders, sorted; tells what is left out."""
    walk = Walk(root)
    found = [
        os.path.join(root, directory, name)
        for directory, names in walk.below('')
        for name in names
    ]
    if told := walk.told():
        log.warning('%s', told)
    return found


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in extensions()


def _instead(path: str) -> str:
    """Says what a folder without images holds."""
    names = sorted(os.listdir(path))
    known = ' '.join(sorted(extensions()))
    found = f'found {_list(names)}' if names else 'it is empty'
    return f': {found}, expected files whose names end with one of {known}'


def _missing(path: str) -> ValueError:
    parent = os.path.dirname(path) or '.'
    if not os.path.isdir(parent):
        return ValueError(
            f'{path}: there is no such file, nor the folder {parent} that it would be '
            'in'
        )
    hint = suggest.did_you_mean(os.path.basename(path), os.listdir(parent))
    return ValueError(f'{path}: there is no such file.{hint}')


def _list(names: list[str]) -> str:
    more = f' and {len(names) - _LISTED} more' if len(names) > _LISTED else ''
    return ', '.join(names[:_LISTED]) + more
