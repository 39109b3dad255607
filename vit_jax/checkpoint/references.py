"""From what a user writes for weights to a file or folder on this machine.

model.npz  ~/weights/ViT-B_16.npz  runs/flowers        files, folders of runs
hf://owner/repo  hf://owner/repo@revision              repositories with one model
https://…  gs://…  hf://owner/repo/file.npz            any address: see `fetch`
"""

import functools
import logging
import os
import pathlib
import re

from vit_jax.checkpoint.formats import foreign, safetensors
from vit_jax.files import fetch
from vit_jax.files.run_record import RunRecord
from vit_jax.models.zoo import google_files
from vit_jax.words import suggest

log = logging.getLogger(__name__)
# What a repository of the hub must have to be a model: weights in one file, or in
# several with an index; and what may stand beside them.
_WEIGHTS = ('model.safetensors', safetensors.INDEX)
_CARDS = ('config.json', 'preprocessor_config.json')
_REPOSITORY = re.compile(r'hf://(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>.+))?')
_SUFFIXES = ('.npz', '.safetensors')


def resolve(reference: str | os.PathLike, *, best: bool | None = None) -> pathlib.Path:
    """Returns the local file or folder of weights that a reference names.

    Args:
      reference: a file (`~` is expanded), the folder of a finished run, a folder of
        downloaded weights, or a URL as above, which is downloaded first.
      best: of a run, True: the parameters that were best on val; False: the last
        ones; None: the best where val has chosen, else the last, and the log says so.

    Raises:
      ValueError: there is no such file (its neighbours are listed), the run has not
        finished, or the download failed; alternatives are named.
      OSError: the disk is full.
    """
    text = os.fspath(reference)
    try:
        if match := _REPOSITORY.fullmatch(text):
            return _repository(text, match['repo'], match['revision'])
        file = fetch.HubFile.parse(text)
        if text.startswith('hf:') and not file:
            raise ValueError(
                f'{text}: expected hf://owner/repo, hf://owner/repo/file.npz or '
                'hf://owner/repo@revision.'
            )
        path = fetch.local(text)
        for name in _CARDS if file else ():
            fetch.from_hub(text, file._replace(name=name))
    except fetch.DownloadError as error:
        raise fetch.DownloadError(text, error.reason + _elsewhere(text)) from error
    except fetch.MissingFileError as error:
        raise fetch.MissingFileError(f'{error}{_elsewhere(text)}') from error
    if path.is_dir():
        return _in_folder(path, best)
    is_of_run = path.name in ('model.npz', 'model_best.npz')
    if is_of_run and (path.parent / 'run.json').exists():
        return _in_folder(path.parent, path.name == 'model_best.npz')
    if not path.exists():
        raise fetch.MissingFileError(
            f'There is no {path}. {neighbours(path)}{_elsewhere(text)}'
        )
    return path


def _repository(reference: str, repo: str, revision: str | None) -> pathlib.Path:
    """Returns the folder with the weights and config of a repository."""

    def get(name: str) -> pathlib.Path | None:
        return fetch.from_hub(reference, fetch.HubFile(repo, name, revision))

    path = next(filter(None, map(get, _WEIGHTS)), None)
    if path is None:
        raise fetch.MissingFileError(
            f'{repo} holds none of {", ".join(_WEIGHTS)}; name a file: hf://{repo}/FILE.'
        )
    shards = safetensors.index(path).values() if path.name == safetensors.INDEX else ()
    for name in (*sorted(set(shards)), *_CARDS):
        get(name)
    return path.parent


def _elsewhere(reference: str) -> str:
    """Returns where else published weights can be had, or ''."""
    others = google_files.alternatives(reference)[:4]
    if not others:
        return ''
    return f' The same or related weights elsewhere: {", ".join(others)}.'


@functools.cache
def _tell_best(folder: pathlib.Path) -> None:
    """Says it once of each run."""
    log.info('%s: the parameters that were best on val (--last: the last)', folder)


def _in_folder(folder: pathlib.Path, best: bool | None) -> pathlib.Path:
    """Returns what a folder holds: a run's weights, or itself if it is a model."""
    last, chosen = folder / 'model.npz', folder / 'model_best.npz'
    # The card is written before the weights, and what a run has reached after them.
    record = RunRecord(folder).record()
    is_whole = last.exists() and (not record or 'summary' in record)
    if best is None and is_whole and chosen.exists():
        _tell_best(folder)
        return chosen
    path = chosen if best else last
    if is_whole and path.exists():
        return path
    if best and is_whole:
        raise fetch.MissingFileError(
            f'{folder} holds no model_best.npz: the run evaluated no val split. '
            'Take its last parameters (--last, best=False), or set pp.val and train '
            'again.'
        )
    if any(folder.glob('*.safetensors')) or any(folder.glob('checkpoint_*')):
        return folder
    if torch := [path for path in folder.iterdir() if foreign.is_torch(path)]:
        # To be refused with what to type. Beside weights lie smaller files.
        return max(torch, key=lambda path: path.stat().st_size)
    if (folder / '_METADATA').exists() or (folder / '_CHECKPOINT_METADATA').exists():
        return folder  # Orbax
    if (folder / 'run.json').exists() or (folder / 'checkpoints').exists():
        raise fetch.MissingFileError(
            f'The run in {folder} has not finished: it has no whole model yet. '
            'Resume it with the command that started it (its command line stands in '
            f'{folder / "run.json"}).'
        )
    raise fetch.MissingFileError(
        f'{folder} is a folder, but not that of a run (no {path.name}, no run.json), '
        f'and it holds no *.safetensors. Name a file. {neighbours(path)}'
    )


def neighbours(path: pathlib.Path) -> str:
    """Says what else there is where a file or a run was looked for."""
    path = path.absolute()
    folder = path.parent
    if not folder.is_dir():
        missing = next(p for p in path.parents if p.parent.is_dir())
        near = suggest.did_you_mean(missing.name, _folders(missing.parent), count=1)
        return f'The folder {folder} does not exist either.{near}'
    files = {p.name for p in folder.glob('*') if p.suffix in _SUFFIXES}
    runs = {p.parent.name for p in folder.glob('*/run.json')}
    if not files | runs:
        return f'{folder} holds no .npz and no run at all.'
    near = suggest.nearest(path.name, sorted(files | runs))
    rest = [name for name in (*sorted(files), *sorted(runs)) if name not in near]
    shown = near + rest
    listed = ', '.join(shown[:20]) + (', …' if len(shown) > 20 else '')
    hint = f'Did you mean {near[0]}? ' if near else ''
    return f'{hint}{folder} holds {listed}.'


def _folders(path: pathlib.Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir())
