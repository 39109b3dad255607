"""The catalogue: TFDS names, found prepared or prepared here, without TensorFlow."""

import contextlib
import fcntl
import importlib
import itertools
import os
import pathlib
import re
import urllib.parse
from collections.abc import Callable, Iterator

import tensorflow_datasets as tfds

from vit_jax.data import sources
from vit_jax.data.datasets import prepared
from vit_jax.files import network
from vit_jax.words import suggest

# What we prepare ourselves: name -> module and class.
BUILDERS = {
    'cifar10': ('vit_jax.data.datasets.cifar', 'Cifar10'),
    'cifar100': ('vit_jax.data.datasets.cifar', 'Cifar100'),
    'digits': ('vit_jax.data.datasets.digits', 'Digits'),
}
_NAME = re.compile(r'(?P<name>\w+)(/(?P<config>[\w.+-]+))?(:(?P<version>[\d.*]+))?')


class UnreachableError(ValueError):
    """No server that has the data can be reached."""


def default_data_dir() -> pathlib.Path:
    """Returns where TFDS keeps prepared data if nobody says otherwise."""
    return pathlib.Path(
        os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
    ).expanduser()


def open_named(
    name: str,
    *,
    data_dir: str | os.PathLike | None = None,
    manual_dir: str | os.PathLike | None = None,
    holdout: float = 0.1,
) -> sources.Dataset:
    """Opens a TFDS dataset by name, and prepares it first if that is needed.

    Args:
      name: 'name', 'name/config', 'name:1.0.0' or 'name/config:1.0.0'.
      data_dir: where prepared data is and goes; default `default_data_dir()`.
      manual_dir: where TFDS finds archives that users download themselves.
      holdout: for ImageNet as folders, see `open.open_dataset`.

    Raises:
      ValueError: unknown name, or data that cannot be prepared here; says how.
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise _unknown(name)
    base, config, version = match['name'], match['config'], match['version']
    root = default_data_dir() if data_dir is None else pathlib.Path(data_dir)
    if '://' in os.fspath(data_dir or ''):
        raise ValueError(
            f'data_dir {data_dir!r} is remote; random access needs local files: '
            'mount the bucket or copy the dataset'
        )
    root = root.expanduser().absolute()

    def find() -> pathlib.Path | None:
        return prepared.find_version_dir(root / base, config=config, version=version)

    if (path := find()) is not None:
        return prepared.open_prepared(path)
    if base == 'imagenet2012':
        return _open_imagenet_folders(name, root, manual_dir, holdout)
    if base in BUILDERS:
        module, class_name = BUILDERS[base]
        builder_class = getattr(importlib.import_module(module), class_name)
        make = _builder_maker(builder_class, data_dir=root, config=config)
        if version not in (None, str(builder_class.VERSION)):
            raise ValueError(
                f'{name} is not in {root}, and only version {builder_class.VERSION} '
                'can be prepared'
            )
    elif base in tfds.list_builders(with_community_datasets=False):
        make = _builder_maker(
            tfds.builder, name, data_dir=root, config=None, try_gcs=False
        )
    else:
        raise _unknown(name)
    with _lock(root, base):
        # Another process may have prepared it while this one waited.
        if (path := find()) is None:
            path = _prepare(name, make, root, manual_dir)
    return prepared.open_prepared(path)


def _builder_maker(function: Callable, *args, **kwargs) -> Callable:
    kwargs = {k: v for k, v in kwargs.items() if v is not None}
    return lambda: function(*args, **kwargs)


def _prepare(
    name: str,
    make: Callable[[], tfds.core.DatasetBuilder],
    root: pathlib.Path,
    manual_dir: str | os.PathLike | None,
) -> pathlib.Path:
    """Lets TFDS download and prepare a dataset; returns the version directory."""
    download = tfds.download.DownloadConfig(
        manual_dir=None if manual_dir is None else os.path.expanduser(manual_dir)
    )
    try:
        builder = make()
        _require_network(name, builder, root, download.manual_dir)
        builder.download_and_prepare(
            file_format='array_record', download_config=download
        )
    except UnreachableError:
        raise
    except Exception as error:  # whatever builders and their libraries raise
        if _needs_tensorflow(error):
            raise ValueError(
                f'{name} is not in {root}, and TFDS cannot prepare it without '
                f'TensorFlow. {prepared.command(name, root)}'
            ) from error
        raise ValueError(
            f'{name} is not in {root} and could not be prepared: '
            f'{prepared.one_line(error)} '
            f'(archives that you have go into {root}/downloads/manual)'
        ) from error
    return pathlib.Path(builder.data_dir)


def _require_network(
    name: str,
    builder: tfds.core.DatasetBuilder,
    root: pathlib.Path,
    manual_dir: str | None,
) -> None:
    """Raises an error where nothing of a dataset is here and no server can be reached.

    TFDS by itself tries for more than three minutes.
    """
    downloads = root / 'downloads'
    here = itertools.chain(
        downloads.rglob('*.INFO'),
        downloads.glob('manual/*'),
        pathlib.Path(manual_dir or downloads).glob('*.*'),
    )
    if any(here):
        return
    servers = {urllib.parse.urlsplit(url)[:2] for url in builder.url_infos or ()}
    reasons = [network.unreachable(f'{scheme}://{host}') for scheme, host in servers]
    if reasons and all(reasons):
        raise UnreachableError(
            f'{name} is not in {root} and must be downloaded, but {reasons[0]} '
            f'(Archives that you have go into {downloads}/manual.)'
        )


def _needs_tensorflow(error: BaseException | None) -> bool:
    """Returns whether an error comes from a missing TensorFlow."""
    while error is not None:
        if isinstance(error, ImportError) and (
            (error.name or '').split('.')[0] == 'tensorflow'
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def _unknown(name: str) -> ValueError:
    known = {*tfds.list_builders(with_community_datasets=False), *BUILDERS}
    meant = suggest.did_you_mean(re.split('[/:]', name)[0], sorted(known))
    return ValueError(
        f'unknown dataset {name!r}.{meant} Expected a TFDS name (name, '
        'name/config:1.0.0), a folder of images, a .csv manifest or hf:owner/name'
    )


def _open_imagenet_folders(
    name: str,
    root: pathlib.Path,
    manual_dir: str | os.PathLike | None,
    holdout: float,
) -> sources.Dataset:
    """Opens ImageNet from folders train|val/<wnid>, where its owner unpacked it."""
    manual = [pathlib.Path(manual_dir).expanduser()] if manual_dir else []
    places = [root, *manual]
    for place in [path for p in places for path in (p, p / 'imagenet2012')]:
        if _has_wnids(place / 'train'):
            from vit_jax.data.datasets import folder

            return folder.open_folder(place, holdout=holdout)
    searched = ' or '.join(map(str, places))
    raise ValueError(
        f'{name} is neither prepared by TFDS nor unpacked as train/<wnid>/… and '
        f'val/<wnid>/… in {searched} (or imagenet2012 there). Its archives come from '
        'image-net.org after registration. Unpack them into such folders, or put them '
        f'into {root}/downloads/manual. {prepared.command(name, root)}'
    )


def _has_wnids(train: pathlib.Path) -> bool:
    with contextlib.suppress(OSError), os.scandir(train) as entries:
        return any(re.fullmatch(r'n\d{8}', entry.name) for entry in entries)
    return False


@contextlib.contextmanager
def _lock(root: pathlib.Path, name: str) -> Iterator[None]:
    """Lets one process at a time prepare a dataset; the others wait."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = open(root / f'.{name}.lock', 'w')  # noqa: SIM115, closed below
    except OSError as error:
        raise ValueError(
            f'{name} is not prepared, and its directory {root} cannot be written: '
            f'{error.strerror}; choose another one with data_dir'
        ) from error
    with file:
        # The file stays: removing it would let a third process lock another one.
        with contextlib.suppress(OSError):  # file systems without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
