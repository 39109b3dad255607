"""Data that TFDS prepared, read at random and without TensorFlow.

Both of TFDS's common file formats are read, array_record and tfrecord, in the order
of the files, which is the order of `tfds.data_source`. Images stay encoded.
"""

import bisect
import collections
import contextlib
import itertools
import json
import os
import pathlib
import re
import resource
import threading
from typing import Any, SupportsIndex

import tensorflow_datasets as tfds
from array_record.python import array_record_module
from google.protobuf import message
from tensorflow_datasets.proto import tf_example_pb2

from vit_jax.data import sources
from vit_jax.data.datasets import tfrecord

_VERSION = re.compile(r'\d+\.\d+\.\d+')
# Features that identify an example, in the order of preference.
_ID_KEYS = ('id', 'tfds_id', 'file_name', 'filename', 'image/filename', 'image_id')


class Records:
    """The examples of one split of prepared files; reopens them after pickling."""

    def __init__(
        self,
        name: str,
        paths: list[str],
        lengths: list[int],
        *,
        file_format: str,
        keys: tuple[str, str, str | None],
        num_classes: int,
        identity: tuple,
    ):
        """Describes the files; nothing is opened before the first example.

        Args:
          name: prefix of the examples' names, 'cifar10/train'.
          paths: the files, in order.
          lengths: the number of examples in each.
          file_format: 'array_record' or 'tfrecord'.
          keys: names of the features that hold image, label and id (or None).
          num_classes: labels lie below it.
          identity: what tells this list of examples from any other.
        """
        self.name = name
        self._paths = paths
        self._lengths = lengths
        self._format = file_format
        self._image_key, self._label_key, self._id_key = keys
        self._num_classes = num_classes
        self._identity = identity
        self._open_nothing()

    def _open_nothing(self) -> None:
        self._ends = list(itertools.accumulate(self._lengths))
        self._readers: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:
        dropped = ('_readers', '_lock', '_ends')
        return {k: v for k, v in self.__dict__.items() if k not in dropped}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open_nothing()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def fingerprint(self) -> str:
        """Returns a sha256 (hex) of what TFDS says about the split."""
        return sources.sha256(self._identity)

    def __getitem__(self, index: SupportsIndex) -> sources.Example:
        index = index.__index__()
        if not 0 <= index < len(self):
            raise IndexError(f'example {index} of {len(self)} in {self.name}')
        record = self._record(index)
        try:
            features = tf_example_pb2.Example.FromString(record).features.feature
            image = features[self._image_key].bytes_list.value[0]
            label = features[self._label_key].int64_list.value[0]
            name = f'{self.name}[{index}]'
            if self._id_key:
                identifier = features[self._id_key].bytes_list.value[0]
                name = f'{self.name}[{index}] {identifier.decode(errors="replace")}'
        except (IndexError, message.DecodeError) as error:
            raise ValueError(
                f'{self.name}[{index}]: the record is damaged, or has no '
                f'{self._image_key!r} and {self._label_key!r}: {error}'
            ) from error
        if not 0 <= label < self._num_classes:
            raise ValueError(
                f'{name}: label {label} is none of the {self._num_classes} classes; '
                'TFDS marks splits without labels by -1: choose another split'
            )
        return {'image': image, 'label': label, 'name': name}

    def _record(self, index: int) -> bytes:
        """Reads the bytes of one example."""
        shard = bisect.bisect_right(self._ends, index)
        position = index - (self._ends[shard] - self._lengths[shard])
        reader = self._reader(shard)
        if self._format == 'tfrecord':
            return reader[position]
        try:
            return reader.read([position])[0]
        except (RuntimeError, IndexError) as error:
            raise ValueError(
                f'{self._paths[shard]}: record {position} cannot be read: {error}'
            ) from error

    def _reader(self, shard: int) -> Any:
        """Returns the reader of one file; few stay open, the last used ones."""
        with self._lock:
            reader = self._readers.pop(shard, None)
            if reader is None:
                reader = self._open(shard)
            self._readers[shard] = reader
            if len(self._readers) > _max_open():
                self._readers.popitem(last=False)
            return reader

    def _open(self, shard: int) -> Any:
        path = self._paths[shard]
        if self._format == 'tfrecord':
            reader = tfrecord.TFRecordFile(path)
            found = len(reader)
        else:
            # Random access gains nothing from reading ahead.
            reader = array_record_module.ArrayRecordReader(
                path, options='readahead_buffer_size:0', file_reader_buffer_size=2**15
            )
            if not reader.ok():
                raise ValueError(
                    f'{path} is not a readable array_record file: missing, truncated '
                    'or damaged; copy or prepare it again'
                )
            found = reader.num_records()
        if found != self._lengths[shard]:
            raise ValueError(
                f'{path} holds {found} examples, dataset_info.json says '
                f'{self._lengths[shard]}: the files do not belong together'
            )
        return reader


