import contextlib
import errno
import io
import logging
import multiprocessing
import os
import pathlib
import re
import subprocess
import sys
import threading
import time
from unittest import mock

import cv2
import numpy as np
import processes
import pytest
from batches import TRAIN, Pictures, assert_equal, take, train_batches
from conftest import make_photos, tiny_config
from PIL import Image

from vit_jax import config as config_lib
from vit_jax import data, main, train
from vit_jax.command_line import recipe as recipe_lib
from vit_jax.data import cache, decoder
from vit_jax.data.datasets import folder
from vit_jax.data.images import decoding
from vit_jax.runtime import machine
from vit_jax.training import loop

SCALED = {'corrupt': frozenset({3, 4, 11})}


@pytest.fixture(params=['memory', 'disk'])
def where(request, tmp_path):
    return 'memory' if request.param == 'memory' else tmp_path / 'cache'


@pytest.fixture
def photos(tmp_path):
    """Returns a source of JPEG files of 60×90 and 90×60, PNG and a truncated one."""
    rng = np.random.default_rng(0)
    root = tmp_path / 'photos'
    for label in 'ab':
        (root / label).mkdir(parents=True)
        for i in range(8):
            corners = rng.integers(0, 256, (4, 5, 3)).astype(np.uint8)
            size = (90, 60) if i % 2 else (60, 90)
            image = Image.fromarray(corners).resize(size, Image.Resampling.BICUBIC)
            image.save(root / label / f'{i}.{"png" if i == 5 else "jpg"}')
    bad = root / 'a' / '2.jpg'
    bad.write_bytes(bad.read_bytes()[:300])
    return folder.open_folder(root, holdout=0.2).source('train+validation+test')


class Forbidden:
    """A source that may not be asked for examples."""

    def __init__(self, source, allowed=()):
        self.class_names, self._source = source.class_names, source
        self._allowed = allowed

    def __len__(self):
        return len(self._source)

    def fingerprint(self):
        return self._source.fingerprint()

    def __getitem__(self, index):
        assert index in self._allowed, f'{index} is decoded again'
        return self._source[index]


class TestBatches:
    @pytest.mark.parametrize('resize', [None, 19])
    @pytest.mark.parametrize('num_workers', [0, 2])
    def test_are_the_same_to_the_bit(self, where, num_workers, resize):
        """Nothing is shrunk, or nothing is as large as that."""
        source = Pictures(20)
        options = TRAIN | {'start': 2, 'resize': resize}
        expected = take(train_batches(source, **options), 6)
        for shrink in (None, 60):
            kept = data.cached(source, where, shrink=shrink)
            found = train_batches(kept, **options, num_workers=num_workers)
            assert_equal(take(found, 6), expected)

    def test_hosts_share_them(self, where):
        kept = data.cached(Pictures(20), where)
        (expected,) = take(train_batches(Pictures(20), **TRAIN, start=4), 1)
        for host in range(2):
            found = train_batches(kept, **TRAIN, start=4, host=host, num_hosts=2)
            (half,) = take(found, 1)
            rows = slice(3 * host, 3 * host + 3)
            assert_equal([half], [{k: v[rows] for k, v in expected.items()}])

    @pytest.mark.parametrize('num_workers', [0, 1])
    def test_images_that_do_not_decode(self, where, num_workers):
        """They are skipped and counted, or stop the run and are named."""
        source = Pictures(20, **SCALED)
        kept = data.cached(source, where)
        options = TRAIN | {'num_workers': num_workers}
        skipping = options | {'skip_corrupt': True}
        expected = take(train_batches(source, **skipping), 7)
        assert_equal(take(train_batches(kept, **skipping), 7), expected)
        assert sum(batch['skipped'].sum() for batch in expected) > 3

        def stopped(source):
            with pytest.raises(Exception, match='does not decode') as error:
                take(train_batches(source, **options), 7)
            return str(error.value)

        assert 'picture/' in stopped(kept)
        assert stopped(kept).splitlines()[0] == stopped(source).splitlines()[0]

    @pytest.mark.parametrize('channels', [1, 3, 5])
    def test_channels(self, where, channels):
        class Arrays(Pictures):
            def __getitem__(self, index):
                rng = np.random.default_rng(index)
                image = rng.integers(0, 256, (31, 40, channels)).astype(np.uint8)
                return {'image': image, 'label': index % 2, 'name': ''}

        options = TRAIN | {'channels': channels}
        expected = take(train_batches(Arrays(12), **options), 2)
        kept = data.cached(Arrays(12), where, channels=channels)
        assert_equal(take(train_batches(kept, **options), 2), expected)
        smaller = data.cached(Arrays(12), where, channels=channels, shrink=10)
        assert smaller[0]['image'].shape == (10, 13, channels)


