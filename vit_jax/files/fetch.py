"""From an address to a file on this machine.

    ~/weights/ViT-B_16.npz                                 a file that is there already
    https://host/ViT-B_16.npz#sha256=…                     any web server
    gs://bucket/ViT-B_16.npz                               public buckets, no account
    hf://owner/repo/file@revision  hf://datasets/…         the Hugging Face hub

What is downloaded stays in a cache, and a second call does not touch the network. The
work is done by well-kept libraries: pooch (progress, retries, checksums, whole files
only) with filelock (one download for all processes of a host), and huggingface_hub.
"""

import contextlib
import hashlib
import logging
import os
import pathlib
import re
import urllib.parse
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import filelock
import pooch

from vit_jax.files import network

log = logging.getLogger(__name__)

# Moves the cache, that of the hub included.
CACHE_VARIABLE = 'VIT_JAX_CACHE'
# Where Google's and Hugging Face's clients look for another server, such as an
# emulator or a mirror.
GCS_VARIABLE, HUB_VARIABLE = 'STORAGE_EMULATOR_HOST', 'HF_ENDPOINT'
_GCS, _HUB = 'https://storage.googleapis.com', 'https://huggingface.co'
_SCHEMES = ('http', 'https', 'gs', 'hf')
_RETRIES = 3
# Seconds without a byte after which a server counts as stalled.
TIMEOUT = 30.0
# hf://owner/repo/file, hf://datasets/owner/repo/file, each perhaps with @revision.
_HUB_FILE = re.compile(
    r'hf://(?:(?P<kind>datasets|spaces)/)?(?P<repo>[^/@]+/[^/@]+)'
    r'(?:@(?P<revision>[^/]+))?/(?P<file>[^@]+?)(?:@(?P<later>.+))?'
)


class MissingFileError(FileNotFoundError, ValueError):
    """A file or folder that was named does not exist."""


class DownloadError(ValueError):
    """A file could not be downloaded; `reason` says why."""

    def __init__(self, reference: str, reason: str):
        super().__init__(f'{reference}: {reason}')
        self.reason = reason


class _Refused(Exception):  # noqa: N818 (not an error until it is explained)
    """What another try would not change."""


class HubFile(NamedTuple):
    """A file in a repository of the Hugging Face hub.

    Attributes:
      repo: 'owner/name'.
      name: path in the repository.
      revision: branch, tag or commit; None: main.
      kind: 'datasets' or 'spaces'; None: a model.
    """

    repo: str
    name: str
    revision: str | None = None
    kind: str | None = None

    @classmethod
    def parse(cls, url: str) -> 'HubFile | None':
        """Returns what hf://… names, or None if it names no file."""
        if not (match := _HUB_FILE.fullmatch(url)):
            return None
        revision = match['revision'] or match['later']
        return cls(match['repo'], match['file'], revision, match['kind'])


def local(
    address: str,
    *,
    folder: str | os.PathLike | None = None,
    max_bytes: int | None = None,
) -> pathlib.Path:
    """Returns the file on this machine that an address names, downloaded if need be.

    Args:
      address: as above. That of a file on this machine is not looked up.
      folder: for what is downloaded, silently; None: the cache.
      max_bytes: a larger file of a web server or bucket is refused; None: no limit.

    Raises:
      ValueError: the address is of another kind, or names no file.
      DownloadError: the server is not reached, refuses, stalls or sends too much, or
        the content has another checksum.
      MissingFileError: a repository of the hub has no such file.
      OSError: the disk is full.
    """
    if not is_url(address):
        return pathlib.Path(address).expanduser()
    url = web_address(address)
    hub_file = HubFile.parse(address)
    if not hub_file or folder is not None:
        return _download(address, url, folder, max_bytes)
    if path := from_hub(address, hub_file):
        return path
    raise MissingFileError(f'{hub_file.repo} has no file {hub_file.name}.')


def is_url(address: str) -> bool:
    """Returns whether it is no path of this machine; `gs:/x` is a URL misspelt."""
    match = re.match(r'([a-z0-9]+):', address)
    return '://' in address or bool(match and match[1] in _SCHEMES)


