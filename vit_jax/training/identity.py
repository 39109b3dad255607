"""Whether two starts are of one run: its keys, its examples, its pretrained weights."""

import hashlib
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from vit_jax import checkpoint
from vit_jax import config as config_lib
from vit_jax.data import Source

log = logging.getLogger(__name__)

# They decide nothing.
_NAMES = {'model.model_name'}
# Of the differences to an earlier start, those of what is looked at only at the end.
_TEST = ('config.pp.test:', 'fingerprint of test examples:')


def fingerprints(
    config: ConfigDict,
    class_names: Sequence[str],
    sources: Mapping[str, Source],
    known: Mapping[str, str],
) -> dict[str, str]:
    """Returns fingerprints of the classes, the examples and the pretrained file."""
    found = {
        'classes': hashlib.sha256('\n'.join(class_names).encode()).hexdigest(),
        **{
            f'{role} examples': source.fingerprint() for role, source in sources.items()
        },
    }
    if config.pretrained is not None:
        try:
            files = checkpoint.readers.files(config.pretrained)
            found['pretrained file'] = _fingerprint(files)
        except ValueError:
            # A run that has started does not need the file any more.
            if 'pretrained file' not in known:
                raise
            found['pretrained file'] = known['pretrained file']
    return found


def _fingerprint(paths: Sequence[pathlib.Path], tail: int = 2**20) -> str:
    """Returns a sha256 of the files' sizes and of the last MiB of each.

    That is quick for files of gigabytes, and enough: the end of an .npz lists the
    CRC-32 of every array in it, and other formats end with arrays that training
    changes.
    """
    found = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        with path.open('rb') as file:
            file.seek(max(0, size - tail))
            found.update(str(size).encode() + file.read())
    return found.hexdigest()


def require_same(
    path: pathlib.Path, differences: Sequence[str], *, is_complete: bool
) -> None:
    """Raises a ValueError unless these differences let a run go on.

    Args:
        path: the run directory.
        differences: from `differences`. Those of test do not matter to a run that has
            not judged on it yet: they are told.
        is_complete: whether it has.
    """
    test = [line for line in differences if line.startswith(_TEST)]
    listed = '\n'.join(f'  {line}' for line in differences)
    if len(test) < len(differences):
        raise ValueError(
            f'{path} holds a run with another configuration or other data:\n{listed}\n'
            'Choose another --workdir, or repeat the settings of that run.'
        )
    if test and is_complete:
        raise ValueError(
            f'{path} holds a run that is complete, and was judged on other images:\n'
            f'{listed}\nIts model can be used as it is. On the images as they are now, '
            f'python -m vit_jax.evaluate {path} judges it.'
        )
    if test:
        log.info('What judges at the end is another now:\n%s', listed)


def differences(
    before: dict[str, Any],
    now: Mapping[str, Any],
    known: Mapping[str, str],
    fingerprints: Mapping[str, str],
) -> list[str]:
    """Returns a line for each *what* key and fingerprint that is not as before."""
    other = [
        f'fingerprint of {name}: {known.get(name)} there, {fingerprints.get(name)} now'
        for name in sorted({*known, *fingerprints})
        if known.get(name) != fingerprints.get(name)
    ]
    # A run of an older version knew nothing of newer keys, which was their default.
    before = config_lib.flatten(config_lib.default()) | before
    gone = {key: before.pop(key) for key in config_lib.GONE if key in before}
    # Other examples may have another name; the same ones may be in another place.
    keys = {key for key in {*before, *now} if config_lib.is_what(key)} - _NAMES
    if not all(line.startswith(_TEST) for line in other):
        keys.add('dataset')
    settings = [
        f'config.{key}: {before.get(key)!r} there, {now.get(key)!r} now'
        for key in sorted(keys)
        if before.get(key) != now.get(key)
    ]
    settings += [
        f'config.{key}: {gone[key]!r} there, and there is no such key any more: '
        f'{config_lib.GONE[key]}'
        for key, value in config_lib.GONE_WHAT.items()
        if gone.get(key, value) != value
    ]
    return settings + other
