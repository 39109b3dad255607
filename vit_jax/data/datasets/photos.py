"""Photos without labels: files, folders, patterns and web addresses, as a source."""

import difflib
import glob
import hashlib
import operator
import os
import pathlib
import re
import shutil
import tempfile
import threading
import time
import urllib.parse
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import SupportsIndex

from vit_jax.data import sources
from vit_jax.data.datasets import folder

# Of each kind of thing, how many names an error lists.
_LISTED = 5
# A larger file on the web is taken for no photo.
MAX_BYTES = 256 << 20
# Seconds without a byte after which a server counts as stalled.
TIMEOUT = 30.0
# Seconds to wait before another try; and answers that another try may change.
_PAUSES = (0.2, 1.0)
_BUSY = (408, 429, 500, 502, 503, 504)
_SCHEMES = ('http', 'https', 'gs', 'hf')
# hf://owner/repo/file, hf://datasets/owner/repo/file, each perhaps with @revision.
_HUB = re.compile(
    r'hf://(?P<repo>(?:(?:datasets|spaces)/)?[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?'
    r'/(?P<file>[^@]+?)(?:@(?P<later>[^@]+))?'
)


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
        if any(map(_is_url, self.names)):
            self._downloads = tempfile.mkdtemp(prefix='vit_jax-photos-')
            # Of this object alone: its copies in worker processes do not clear up.
            weakref.finalize(self, shutil.rmtree, self._downloads, ignore_errors=True)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: SupportsIndex) -> sources.Example:
        name = self.names[operator.index(index)]
        try:
            image = self._read(name)
        except OSError as error:
            from vit_jax.data.images import ops  # imports cv2

            # What cannot be read is one bad image among others.
            raise ops.UndecodableImage(name, error.strerror or str(error)) from error
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
        if not _is_url(name):
            return pathlib.Path(name).read_bytes()
        # An address is asked once, also if its answer is no photo.
        key = hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()
        path = pathlib.Path(self._downloads, key)
        failed = path.with_suffix('.failed')
        if path.exists():
            return path.read_bytes()
        if failed.exists():
            raise _DownloadError(failed.read_text())
        try:
            content = _download(_address(name))
        except _DownloadError as error:
            failed.write_text(str(error))
            raise
        # Another thread may look for it.
        part = path.with_suffix(f'.{threading.get_ident()}')
        part.write_bytes(content)
        part.replace(path)
        return content


class _DownloadError(OSError):
    """What an address gave instead of a file."""


def _is_url(path: str) -> bool:
    return '://' in path


def _address(url: str) -> str:
    """Returns the http(s) address of what a URL names.

    Raises:
      ValueError: it is a URL of another kind, or names no file.
    """
    scheme, _, rest = url.partition('://')
    if scheme in ('http', 'https') and rest.strip('/'):
        return url
    # Where the clients of these services look for another server.
    if scheme == 'gs' and '/' in rest.strip('/'):
        host = os.environ.get('STORAGE_EMULATOR_HOST', 'https://storage.googleapis.com')
        host = host if '://' in host else f'http://{host}'
        return f'{host.rstrip("/")}/{urllib.parse.quote(rest)}'
    if match := _HUB.fullmatch(url):
        host = os.environ.get('HF_ENDPOINT', 'https://huggingface.co')
        revision = match['revision'] or match['later'] or 'main'
        file = urllib.parse.quote(match['file'])
        return f'{host.rstrip("/")}/{match["repo"]}/resolve/{revision}/{file}'
    if scheme in _SCHEMES:
        raise ValueError(
            f'{url} names no file; expected an address such as https://host/photo.jpg, '
            'gs://bucket/photo.jpg or hf://owner/repo/photo.jpg'
        )
    known = ', '.join(f'{scheme}://' for scheme in _SCHEMES)
    raise ValueError(f'{url}: photos are read from files and {known}')


def _download(address: str) -> bytes:
    """Returns what is at an address.

    Raises:
      _DownloadError: the server is not reached, refuses, stalls or sends too much.
    """
    import requests

    # Some servers refuse libraries that do not say what they are used by.
    options = {'stream': True, 'timeout': TIMEOUT, 'headers': {'User-Agent': 'vit_jax'}}
    for seconds in (*_PAUSES, None):
        content = bytearray()
        try:
            with requests.get(address, **options) as response:
                if not response.ok:
                    answer = f'{response.status_code} {response.reason}'.strip()
                    reason = f'the server answered {answer}'
                    if response.status_code not in _BUSY:
                        break
                else:
                    for chunk in response.iter_content(1 << 16):
                        content += chunk
                        if len(content) > MAX_BYTES:
                            reason = f'it has more than {MAX_BYTES >> 20} MiB'
                            raise _DownloadError(reason)
                    return bytes(content)
        except (requests.TooManyRedirects, ValueError) as error:  # among them bad URLs
            reason = f'it cannot be followed ({error})'
            break
        except requests.RequestException as error:
            reason = _why(error)
        if seconds is not None:
            time.sleep(seconds)
    raise _DownloadError(reason)


def _why(error: Exception) -> str:
    """Says in a line why nothing whole arrived."""
    text = ' '.join(str(error).split())
    if 'timed out' in text.lower():
        return f'the server sent nothing for {TIMEOUT:g} seconds'
    if 'incomplete' in text.lower():
        return 'the connection broke before the end'
    # Libraries wrap what the system said, and each repeats the address.
    cause: BaseException = error
    while cause.__context__ is not None:
        cause = cause.__context__
    return f'the server cannot be reached ({getattr(cause, "strerror", "") or text})'


def _find(path: str) -> list[str]:
    """Returns the files that a path or a pattern names."""
    if _is_url(path):
        _address(path)
        return [path]
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
