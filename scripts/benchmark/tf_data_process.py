"""What the input pipeline is compared with: the same work by tf.data.

    python scripts/benchmark/tf_data_process.py FOLDER SIZE BATCH COUNT

A process of its own, in any Python that has TensorFlow: both libraries would otherwise
share threads, and only one needs TensorFlow. It prints 'ready VERSION', and for each
line that it reads, how fast the next COUNT batches came:

    rate IMAGES_PER_SECOND MEAN_PIXEL DTYPE BATCH HEIGHT WIDTH CHANNELS
"""

import itertools
import pathlib
import sys
import time

try:
    import tensorflow as tf
except ImportError:
    sys.exit(
        f'TensorFlow is not installed for {sys.executable}: pip install '
        'tensorflow-cpu, or name another Python by --tensorflow_python'
    )

# Batches that may be ready when nobody has drawn any for a while: two in `prefetch`,
# and what the operations before it hold; five were seen.
READY = 6


def pipeline(files: list[bytes], size: int, batch: int) -> tf.data.Dataset:
    """Returns endless batches of random crops, uint8, as ours are.

    Crops and their distribution are those of the original's input pipeline; `prefetch`
    is of two batches: left to AUTOTUNE it doubles with every pause between timed runs.
    """

    def read(file: tf.Tensor) -> tf.Tensor:
        begin, shape, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(file),
            tf.zeros([0, 0, 4], tf.float32),
            area_range=(0.05, 1.0),
            min_object_covered=0,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([begin[:2], shape[:2]], axis=0)
        image = tf.image.decode_and_crop_jpeg(file, window, channels=3)
        image = tf.image.resize(image, (size, size))  # bilinear, not antialiased
        image = tf.cast(tf.round(image), tf.uint8)
        return tf.image.random_flip_left_right(image)

    options = tf.data.Options()
    options.deterministic = False  # as fast as it can be; ours keeps the order
    return (
        tf.data.Dataset.from_tensor_slices(files)
        .shuffle(len(files))
        .repeat()
        .map(read, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch, drop_remainder=True)
        .prefetch(2)
        .with_options(options)
    )


def main() -> None:
    """Times batches whenever a line comes."""
    folder, size, batch, count = sys.argv[1], *map(int, sys.argv[2:])
    files = [path.read_bytes() for path in sorted(pathlib.Path(folder).iterdir())]
    batches = iter(pipeline(files, size, batch))
    next(batches)
    print('ready', tf.__version__, flush=True)
    for _ in sys.stdin:
        for _ in itertools.islice(batches, READY):
            pass
        start = time.perf_counter()
        for _ in range(count):
            made = next(batches)
        rate = count * batch / (time.perf_counter() - start)
        mean = made.numpy().mean()
        print('rate', rate, mean, made.dtype.name, *made.shape, flush=True)


if __name__ == '__main__':
    main()
