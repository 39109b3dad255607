"""Folders of images: one folder for each class, perhaps inside one for each split."""

import logging
import os
import pathlib

from vit_jax.data import sources, splits
from vit_jax.data.datasets import listing
from vit_jax.data.datasets.listing import Files, Listing
from vit_jax.data.datasets.manifest import open_manifest
from vit_jax.data.datasets.walk import EXTENSIONS, Walk, check_name, has_images

__all__ = ['EXTENSIONS', 'Files', 'open_folder', 'open_manifest']

log = logging.getLogger(__name__)


def open_folder(path: str | os.PathLike, *, holdout: float = 0.1) -> sources.Dataset:
    """Opens a folder of images as a dataset.

    Two layouts: folders of splits, each with one folder for each class, `train/<class>`
    and `val/<class>` and `test/<class>`, or what else splits are called (Training,
    valid, dev, seg_test, …; see `splits.canonical`); or `<class>/…`, of which a part of
    each class becomes the splits 'validation' and 'test'. Images may lie deeper inside
    their class; their extension may be in any case. Links are followed, a folder is
    entered once. What is not used is counted, and told in one line of the log.

    Which files are held out, and the order inside a split, follow from hashes of the
    relative paths: equal wherever the folder lies, and any slice such as `train[90%:]`
    is a fair sample.

    Args:
      path: the folder.
      holdout: part of each class for 'validation', and as much for 'test', where the
        folder has no splits of its own; below ½. At least one image each of a class of
        three or more; 0 leaves all in 'train'.

    Raises:
      ValueError: no images; a class without images; a class in another split that is
        not in train; a folder beside the splits that is none; splits inside classes.
    """
    walk = Walk(pathlib.Path(path))
    walk.enter('')
    by_split = _split_folders(walk)
    if by_split:
        listings = {
            split: _list(walk, name) for split, name in sorted(by_split.items())
        }
    else:
        listings = {'all': _list(walk, '')}
    if told := walk.told():
        log.warning('%s', told)
    return listing.pack(walk.root, listings, holdout)


def _split_folders(walk: Walk) -> dict[str, str]:
    """The folders that are splits: split -> name; none: the folders are classes."""
    folders, strays = walk.scan('')
    named = {name: split for name in folders if (split := splits.canonical(name))}
    # A split holds folders. Otherwise it is a class, such as the trains among cars.
    with_classes = {name for name in named if walk.scan(name)[0]}
    if not with_classes:
        if named and len(named) == len(folders):
            raise ValueError(
                f'{walk.root}: found {_listed(folders)} with images and no folders in '
                'them, expected one folder for each class, which gives the images '
                'their labels'
            )
        return {}
    by_split: dict[str, str] = {}
    for name in folders:
        split = named.get(name)
        if split in by_split:
            raise ValueError(
                f'{walk.root}: found both {by_split[split]!r} and {name!r}, expected '
                f'one folder for the split {split!r}'
            )
        if split is not None:
            by_split[split] = name
        elif has_images(walk.root, name):
            raise ValueError(
                f'{walk.root}: found {name!r} beside {_listed(with_classes)}, and it '
                'is no split; expected folders such as train, val and test. Rename '
                'it, or move it out of this folder'
            )
        else:
            walk.leave_out('without images beside the splits', name)
    walk.leave_out('beside the folders of the splits', *strays)
    return by_split


def _list(walk: Walk, split: str) -> Listing:
    """Lists `<root>/<split>/<class>/…`."""
    files = Listing(walk.root)
    place = os.path.join(walk.root, split)
    folders, strays = walk.scan(split)
    if not folders:
        found = f'{len(strays)} images and no folders' if strays else 'no folders'
        raise ValueError(
            f'{place}: found {found}, expected one folder for each class with images '
            'in it, which gives them their labels'
        )
    beside = [os.path.join(split, name) for name in strays]
    walk.leave_out('beside the class folders', *beside)
    _check_classes(walk, split, folders)
    # First the classes, so that a link from one into another takes nothing from it.
    places = {label: os.path.join(split, label) for label in folders}
    same = [label for label, directory in places.items() if not walk.enter(directory)]
    if same:
        raise ValueError(
            f'{place}: {_listed(same)} leads to a folder that is there already; '
            'expected a folder of its own for each class'
        )
    empty = []
    for label, directory in places.items():
        counts = [files.add(d, names, label) for d, names in walk.inside(directory)]
        if not sum(counts):
            empty.append(label)
    if empty:
        raise ValueError(
            f'{place}: found no images in {len(empty)} of {len(folders)} class '
            f'folders: {_listed(empty)}; expected files such as '
            f'{", ".join(sorted(EXTENSIONS)[3:8])}. Remove empty folders, or put '
            f'their images back{walk.told() and f" ({walk.told()})"}'
        )
    return files


def _check_classes(walk: Walk, split: str, folders: list[str]) -> None:
    """Raises a ValueError if classes have names that are no text, or hold splits."""
    for name in folders:
        check_name(os.path.join(walk.root, split), name)

    def splits_in(name: str) -> list[str]:
        inside, _ = walk.scan(os.path.join(split, name))
        return [folder for folder in inside if splits.canonical(folder)]

    if all(len(splits_in(name)) > 1 for name in folders):
        inside = splits_in(folders[0])
        place = os.path.join(walk.root, split)
        if len(folders) == 1:
            raise ValueError(
                f'{place}: found {folders[0]!r} alone, which holds {_listed(inside)}. '
                f'Is {os.path.join(place, folders[0])} meant?'
            )
        raise ValueError(
            f'{place}: each of {_listed(folders)} holds '
            f'{_listed(inside)}; expected the splits outside and the classes inside, '
            f'as {inside[0]}/{folders[0]}/…'
        )


def _listed(names) -> str:
    names = sorted(names)
    return ', '.join(map(repr, names[:5])) + ' …' * (len(names) > 5)
