"""CIFAR-10 and CIFAR-100 as TFDS prepares them, without TensorFlow.

TFDS's own builders need TensorFlow to extract archives and to encode images. These
subclasses do both without it; name, version, keys, features and therefore the splits
and the order of the examples are those of TFDS. Krizhevsky, 2009, "Learning multiple
layers of features from tiny images".

The archives come from the authors' server and must have the checksums that TFDS has
registered. $VIT_JAX_CIFAR_URL names another directory that holds them (a mirror);
$VIT_JAX_CIFAR_CHECKSUM, as size:sha256, says that the archive is another one.
"""

import io
import os
import tarfile
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image
from tensorflow_datasets.core.download import checksums
from tensorflow_datasets.image_classification import cifar

_IMAGE_SHAPE = (3, 32, 32)  # channels first in the archives


class _WithoutTensorFlow:
    """What both builders do in another way than TFDS."""

    @property
    def _cifar_info(self) -> cifar.CifarInfo:
        info = super()._cifar_info
        if mirror := os.environ.get('VIT_JAX_CIFAR_URL'):
            return info._replace(url=f'{mirror.rstrip("/")}/{info.url.split("/")[-1]}')
        return info

    @property
    def url_infos(self) -> dict[str, checksums.UrlInfo]:
        """Checksums by URL: the registered one, wherever the archive comes from."""
        # Asked of TFDS's class, beside whose module the checksums are kept.
        expected = self._tfds_builder.url_infos[super()._cifar_info.url]
        if override := os.environ.get('VIT_JAX_CIFAR_CHECKSUM'):
            size, _, sha256 = override.partition(':')
            if not size.isdecimal() or len(sha256) != 64:
                raise ValueError(
                    f'VIT_JAX_CIFAR_CHECKSUM={override!r}: expected size:sha256, '
                    'such as 170052171:c4a3…'
                )
            expected = checksums.UrlInfo(
                size=int(size), checksum=sha256, filename=expected.filename
            )
        return {self._cifar_info.url: expected}

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        # Read straight from the archive: TFDS extracts archives by TensorFlow.
        archive = os.fspath(dl_manager.download(self._cifar_info.url))
        info = self._cifar_info
        for key, file in zip(info.label_keys, info.label_files, strict=True):
            ((_, text),) = _members(archive, [info.prefix + file])
            names = [name for name in text.decode().split('\n') if name]
            self.info.features[key].names = names
        return {
            split: self._generate_examples(prefix, archive, files)
            for split, prefix, files in [
                ('train', 'train_', info.train_files),
                ('test', 'test_', info.test_files),
            ]
        }

    def _generate_examples(
        self, split_prefix: str, archive: str, files: Iterable[str]
    ) -> Iterator[tuple[int, dict]]:
        """Yields (key, example); the key decides the order, as in TFDS."""
        info = self._cifar_info
        index = 0
        for member, data in _members(archive, [info.prefix + file for file in files]):
            where = f'{archive}, {member}'
            for labels, pixels in _rows(data, len(info.label_keys), where):
                example = dict(zip(info.label_keys, map(int, labels), strict=True))
                example['id'] = f'{split_prefix}{index:05d}'
                example['image'] = _png(pixels)
                yield index, example
                index += 1


class Cifar10(_WithoutTensorFlow, cifar.Cifar10, skip_registration=True):
    """CIFAR-10: 50,000 training and 10,000 test images of 32×32, 10 classes."""

    _tfds_builder = cifar.Cifar10


class Cifar100(_WithoutTensorFlow, cifar.Cifar100, skip_registration=True):
    """CIFAR-100: 50,000 training and 10,000 test images of 32×32, 100 classes."""

    _tfds_builder = cifar.Cifar100


def _members(archive: str, names: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yields (name, content) of files in a .tar.gz, in the order of the names."""
    with tarfile.open(archive, 'r:gz') as tar:
        for name in names:
            try:
                file = tar.extractfile(name)
            except KeyError:
                file = None
            if file is None:
                raise ValueError(f'{archive} holds no file {name!r}')
            yield name, file.read()


def _rows(
    data: bytes, num_labels: int, where: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (labels, pixels h w c) of a binary file: labels, then the planes."""
    width = num_labels + int(np.prod(_IMAGE_SHAPE))
    if len(data) % width:
        raise ValueError(
            f'{where}: {len(data)} bytes are no multiple of the {width} of one example'
        )
    for row in np.frombuffer(data, np.uint8).reshape(-1, width):
        yield (
            row[:num_labels],
            row[num_labels:].reshape(_IMAGE_SHAPE).transpose(1, 2, 0),
        )


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, 'PNG')
    return buffer.getvalue()