def web_address(url: str) -> str:
    """Returns the http(s) address of the file that a URL names.

    Raises:
      ValueError: it is a URL of another kind, or names no file.
    """
    scheme, _, rest = url.partition('://')
    if scheme in ('http', 'https') and rest.strip('/'):
        return url
    if scheme == 'gs' and '/' in rest.strip('/'):
        path, hash_sign, fragment = rest.partition('#')
        # A plus sign would be read as a space.
        path = urllib.parse.quote(path)
        return f'{_server(GCS_VARIABLE, _GCS)}/{path}{hash_sign}{fragment}'
    if file := HubFile.parse(url):
        repo = f'{file.kind}/{file.repo}' if file.kind else file.repo
        path = (
            f'{repo}/resolve/{file.revision or "main"}/{urllib.parse.quote(file.name)}'
        )
        return f'{hub_server()}/{path}'
    scheme = scheme.partition(':')[0]
    if scheme in _SCHEMES:
        raise ValueError(
            f'{url} names no file; expected an address such as https://host/file, '
            'gs://bucket/file or hf://owner/repo/file'
        )
    schemes = ', '.join(f'{scheme}://' for scheme in _SCHEMES)
    raise ValueError(
        f'{url}: expected a path or an address with one of {schemes}, not {scheme}://'
    )


def cache_folder() -> pathlib.Path:
    """Returns where downloads are kept."""
    return pathlib.Path(
        os.environ.get(CACHE_VARIABLE) or pooch.os_cache('vit_jax')
    ).expanduser()


def from_hub(reference: str, file: HubFile) -> pathlib.Path | None:
    """Returns a file in the hub's cache, downloaded if need be.

    None: the repository has no such file.

    Args:
      reference: what the user wrote, for messages.
      file: the file.

    Raises:
      DownloadError: huggingface_hub is not installed, or the download failed.
      OSError: the disk is full.
    """
    try:
        import huggingface_hub
        from huggingface_hub.utils import EntryNotFoundError
    except ImportError as error:
        raise DownloadError(
            reference, "for the Hugging Face hub, pip install 'vit_jax[hf]'."
        ) from error
    own_cache = os.environ.get(CACHE_VARIABLE)
    where = {
        'repo_id': file.repo,
        'filename': file.name,
        'revision': file.revision,
        'repo_type': file.kind and file.kind.removesuffix('s'),
        'cache_dir': cache_folder() / 'huggingface' if own_cache else None,
    }
    # The variable is read now, and not when the library was imported.
    endpoint = os.environ.get(HUB_VARIABLE)
    if reason := network.unreachable(hub_server()):
        # The library itself would try for half a minute.
        cached = huggingface_hub.try_to_load_from_cache(**where)
        if cached is None:
            raise DownloadError(reference, reason)
        return pathlib.Path(cached) if isinstance(cached, str) else None
    with _explained(reference):
        try:
            path = huggingface_hub.hf_hub_download(**where, endpoint=endpoint)
        except EntryNotFoundError as error:
            # Offline, 'not in the cache' is an entry that is not found as well.
            if isinstance(error, huggingface_hub.errors.LocalEntryNotFoundError):
                raise
            return None
    return pathlib.Path(path)


def hub_server() -> str:
    """Returns the address of the Hugging Face hub, or of what stands in its place."""
    return _server(HUB_VARIABLE, _HUB)


def _server(variable: str, default: str) -> str:
    host = os.environ.get(variable) or default
    return (host if '://' in host else f'http://{host}').rstrip('/')


def _download(
    reference: str,
    url: str,
    parent: str | os.PathLike | None,
    max_bytes: int | None,
) -> pathlib.Path:
    """Returns the copy of a web address, downloaded if there is none yet.

    A fragment `#sha256=…` (or md5) is compared with the content.
    """
    url, _, fragment = url.partition('#')
    checksum = re.fullmatch(r'(sha256|md5)=([0-9a-fA-F]+)', fragment)
    if fragment and not checksum:
        raise DownloadError(
            reference, f'{fragment!r} is no checksum; expected #sha256=… or #md5=…'
        )
    expected = f'{checksum[1]}:{checksum[2].lower()}' if checksum else None
    # The name stays, because it can tell the model; the folder is the address's own.
    name = urllib.parse.unquote(re.sub(r'\?.*', '', url).rpartition('/')[2])
    name = re.sub(r'[^\w.+=-]', '_', name).lstrip('.') or 'file'
    address = f'{url} {expected or ""}'.encode('utf-8', 'surrogateescape')
    key = hashlib.sha256(address).hexdigest()[:16]
    folder = pathlib.Path(parent or cache_folder() / 'downloads') / key
    if (folder / name).exists() and not expected:
        return folder / name
    is_silent = parent is not None
    store = pooch.create(
        path=folder,
        base_url='',
        registry={name: expected},
        urls={name: url},
        retry_if_failed=_RETRIES,
    )

    def get(url: str, output_file: str, store: pooch.Pooch) -> None:
        with open(output_file, 'wb') as file:
            _get(url, _Limited(file, max_bytes), store, not is_silent)

    with _explained(reference), _quiet_pooch():
        folder.mkdir(parents=True, exist_ok=True)
        # Whoever waits finds the file there.
        with filelock.FileLock(folder / '.lock'):
            if not (folder / name).exists() and not is_silent:
                log.info('Downloading %s to %s', reference, folder)
            return pathlib.Path(store.fetch(name, downloader=get))