class TestShrink:
    def test_shorter_side_and_what_it_was(self, where, photos):
        kept = data.cached(photos, where, shrink=24)
        sizes = set()
        for example, expected in zip(kept, photos, strict=True):
            assert example['name'] == expected['name']
            assert example['label'] == expected['label']
            if example['name'].endswith('a/2.jpg'):
                assert example['image'] == expected['image']
                continue
            sizes.add((example['image'].shape, example['full_size']))
        assert sizes == {((36, 24, 3), (90, 60)), ((24, 36, 3), (60, 90))}

    @pytest.mark.parametrize('kind', ['JPEG', 'PNG'])
    def test_pixels_are_averages(self, kind):
        """By area; of a large JPEG, after its decoder has averaged."""
        rng = np.random.default_rng(0)
        corners = Image.fromarray(rng.integers(0, 256, (6, 8, 3)).astype(np.uint8))
        file = io.BytesIO()
        corners.resize((803, 601), Image.Resampling.BICUBIC).save(file, kind)
        example = {'image': file.getvalue(), 'label': 0, 'name': ''}
        image, size = decoder.Decoder(shrink=50)(example)
        assert (image.shape, size) == ((50, 67, 3), (601, 803))
        full = decoding.decode(file.getvalue()).astype(np.float32)
        expected = cv2.resize(full, (67, 50), interpolation=cv2.INTER_AREA)
        difference = np.abs(image - expected)
        assert difference.mean() < (1.5 if kind == 'JPEG' else 0.3)
        assert difference.max() < (15 if kind == 'JPEG' else 0.6)

    def test_crops_show_the_same(self, where):
        """The same box, up to a pixel of the smaller image; the same flip."""

        class Smooth(Pictures):
            def __getitem__(self, index):
                y, x = np.mgrid[:120, :160]
                image = np.stack([x, y, (x + y) / 2], -1).astype(np.uint8)
                return {'image': image, 'label': 0, 'name': ''}

        options = TRAIN | {'min_area': 0.3}
        expected = take(train_batches(Smooth(20), **options), 5)
        kept = data.cached(Smooth(20), where, shrink=60)
        found = take(train_batches(kept, **options), 5)
        for one, other in zip(found, expected, strict=True):
            # A pixel of the smaller image is worth two levels.
            assert np.abs(one['image'].astype(int) - other['image']).max() <= 3
            assert not np.array_equal(one['image'], other['image'])


