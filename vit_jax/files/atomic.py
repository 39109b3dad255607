"""Files that are either the old or the new one, whatever happens in between."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Gives a file to write; it takes the place of `path` when all went well.

    Missing folders are made. The data is on the disk before the name changes; on any
    error the new file is removed and an old one stays untouched.

    Raises:
      ValueError: `path` is a URL.
      OSError: what the system says, naming `path`.
    """
    if '://' in str(path):
        raise ValueError(f'{path} is a URL; expected a path on this machine')
    path = pathlib.Path(path).expanduser()
    # One fixed name: what a killed process left is overwritten, not collected.
    temporary = path.with_name(f'.{path.name}.tmp')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open('wb') as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as e:
        raise OSError(
            e.errno,
            f'{e.strerror or e} while writing {path}; what was there before is whole',
        ) from e


def _sync_folder(folder: pathlib.Path) -> None:
    """Makes a rename survive a power cut, where the system can open folders."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows
        return
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems
        pass
    finally:
        os.close(descriptor)
