"""JPEGs to read: parts of scikit-learn's two photos."""

import io

import numpy as np


class Photos:
    """A source of JPEGs in memory, parts of scikit-learn's two photos.

    Args:
      count: of different files.
      quality: of the JPEGs.
      size: (width, height); larger ones get some grain, which photos have.
      length: how many examples these files are repeated for.
    """

    class_names = ('china', 'flower')

    def __init__(
        self,
        count: int = 64,
        quality: int = 90,
        size: tuple[int, int] = (500, 375),
        length: int = 1 << 20,
    ):
        from PIL import Image
        from sklearn.datasets import load_sample_images

        rng = np.random.default_rng(0)
        photos = load_sample_images().images
        self.files = []
        self._length = length
        for i in range(count):
            height, width = photos[i % 2].shape[:2]
            top, left = rng.integers(0, height // 6), rng.integers(0, width // 6)
            part = photos[i % 2][top:, left:][: height * 5 // 6, : width * 5 // 6]
            image = Image.fromarray(part).resize(size, Image.Resampling.LANCZOS)
            if size[0] > 2 * width:
                grain = rng.normal(0, 4, (size[1], size[0], 1))
                pixels = np.clip(np.asarray(image) + grain, 0, 255)
                image = Image.fromarray(pixels.astype(np.uint8))
            file = io.BytesIO()
            image.save(file, 'JPEG', quality=quality)
            self.files.append(file.getvalue())

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict:
        """Returns one of the photos."""
        i = index % len(self.files)
        return {'image': self.files[i], 'label': i % 2, 'name': f'photo {i}'}

    def fingerprint(self) -> str:
        """Returns what every source must have."""
        return 'photos'
