"""Opens any dataset by its name: folder, manifest, catalogue or hub."""

import os
import pathlib

from vit_jax.data.sources import Dataset


def open_dataset(
    name: str | os.PathLike,
    *,
    data_dir: str | os.PathLike | None = None,
    manual_dir: str | os.PathLike | None = None,
    holdout: float = 0.1,
) -> Dataset:
    """Opens a dataset by name or path.

    Args:
      name: a folder of images (`train/<class>/…`, or one folder of classes), a CSV
        manifest, a directory prepared by TFDS, `hf:owner/name` or `hf:/path`, or a
        TFDS name such as 'cifar10', 'name/config:1.0.0'.
      data_dir: where TFDS datasets are looked for and prepared; default
        $TFDS_DATA_DIR, else ~/tensorflow_datasets.
      manual_dir: where TFDS finds archives that users download themselves.
      holdout: the fraction of train that becomes 'validation' where folders or
        manifests have no splits of their own.

    Raises:
      ValueError: nothing of that name, no labels, or damaged files.
    """
    name = os.fspath(name)
    # Adapters build on this module, and each one imports libraries of its own.
    if name.startswith('hf:'):
        from vit_jax.data.datasets import hub

        return hub.open_hub(name.removeprefix('hf:'))
    path = pathlib.Path(name).expanduser()
    if path.suffix.lower() == '.csv':
        from vit_jax.data.datasets import folder

        return folder.open_manifest(path, holdout=holdout)
    if path.is_dir():
        from vit_jax.data.datasets import prepared

        version_dir = prepared.find_version_dir(path)
        if version_dir is not None:
            return prepared.open_prepared(version_dir)
        from vit_jax.data.datasets import folder

        return folder.open_folder(path, holdout=holdout)
    if path.is_absolute() or name.startswith(('.', '~')) or path.exists():
        found = 'is a file' if path.exists() else 'does not exist'
        raise ValueError(
            f'dataset {name!r} {found}; expected a folder of images '
            '(train/<class>/<file>), a .csv manifest, a directory prepared by TFDS, '
            'hf:owner/name or a TFDS name'
        )
    from vit_jax.data.datasets import catalogue

    return catalogue.open_named(
        name, data_dir=data_dir, manual_dir=manual_dir, holdout=holdout
    )
