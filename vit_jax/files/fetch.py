"""From what a user writes to a file on this machine.

    model.npz  ~/weights/ViT-B_16.npz  runs/flowers        files, folders of runs
    https://host/ViT-B_16.npz#sha256=…                     any web server
    gs://bucket/ViT-B_16.npz                               public buckets, no account
    hf://owner/repo  hf://owner/repo/file.npz@revision     the Hugging Face hub

What is downloaded stays in a cache, and a second call does not touch the network. The
work is done by well-kept libraries: pooch (progress, retries, checksums, whole files
only) with filelock (one download for all processes of a host), and huggingface_hub.
"""

import contextlib
import difflib
import hashlib
import logging
import os
import pathlib
import re
import urllib.parse
from collections.abc import Iterator

import filelock
import pooch

from vit_jax.models.zoo import google_files

log = logging.getLogger(__name__)

# Moves the cache, that of the hub included.
CACHE_VARIABLE = 'VIT_JAX_CACHE'
# Where Google's clients look for another server, such as an emulator or a mirror.
GCS_VARIABLE = 'STORAGE_EMULATOR_HOST'
_GCS = 'https://storage.googleapis.com'
_RETRIES = 3
# Seconds without a byte after which a server counts as stalled.
TIMEOUT = 30.0
# What a repository of the hub must have to be a model: weights in one file, or in
# several with an index.
_HUB_WEIGHTS = ('model.safetensors', 'model.safetensors.index.json')
_HUB_CARDS = ('config.json', 'preprocessor_config.json')
_HUB = re.compile(
    r'hf://(?P<repo>[^/@]+/[^/@]+)(?:/(?P<file>[^@]+))?(?:@(?P<revision>.+))?'
)


class MissingFileError(FileNotFoundError, ValueError):
    """A file or folder that was named does not exist."""


class DownloadError(ValueError):
    """Weights could not be downloaded; the message names alternatives."""


class _Refused(Exception):  # noqa: N818 (not an error until it is explained)
    """The server's answer, which another try would not change."""

    def __init__(self, status: int):
        super().__init__(status)
        self.status = status


def resolve(reference: str | os.PathLike, *, best: bool = False) -> pathlib.Path:
    """Returns the local file or folder of weights that a reference names.

    Args:
      reference: a file (`~` is expanded), the folder of a finished run, a folder of
        downloaded weights, or a URL as above, which is downloaded first.
      best: of a run, the best parameters on val instead of the last ones.

    Raises:
      ValueError: there is no such file (its neighbours are listed), the run has not
        finished, or the download failed; alternatives are named.
      OSError: the disk is full.
    """
    text = os.fspath(reference)
    if match := re.match(r'([a-z0-9]+):/?/?', text):
        scheme = match[1]
        if scheme in ('http', 'https'):
            return _download(text, text)
        if scheme == 'gs':
            return _download(text, _gcs_url(text))
        if scheme == 'hf':
            return _from_hub(text)
        if '://' in text:
            raise ValueError(
                f'{text}: weights are read from paths, http://, https://, gs:// and '
                f'hf://owner/repo, not from {scheme}://.'
            )
    path = pathlib.Path(text).expanduser()
    if path.is_dir():
        return _in_folder(path, best)
    if not path.exists():
        raise MissingFileError(
            f'There is no {path}. {_neighbours(path)}{_elsewhere(text)}'
        )
    return path


def cache_folder() -> pathlib.Path:
    """Returns where downloads are kept."""
    return pathlib.Path(
        os.environ.get(CACHE_VARIABLE) or pooch.os_cache('vit_jax')
    ).expanduser()


def _gcs_url(reference: str) -> str:
    """Returns the public web address of an object in Google Cloud Storage."""
    host = os.environ.get(GCS_VARIABLE, _GCS)
    host = host if '://' in host else f'http://{host}'
    path, hash_sign, fragment = reference.removeprefix('gs://').partition('#')
    # A plus sign would be read as a space.
    return f'{host.rstrip("/")}/{urllib.parse.quote(path)}{hash_sign}{fragment}'