class _Limited:
    """A file that refuses to become larger than a limit."""

    def __init__(self, file: BinaryIO, max_bytes: int | None):
        self._file, self._max_bytes = file, max_bytes
        self.flush = file.flush

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)
        if self._max_bytes is not None and self._file.tell() > self._max_bytes:
            raise _Refused(f'it has more than {self._max_bytes >> 20} MiB')


def _get(url: str, file: _Limited, store: pooch.Pooch, progress: bool) -> None:
    """Downloads once; an answer that will not change is not asked for again."""
    import requests

    download = pooch.HTTPDownloader(
        progressbar=progress,
        chunk_size=1 << 20,
        timeout=TIMEOUT,
        # Some servers refuse libraries that do not say what they are used by.
        headers={'User-Agent': 'vit_jax'},
    )
    try:
        download(url, file, store)
    except requests.HTTPError as error:
        error.response.close()
        status = error.response.status_code
        if status in (408, 429) or status >= 500:
            raise
        raise _Refused(_meaning(status)) from error
    except (requests.TooManyRedirects, ValueError) as error:  # among them bad URLs
        raise _Refused(f'it cannot be followed ({error})') from error


@contextlib.contextmanager
def _explained(reference: str) -> Iterator[None]:
    """Turns what libraries raise into one message."""
    import requests

    try:
        yield
    except _Refused as error:
        raise DownloadError(reference, str(error)) from error
    except requests.RequestException as error:
        raise DownloadError(reference, _of_connection(error)) from error
    except OSError as error:
        if error.errno is not None and not isinstance(
            error, ConnectionError | TimeoutError
        ):
            raise OSError(
                error.errno,
                f'{error.strerror} while downloading {reference}; set '
                f'{CACHE_VARIABLE} to a folder with more room. Nothing half-made stays',
            ) from error
        raise DownloadError(reference, _of_connection(error)) from error
    except ValueError as error:
        text = ' '.join(str(error).split())
        if 'hash' in text.lower():
            text = f'the content has another checksum than expected ({text}).'
        raise DownloadError(reference, text) from error
    except Exception as error:
        # huggingface_hub's HTTP client has its own family of errors.
        if getattr(error, 'response', None) is None and not type(
            error
        ).__module__.startswith(('huggingface_hub', 'httpx', 'httpcore')):
            raise
        raise DownloadError(reference, _of_connection(error)) from error


def _meaning(status: int) -> str:
    """Says what a server's answer means here."""
    meanings = {
        401: 'access is refused (401): the file or repository is private or is gone.',
        403: 'access is refused (403): it is not public (any more).',
        404: 'there is no such file (404): it was moved, or the name is misspelt.',
        410: 'the file is gone (410).',
    }
    return meanings.get(status, f'the server answered {status}.')


def _of_connection(error: Exception) -> str:
    """Says why no whole file arrived."""
    if status := getattr(getattr(error, 'response', None), 'status_code', None):
        return _meaning(status)
    text = ' '.join(str(error).split())
    times = f'{_RETRIES + 1} times'
    if isinstance(error, TimeoutError) or 'timed out' in text.lower():
        return f'the server sent nothing for {TIMEOUT:g} seconds, {times}.'
    if 'incomplete' in text.lower():
        return (
            f'the connection broke before the end, {times}. Nothing half-made was '
            'kept; try again.'
        )
    # Libraries wrap what the system said, and each repeats the address.
    cause: BaseException = error
    while cause.__context__ is not None:
        cause = cause.__context__
    reason = getattr(cause, 'strerror', None) or text[:200]
    return f'the server cannot be reached ({reason}). Is this machine offline?'


@contextlib.contextmanager
def _quiet_pooch() -> Iterator[None]:
    """Lets pooch say nothing but its progress: our messages tell the rest."""
    logger = pooch.get_logger()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
