"""`digits`: 1,797 handwritten digits of 8×8, for runs that need no network.

Provenance: `sklearn.datasets.load_digits`, a file that scikit-learn carries: the test
part (13 writers) of "Optical Recognition of Handwritten Digits", E. Alpaydin and
C. Kaynak, UCI Machine Learning Repository, 1998, CC BY 4.0. Its 17 grey levels 0…16
are spread over 0…255.

The original has no further split, so ours is fixed here: of each digit the 36 images
whose index has the smallest hash are 'test' (360 in all), the other 1,437 'train'.
"""

import hashlib
import io
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from vit_jax.runtime import extras

_TEST_PER_CLASS = 36


class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The digits as a TFDS dataset with the features id, image and label."""

    VERSION = tfds.core.Version('1.0.0')

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description='Handwritten digits of 8x8 pixels, from scikit-learn.',
            features=tfds.features.FeaturesDict(
                {
                    'id': tfds.features.Text(),
                    'image': tfds.features.Image(
                        shape=(8, 8, 1), encoding_format='png'
                    ),
                    'label': tfds.features.ClassLabel(names=list('0123456789')),
                }
            ),
            supervised_keys=('image', 'label'),
            homepage='https://archive.ics.uci.edu/dataset/80',
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        del dl_manager  # nothing to download
        extras.require(
            'sklearn', purpose='preparing the dataset digits', install='scikit-learn'
        )
        from sklearn import datasets

        digits = datasets.load_digits()
        pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        test = held_out(digits.target)
        train = np.setdiff1d(np.arange(len(pixels)), test)
        return {
            'train': self._generate_examples(pixels, digits.target, train),
            'test': self._generate_examples(pixels, digits.target, test),
        }

    def _generate_examples(
        self, pixels: np.ndarray, labels: np.ndarray, indices: np.ndarray
    ) -> Iterator[tuple[int, dict]]:
        for index in indices.tolist():
            buffer = io.BytesIO()
            Image.fromarray(pixels[index]).save(buffer, 'PNG')
            example = {
                'id': f'digit_{index:04d}',
                'image': buffer.getvalue(),
                'label': int(labels[index]),
            }
            yield index, example


def held_out(labels: np.ndarray) -> np.ndarray:
    """Returns the indices of the test split, ascending: 36 of each class.

    Chosen by hash rather than by a random generator, whose stream may change.
    """

    def order(index: int) -> bytes:
        return hashlib.sha256(f'digits {index}'.encode()).digest()

    chosen = []
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label).tolist()
        chosen += sorted(of_class, key=order)[:_TEST_PER_CLASS]
    return np.sort(np.asarray(chosen))