def _download(reference: str, url: str) -> pathlib.Path:
    """Returns the cached copy of a web address, downloaded if there is none yet.

    A fragment `#sha256=…` (or md5) is compared with the content.
    """
    url, _, fragment = url.partition('#')
    checksum = re.fullmatch(r'(sha256|md5)=([0-9a-fA-F]+)', fragment)
    if fragment and not checksum:
        raise ValueError(
            f'{reference}: {fragment!r} is no checksum; expected #sha256=… or #md5=…'
        )
    known = f'{checksum[1]}:{checksum[2].lower()}' if checksum else None
    # The name stays, because it can tell the model; the folder is the address's own.
    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition('/')[2])
    name = re.sub(r'[^\w.+=-]', '_', name).lstrip('.') or 'weights'
    address = f'{url} {known or ""}'
    key = hashlib.sha256(address.encode()).hexdigest()[:16]
    folder = cache_folder() / 'downloads' / key
    store = pooch.create(
        path=folder,
        base_url='',
        registry={name: known},
        urls={name: url},
        retry_if_failed=_RETRIES,
    )
    if not (folder / name).exists() or known:
        with _explained(reference), _quiet_pooch():
            folder.mkdir(parents=True, exist_ok=True)
            # Whoever waits finds the file there.
            with filelock.FileLock(folder / '.lock'):
                if not (folder / name).exists():
                    log.info('Downloading %s to %s', reference, folder)
                return pathlib.Path(store.fetch(name, downloader=_get))
    return folder / name


def _get(url: str, output_file: str, store: pooch.Pooch) -> None:
    """Downloads once; an answer that will not change is not asked for again."""
    import requests

    download = pooch.HTTPDownloader(
        progressbar=True, chunk_size=1 << 20, timeout=TIMEOUT
    )
    try:
        download(url, output_file, store)
    except requests.HTTPError as error:
        error.response.close()
        status = error.response.status_code
        if status in (408, 429) or status >= 500:
            raise
        raise _Refused(status) from error


def _from_hub(reference: str) -> pathlib.Path:
    """Returns the file, or the folder with weights and config, of a repository."""
    match = _HUB.fullmatch(reference)
    if not match:
        raise ValueError(
            f'{reference}: expected hf://owner/repo, hf://owner/repo/file.npz or '
            'hf://owner/repo@revision.'
        )
    try:
        import huggingface_hub
        from huggingface_hub.utils import EntryNotFoundError
    except ImportError as error:
        raise ValueError(
            f"{reference}: for the Hugging Face hub, pip install 'vit_jax[hf]'."
        ) from error
    repo, revision = match['repo'], match['revision']
    own_cache = os.environ.get(CACHE_VARIABLE)
    cache_dir = cache_folder() / 'huggingface' if own_cache else None

    def get(name: str) -> pathlib.Path | None:
        try:
            found = huggingface_hub.hf_hub_download(
                repo,
                name,
                revision=revision,
                cache_dir=cache_dir,
                # Read now, and not when the library was imported.
                endpoint=os.environ.get('HF_ENDPOINT'),
            )
        except EntryNotFoundError as error:
            # Offline, 'not in the cache' is an entry that is not found as well.
            if isinstance(error, huggingface_hub.errors.LocalEntryNotFoundError):
                raise
            return None
        return pathlib.Path(found)

    with _explained(reference):
        if match['file']:
            path = get(match['file'])
            if path is None:
                raise MissingFileError(
                    f'{repo} has no file {match["file"]}.{_elsewhere(reference)}'
                )
            for name in _HUB_CARDS:
                get(name)
            return path
        for name in _HUB_WEIGHTS:
            if path := get(name):
                break
        else:
            raise MissingFileError(
                f'{repo} holds none of {", ".join(_HUB_WEIGHTS)}; name a file: '
                f'hf://{repo}/FILE.'
            )
        if path.name.endswith('.index.json'):
            for shard in sorted(_shards(path)):
                get(shard)
        for name in _HUB_CARDS:
            get(name)
        return path.parent


def _shards(index: pathlib.Path) -> set[str]:
    """Returns the files that an index of weights names."""
    import json

    try:
        files = set(json.loads(index.read_text())['weight_map'].values())
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f'{index} is not an index of weights: {error!r}') from error
    return {name for name in files if isinstance(name, str) and '/' not in name}


