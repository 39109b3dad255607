"""Lists of files are small, however many there are."""

import os
import pickle
import subprocess
import sys

import pytest
from photo_files import make, names

from vit_jax import data


def test_packed_names_are_small(tmp_path):
    count = 3000
    make(tmp_path, 'train/n01440764/first.jpg', 'train/n01440765/first.jpg')
    for i in range(1, count):
        os.link(
            tmp_path / 'train/n01440764/first.jpg',
            tmp_path / f'train/n0144076{4 + i % 2}/n01440764_{i:06}.JPEG',
        )
    source = data.open_folder(tmp_path).source('train')
    size = len(pickle.dumps(source))
    assert size < 64 * count
    copy = pickle.loads(pickle.dumps(source))
    assert names(copy) == names(source)
    assert len({*names(source)}) == len(source) == count + 1


# Lists a folder and draws one batch; prints seconds and bytes per file.
LIST = """
import gc, os, pathlib, pickle, sys, time
from vit_jax import data
import batches as helper

def resident():
    gc.collect()
    status = pathlib.Path('/proc/self/status').read_text()
    return 1024 * int(status.split('VmRSS:')[1].split()[0])

# Once on a small source, so that only the list counts below.
warm = helper.Pictures(64)
with data.train_batches(warm, data.Augment((32, 32)), batch=64, seed=0) as batches:
    next(batches)
before = resident()
start = time.perf_counter()
source = data.open_folder(sys.argv[1], holdout=0.0).source('train')
listed = time.perf_counter() - start
after = resident()
with data.train_batches(source, data.Augment((32, 32)), batch=64, seed=0) as batches:
    next(batches)
seconds = time.perf_counter() - start
pickled = len(pickle.dumps(source))
n = len(source)
print(n, listed, seconds, (after - before) / n, pickled / n)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_a_million_files(tmp_path):
    count, classes = 1_000_000, 1000
    first = make(tmp_path, 'first.jpg') / 'first.jpg'
    root = tmp_path / 'photos'
    for label in range(classes):
        directory = root / f'n{label:08}'
        directory.mkdir(parents=True)
        original = directory / 'first.JPEG'  # files take few links each
        original.write_bytes(first.read_bytes())
        for i in range(1, count // classes):
            os.link(original, directory / f'n{label:08}_{i:08}.JPEG')
    result = subprocess.run(
        [sys.executable, '-c', LIST, root],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {'PYTHONPATH': ':'.join(sys.path)},
    )
    found, _, seconds, resident, pickled = map(float, result.stdout.split())
    assert found == count
    assert seconds < 20
    assert resident <= 64
    assert pickled <= 64