class TestProcesses:
    def test_there_is_one_copy_for_all(self, where):
        """Workers map the file; it does not travel to them."""
        kept = data.cached(Pictures(40), where)
        assert kept.nbytes > 50_000
        sent = multiprocessing.reduction.ForkingPickler.dumps(kept)
        assert len(sent) < 1500
        again = multiprocessing.reduction.ForkingPickler.loads(bytes(sent))
        one, other = (_inode(source._memory) for source in (kept, again))
        assert one == other
        np.testing.assert_array_equal(again[7]['image'], kept[7]['image'])
        with pytest.raises(ValueError, match='read-only'):
            kept[7]['image'][0] = 0

    @pytest.mark.skipif(sys.platform != 'linux', reason='asks /proc')
    def test_memory_is_given_back(self):
        def is_open(number):
            for fd in os.listdir('/proc/self/fd'):
                with contextlib.suppress(OSError):
                    if os.stat(f'/proc/self/fd/{fd}').st_ino == number:
                        return True
            return False

        kept = data.cached(Pictures(5), 'memory')
        number = os.stat(kept._path).st_ino
        assert is_open(number)
        del kept
        assert not is_open(number)

    def test_two_at_once_make_it_once(self, tmp_path):
        """Whoever comes second waits, and finds it."""
        read = []

        class Slow(Pictures):
            def __getitem__(self, index):
                read.append(index)
                time.sleep(0.002)
                return super().__getitem__(index)

        found = []

        def make():
            found.append(data.cached(Slow(60), tmp_path, num_threads=2))

        threads = [threading.Thread(target=make) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # All once, by the first; a sample by each.
        assert len(read) == 60 + 3 * 32
        assert len({_inode(source._memory) for source in found}) == 1

    def test_a_process_that_is_killed_leaves_nothing_half_made(self, tmp_path):
        code = f"""
import sys, time
sys.path[:0] = {sys.path!r}
from batches import Pictures
from vit_jax import data
class Slow(Pictures):
    def __getitem__(self, index):
        time.sleep(0.05)
        return super().__getitem__(index)
data.cached(Slow(200), {str(tmp_path)!r}, num_threads=1)
"""
        process = subprocess.Popen([sys.executable, '-c', code])
        try:
            until = time.monotonic() + 60
            while not (left := [*tmp_path.glob('*.tmp')]):
                assert time.monotonic() < until
                assert process.poll() is None
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait()
        assert not [*tmp_path.glob('*.images')]
        # It may be another host's, until nobody has written to it for an hour.
        data.cached(Pictures(200), tmp_path)
        assert left[0].exists()
        os.utime(left[0], (0, 0))
        next(tmp_path.glob('*.images')).unlink()
        assert len(data.cached(Pictures(200), tmp_path)) == 200
        assert not left[0].exists()


def _inode(memory):
    """Returns which file an array is mapped from."""
    address = memory.__array_interface__['data'][0]
    for line in pathlib.Path('/proc/self/maps').read_text().splitlines():
        place, _, _, device, inode, *_ = line.split()
        start, stop = (int(part, 16) for part in place.split('-'))
        if start <= address < stop:
            return device, inode
    raise AssertionError('not mapped')


class TestDirectory:
    def test_is_found_again(self, tmp_path, photos, caplog):
        first = data.cached(photos, tmp_path / 'c')
        (path,) = (tmp_path / 'c').glob('*.images')
        before = path.stat()
        with caplog.at_level(logging.INFO):
            again = data.cached(photos, tmp_path / 'c')
        assert 'were found' in caplog.text
        assert path.stat().st_mtime_ns == before.st_mtime_ns
        # Nothing is asked of the source but what does not decode.
        bad = [i for i in range(len(photos)) if not again.has_pixels(i)]
        assert len(bad) == 1
        kept = cache.Cached(Forbidden(photos, bad), path)
        options = TRAIN | {'skip_corrupt': True}
        assert_equal(
            take(train_batches(kept, **options), 5),
            take(train_batches(photos, **options), 5),
        )
        assert first.fingerprint() == photos.fingerprint()

    def test_other_settings_and_examples_have_their_own(self, tmp_path):
        for count, shrink in [(9, None), (9, 30), (9, 31), (10, None)]:
            data.cached(Pictures(count), tmp_path, shrink=shrink)
        data.cached(Pictures(9), tmp_path, channels=1)
        assert len([*tmp_path.glob('*.images')]) == 5

    def test_files_that_have_changed_are_noticed(self, tmp_path, photos, caplog):
        """The list of the files is the same."""
        data.cached(photos, tmp_path / 'c')
        path = pathlib.Path(photos[3]['name'])
        Image.fromarray(np.full((40, 40, 3), 7, np.uint8)).save(path)
        again = data.cached(photos, tmp_path / 'c')
        assert 'other images' in caplog.text
        assert again[3]['image'].shape == (40, 40, 3)

    @pytest.mark.parametrize('keep', [0, 10, 5000, -1])
    def test_a_damaged_file_is_made_again(self, tmp_path, keep):
        kept = data.cached(Pictures(9), tmp_path)
        expected = [example['image'].copy() for example in kept]
        (path,) = tmp_path.glob('*.images')
        path.write_bytes(path.read_bytes()[:keep])
        for one, other in zip(
            data.cached(Pictures(9), tmp_path), expected, strict=True
        ):
            np.testing.assert_array_equal(one['image'], other)

    def test_a_full_disk(self, tmp_path, monkeypatch):
        """Nothing is left, and what was there before stays."""
        data.cached(Pictures(9), tmp_path)
        before = sorted(tmp_path.iterdir())
        real, calls = cache._write, []

        def full(file, *args):
            calls.append(file.name)
            file.write(b'x' * 100)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(cache, '_write', full)
        with pytest.raises(ValueError, match=r'No space left .*cache\.shrink'):
            data.cached(Pictures(12), tmp_path)
        assert calls
        assert [p for p in sorted(tmp_path.iterdir()) if p.suffix != '.lock'] == [
            p for p in before if p.suffix != '.lock'
        ]
        monkeypatch.setattr(cache, '_write', real)
        assert len(data.cached(Pictures(12), tmp_path)) == 12

    def test_too_little_room_is_told_before(self, tmp_path, monkeypatch):
        usage = cache.shutil.disk_usage(tmp_path)._replace(free=20_000)
        monkeypatch.setattr(cache.shutil, 'disk_usage', lambda path: usage)
        with pytest.raises(ValueError, match=r'40 decoded .* KiB|MiB .* free there'):
            data.cached(Pictures(40), tmp_path)
        assert not [*tmp_path.glob('*.tmp')]

    def test_a_directory_that_cannot_be_made(self, tmp_path):
        (tmp_path / 'file').write_text('')
        with pytest.raises(ValueError, match=r'cannot be kept in .*file/c'):
            data.cached(Pictures(9), tmp_path / 'file' / 'c')

    def test_a_file_of_the_dataset_is_no_matter_of_the_cache(self, tmp_path, photos):
        os.unlink(photos[1]['name'])
        with pytest.raises(FileNotFoundError, match='photos'):
            data.cached(photos, tmp_path / 'c')
        assert not [*(tmp_path / 'c').glob('*.tmp')]


def test_too_large_for_the_memory(monkeypatch):
    monkeypatch.setattr(machine, 'free_memory', lambda: 100_000)
    with pytest.raises(ValueError, match=r'40 decoded images .* in memory, more than'):
        data.cached(Pictures(40), 'memory')
    # Shrunk, they fit.
    assert len(data.cached(Pictures(40), 'memory', shrink=10)) == 40


@pytest.fixture(scope='module')
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp('cache')
    photos = make_photos(folder / 'photos', train=8, test=5)
    bad = photos / 'train' / 'dog' / '3.png'
    bad.write_bytes(bad.read_bytes()[:200])
    return processes.write_recipe(
        folder / 'recipe.py', photos, **{'pp.train': 'train', 'skip_corrupt': True}
    )


def run_main(recipe, workdir, *arguments):
    command = ['main', f'--config={recipe}', f'--workdir={workdir}', *arguments]
    assert main.main(command) == 0
    return workdir


@pytest.fixture(scope='module')
def without(recipe):
    return run_main(recipe, recipe.with_name('without'))


class TestRuns:
    """Through the entry point."""

    @pytest.mark.parametrize(
        'arguments',
        [
            ['--config.cache.where=memory'],
            ['--config.cache.where=memory', '--config.num_workers=1'],
            ['--config.cache.where={0}/c', '--config.cache.shrink=50'],
        ],
    )
    def test_a_run_is_the_same_to_the_bit(self, recipe, without, tmp_path, arguments):
        arguments = [text.format(tmp_path) for text in arguments]
        run = run_main(recipe, tmp_path / 'run', *arguments)
        records = processes.records(run)
        assert records == processes.records(without)
        assert max(record.get('skipped', 0) for record in records) > 0
        processes.assert_same_bits(run / 'model.npz', without / 'model.npz')

    def test_a_run_goes_on_with_or_without(self, recipe, without, tmp_path):
        """Where images are kept does not decide the numbers."""
        run, where = tmp_path / 'run', f'--config.cache.where={tmp_path}/c'

        class KilledError(Exception):
            pass

        training_steps = loop.training_steps

        def killed(*args):
            for step, *rest in training_steps(*args):
                yield step, *rest
                if step == 3:
                    raise KilledError

        with (
            mock.patch.object(loop, 'training_steps', killed),
            pytest.raises(KilledError),
        ):
            train.train_and_evaluate(recipe_lib.load_recipe(str(recipe)), run)
        run_main(recipe, run, where)
        assert [*tmp_path.glob('c/*.images')]
        processes.assert_same_bits(run / 'model.npz', without / 'model.npz')

    def test_another_size_is_another_run(self, recipe, tmp_path, capsys):
        kept = ['--config.cache.where=memory', '--config.cache.shrink=17']
        run = run_main(recipe, tmp_path / 'run', *kept, '--config.total_steps=2')
        command = ['main', f'--config={recipe}', f'--workdir={run}']
        command += [kept[0], '--config.total_steps=2']
        assert main.main(command) == 2
        assert 'config.cache.shrink: 17 there, None now' in capsys.readouterr().err

    def test_nothing_is_kept_by_a_dry_run(self, recipe, tmp_path):
        arguments = [f'--config.cache.where={tmp_path}/c', '--dry_run']
        run_main(recipe, tmp_path / 'run', *arguments)
        assert not [*tmp_path.iterdir()]

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            (['where=memroy'], r"'memroy'; it can be memory or a directory.* Did you"),
            (['where='], 'it can be memory or a directory'),
            ([f'where={__file__}'], 'which is a file'),
            (['shrink=20'], 'nothing is kept that could be shrunk'),
            (['where=memory', 'shrink=15'], 'smaller than the 16 pixels'),
            (['where=memory', 'shrink=0'], 'must be at least 1'),
            (['where=/proc/here'], 'cannot be kept in /proc/here'),
        ],
    )
    def test_user_errors(self, recipe, tmp_path, capsys, arguments, message):
        arguments = [f'--config.cache.{text}' for text in arguments]
        command = ['main', f'--config={recipe}', f'--workdir={tmp_path / "run"}']
        assert main.main([*command, *arguments]) == 2
        assert re.search(message, capsys.readouterr().err)

    def test_images_smaller_than_resize_are_refused(self):
        settings = {'cache.where': 'memory', 'cache.shrink': 20, 'pp.resize': 24}
        with pytest.raises(ValueError, match=r'smaller than config\.pp\.resize = 24'):
            config_lib.check(tiny_config('photos', **settings))