@contextlib.contextmanager
def _explained(reference: str) -> Iterator[None]:
    """Turns what libraries raise into one message, with alternatives."""
    import requests

    def failed(what: str) -> DownloadError:
        return DownloadError(f'{reference}: {what}{_elsewhere(reference)}')

    try:
        yield
    except (DownloadError, MissingFileError):
        raise
    except _Refused as error:
        raise failed(_meaning(error.status)) from error
    except (requests.Timeout, TimeoutError) as error:
        raise failed(
            f'the server sent nothing for {TIMEOUT:.0f} seconds, {_RETRIES + 1} times.'
        ) from error
    except requests.RequestException as error:
        raise failed(_of_connection(error)) from error
    except OSError as error:
        if error.errno is not None and not isinstance(error, ConnectionError):
            raise OSError(
                error.errno,
                f'{error.strerror} while downloading {reference}; set '
                f'{CACHE_VARIABLE} to a folder with more room. Nothing half-made stays',
            ) from error
        raise failed(_of_connection(error)) from error
    except ValueError as error:
        if 'hash' not in str(error).lower():
            raise failed(' '.join(str(error).split())) from error
        raise failed(
            f'the content has another checksum than expected ({error}).'
        ) from error
    except Exception as error:
        # huggingface_hub's HTTP client has its own family of errors.
        status = getattr(getattr(error, 'response', None), 'status_code', None)
        if status is None and not type(error).__module__.startswith(
            ('huggingface_hub', 'httpx', 'httpcore')
        ):
            raise
        raise failed(_meaning(status) if status else _of_connection(error)) from error


def _meaning(status: int) -> str:
    """Says what a server's answer means here."""
    known = {
        401: 'access is refused (401): the file or repository is private or is gone.',
        403: 'access is refused (403): it is not public (any more).',
        404: 'there is no such file (404): it was moved, or the name is misspelt.',
        410: 'the file is gone (410).',
    }
    return known.get(status, f'the server answered {status}.')


def _of_connection(error: Exception) -> str:
    """Says why no whole file arrived."""
    text = ' '.join(str(error).split())
    if 'IncompleteRead' in text or 'incomplete' in text.lower():
        return (
            f'the connection broke before the end, {_RETRIES + 1} times. Nothing '
            'half-made was kept; try again.'
        )
    if status := getattr(getattr(error, 'response', None), 'status_code', None):
        return _meaning(status)
    return f'the server cannot be reached ({text[:200]}). Is this machine offline?'


def _elsewhere(reference: str) -> str:
    """Returns where else published weights can be had, or ''."""
    others = google_files.alternatives(reference)[:4]
    if not others:
        return ''
    return f' The same or related weights elsewhere: {", ".join(others)}.'


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


def _in_folder(folder: pathlib.Path, best: bool) -> pathlib.Path:
    """Returns what a folder holds: a run's weights, or itself if it is a model."""
    path = folder / ('model_best.npz' if best else 'model.npz')
    if path.exists():
        return path
    if best and (folder / 'model.npz').exists():
        raise MissingFileError(
            f'{folder} holds no model_best.npz: the run evaluated no val split. '
            'Take its last parameters (best=False), or set pp.val and train again.'
        )
    if any(folder.glob('*.safetensors')) or any(folder.glob('checkpoint_*')):
        return folder
    if (folder / '_METADATA').exists() or (folder / '_CHECKPOINT_METADATA').exists():
        return folder  # Orbax
    if (folder / 'run.json').exists() or (folder / 'checkpoints').exists():
        raise MissingFileError(
            f'The run in {folder} has not finished: there is no {path.name} yet. '
            'Resume it with the command that started it (its command line stands in '
            f'{folder / "run.json"}).'
        )
    raise MissingFileError(
        f'{folder} is a folder, but not that of a run (no {path.name}, no run.json), '
        f'and it holds no *.safetensors. Name a file. {_neighbours(path)}'
    )


def _neighbours(path: pathlib.Path) -> str:
    """Says what else there is where a file was looked for."""
    folder = path.parent.absolute()
    if not folder.is_dir():
        return f'The folder {folder} does not exist either.'
    names = sorted(p.name for p in folder.glob('*') if p.suffix in _SUFFIXES)
    if not names:
        return f'{folder} holds no .npz at all.'
    near = difflib.get_close_matches(path.name, names)
    shown = near + [name for name in names if name not in near]
    listed = ', '.join(shown[:20]) + (', …' if len(shown) > 20 else '')
    hint = f'Did you mean {near[0]}? ' if near else ''
    return f'{hint}{folder} holds {listed}.'


_SUFFIXES = ('.npz', '.safetensors')
