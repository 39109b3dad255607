"""From what a user writes to a file on this machine."""

import difflib
import os
import pathlib


class MissingFileError(FileNotFoundError, ValueError):
    """A file or folder that was named does not exist."""


def resolve(reference: str | os.PathLike, *, best: bool = False) -> pathlib.Path:
    """Returns the local file of weights that a reference names.

    Args:
      reference: an .npz (`~` is expanded), or the folder of a finished run.
      best: of a run, the best parameters on val instead of the last ones.

    Raises:
      ValueError: there is no such file (its neighbours are listed), the run has not
        finished, or the reference is a URL.
    """
    text = os.fspath(reference)
    if '://' in text or text.startswith('hf:'):
        raise ValueError(
            f'{text} is not a local path. Weights are read from local files for now: '
            'download it first, then give the path of the file.'
        )
    path = pathlib.Path(text).expanduser()
    if path.is_dir():
        return _run_weights(path, best)
    if not path.exists():
        raise MissingFileError(f'There is no {path}. {_neighbours(path)}')
    return path


def _run_weights(run_dir: pathlib.Path, best: bool) -> pathlib.Path:
    path = run_dir / ('model_best.npz' if best else 'model.npz')
    if path.exists():
        return path
    if best and (run_dir / 'model.npz').exists():
        raise MissingFileError(
            f'{run_dir} holds no model_best.npz: the run evaluated no val split. '
            'Take its last parameters (best=False), or set pp.val and train again.'
        )
    if (run_dir / 'config.json').exists() or (run_dir / 'checkpoints').exists():
        raise MissingFileError(
            f'The run in {run_dir} has not finished: there is no {path.name} yet. '
            'Resume it with the command that started it (its command line stands in '
            f'{run_dir / "run.json"}).'
        )
    raise MissingFileError(
        f'{run_dir} is a folder, but not that of a run (no {path.name}, no '
        f'config.json). Name a file. {_neighbours(path)}'
    )


def _neighbours(path: pathlib.Path) -> str:
    """Says what else there is where a file was looked for."""
    folder = path.parent.absolute()
    if not folder.is_dir():
        return f'The folder {folder} does not exist either.'
    names = sorted(p.name for p in folder.glob('*.npz'))
    if not names:
        return f'{folder} holds no .npz at all.'
    near = difflib.get_close_matches(path.name, names)
    shown = near + [name for name in names if name not in near]
    listed = ', '.join(shown[:20]) + (', …' if len(shown) > 20 else '')
    hint = f'Did you mean {near[0]}? ' if near else ''
    return f'{hint}{folder} holds {listed}.'