def _max_open() -> int:
    """Returns how many files a split may keep open: a quarter of the limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1024 if soft == resource.RLIM_INFINITY else max(16, soft // 4)


def find_version_dir(
    path: str | os.PathLike, *, config: str | None = None, version: str | None = None
) -> pathlib.Path | None:
    """Returns the directory of prepared files at or below a path, or None.

    The path is that of a version (name/1.0.0), of a config or of a dataset. Where
    several versions are there, it is the highest; of several configs the default.
    """
    path = pathlib.Path(path)
    if config is None and _is_prepared(path):
        return path
    # TFDS notes the default config of datasets that have any, and only of those.
    note = path / '.config' / 'metadata.json'
    if config is None and note.is_file():
        config = json.loads(note.read_text()).get('default_config_name')
    if config is not None:
        path = path / config
    pattern = re.escape(version or '*').replace(r'\*', r'\d+')
    found = []
    with contextlib.suppress(OSError), os.scandir(path) as entries:
        for entry in entries:
            if _VERSION.fullmatch(entry.name) and (
                version in (None, '*') or re.fullmatch(pattern, entry.name)
            ):
                found.append(entry.name)
    found = [name for name in found if _is_prepared(path / name)]
    if not found:
        return None
    return path / max(found, key=lambda name: tuple(map(int, name.split('.'))))


def _is_prepared(path: pathlib.Path) -> bool:
    return all(
        (path / name).is_file() for name in ('dataset_info.json', 'features.json')
    )


def open_prepared(path: str | os.PathLike) -> sources.Dataset:
    """Opens a version directory that TFDS or one of our builders prepared.

    Raises:
      ValueError: no images or no labels, another file format, or missing files.
    """
    path = pathlib.Path(path)
    try:
        info = tfds.builder_from_directory(path).info
    except Exception as error:  # TFDS has no class of its own for damaged files
        raise ValueError(
            f'{path} is not readable by TFDS: {one_line(error)}'
        ) from error
    name = info.full_name
    image_key, label_key = _image_and_label(info, name)
    id_key = next((key for key in _ID_KEYS if key in _flat(info.features)), None)
    label = _flat(info.features)[label_key]
    readers = {}
    for split, split_info in info.splits.items():
        readers[split] = _open_split(
            split_info,
            info,
            keys=(image_key, label_key, id_key),
            num_classes=label.num_classes,
        )
    return sources.Dataset(name, readers, tuple(label.names))


def _open_split(
    split_info: tfds.core.SplitInfo,
    info: tfds.core.DatasetInfo,
    *,
    keys: tuple[str, str, str | None],
    num_classes: int,
) -> Records:
    file_format = info.file_format.value
    if file_format not in ('array_record', 'tfrecord'):
        raise ValueError(
            f'{info.full_name} is prepared as {file_format!r}; readable are '
            f"'array_record' and 'tfrecord': {command(info.name)}"
        )
    paths = [os.fspath(path) for path in split_info.filepaths]
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        raise ValueError(
            f'{info.full_name}: {len(missing)} of the {len(paths)} files of split '
            f'{split_info.name!r} are missing, the first is {missing[0]}'
        )
    lengths = [int(length) for length in split_info.shard_lengths]
    return Records(
        f'{info.name}/{split_info.name}',
        paths,
        lengths,
        file_format=file_format,
        keys=keys,
        num_classes=num_classes,
        # TFDS writes the same examples in the same order in both formats, so the
        # format is left out: converted data is the same data.
        identity=(info.full_name, split_info.name, lengths, split_info.num_bytes),
    )


def _flat(features: Any, prefix: str = '') -> dict[str, Any]:
    """Returns features by the names that they have in the files, 'a/b' if nested."""
    flat = {}
    for key, feature in features.items():
        if isinstance(feature, tfds.features.FeaturesDict):
            flat |= _flat(feature, f'{prefix}{key}/')
        else:
            flat[prefix + key] = feature
    return flat


def _image_and_label(info: tfds.core.DatasetInfo, name: str) -> tuple[str, str]:
    """Chooses the features: 'image' and 'label', else the supervised keys."""
    if not isinstance(info.features, tfds.features.FeaturesDict):
        raise ValueError(f'{name} has no named features; expected an image and a label')
    features = _flat(info.features)
    supervised = info.supervised_keys or ()
    chosen = []
    for position, (key, kind, accepts) in enumerate(
        [('image', 'image', _is_image), ('label', 'class label', _is_label)]
    ):
        candidates = [key]
        if len(supervised) == 2 and isinstance(supervised[position], str):
            candidates.append(supervised[position])
        good = [c for c in candidates if c in features and accepts(features[c])]
        if not good:
            found = ', '.join(f'{k} ({type(f).__name__})' for k, f in features.items())
            raise ValueError(
                f'{name} has no {kind} among its features: expected {key!r} or a '
                f'supervised key that is one, found {found}'
            )
        chosen.append(good[0])
    return chosen[0], chosen[1]


def _is_image(feature: Any) -> bool:
    # TFDS keeps float images as four bytes in four channels: no image to a decoder.
    return isinstance(feature, tfds.features.Image) and feature.np_dtype.kind == 'u'


def _is_label(feature: Any) -> bool:
    return isinstance(feature, tfds.features.ClassLabel) and bool(feature.num_classes)


def command(name: str, root: pathlib.Path | None = None) -> str:
    """Returns the one-time command that prepares a dataset with TensorFlow."""
    where = f' --data_dir={root}' if root else ''
    return (
        'Once, in another environment: pip install tensorflow tensorflow-datasets && '
        f'tfds build {name}{where} --file_format=array_record'
    )


def one_line(error: BaseException) -> str:
    """Returns an error on one line, with its class where that tells more."""
    text = ' '.join(str(error).split())
    kind = '' if type(error) is ValueError else f'{type(error).__name__}: '
    return f'{kind}{text}'[:500]
