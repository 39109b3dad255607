import re
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import processes
import pytest
import together
from conftest import make_photos, tiny_config
from pipeline_test import Pictures, take

from vit_jax import config as config_lib
from vit_jax import data, main, train
from vit_jax.command_line import recipe as recipe_lib
from vit_jax.data import on_device, pipeline
from vit_jax.data.images import ops
from vit_jax.runtime import sharding
from vit_jax.training import loop


class Same(Pictures):
    """Images of one size, as arrays; those in `corrupt` do not decode."""

    shape = (32, 40, 3)

    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError(index)
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, self.shape).astype(np.uint8)
        if index in self.corrupt:
            image = b'no image'
        return {'image': image, 'label': index % 7, 'name': f'number {index}'}


def host_and_device(source, *, batch=8, size=(24, 20), steps=4, fsdp=1, **options):
    """Returns batches of both kinds."""
    held = {
        name: options.pop(name)
        for name in ('resize', 'shrink', 'channels')
        if name in options
    }
    drawn = {'batch': batch, 'seed': 3, **options}
    shrink = held.pop('shrink', None)
    kept = data.cached(source, 'memory', shrink=shrink) if shrink else source
    expected = take(pipeline.train_batches(kept, **drawn, **held, size=size), steps)
    rows = sharding.batch_sharding(sharding.make_mesh(fsdp))
    if shrink:
        held['shrink'] = shrink
    made = on_device.OnDevice(source, size, rows, most=10**8, **held)
    found = [
        made(sharding.to_devices(batch, rows))
        for batch in take(made.batches(**drawn), steps)
    ]
    return found, expected


def assert_close(found, expected, levels=1):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].dtype == other[name].dtype
            assert one[name].shape == other[name].shape
        np.testing.assert_array_equal(one['label'], other['label'])
        np.testing.assert_array_equal(one['skipped'], other['skipped'])
        difference = np.abs(np.asarray(one['image'], int) - other['image'])
        assert difference.max() <= levels
        # OpenCV rounds on the way as well: one value in eight is another.
        assert difference.mean() < 0.2


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'size': (96, 128)},
        {'size': (7, 5)},
        {'size': (16, 20), 'min_area': 0.9},
        {'size': (32, 40)},
        {'resize': 24},
        {'resize': 50, 'size': (48, 48)},
        {'resize': 24, 'size': (24, 24), 'flip': False},
        {'start': 5, 'batch': 24},
        {'fsdp': 4},
        {'shrink': 24, 'size': (20, 20)},
        {'shrink': 24, 'resize': 20, 'size': (16, 20)},
        {'shrink': 33},
    ],
)
def test_batches_are_those_of_the_host(options):
    assert_close(*host_and_device(Same(30), **options))


@pytest.mark.parametrize('channels', [1, 5])
def test_channels(channels):
    class Other(Same):
        shape = (9, 12, channels)

    assert_close(*host_and_device(Other(20), channels=channels))


def test_levels_are_those_of_an_exact_resize():
    pixels = np.stack([Same(4)[i]['image'] for i in range(4)])
    box = np.array([(3, 7, 20, 11), (0, 0, 32, 40), (31, 2, 1, 30)], np.int32)
    cut = on_device.cut(
        jnp.array(pixels), jnp.arange(3), jnp.array(box), jnp.zeros(3, bool),
        size=(25, 37),
    )  # fmt: skip
    for i, (top, left, height, width) in enumerate(box):
        part = pixels[i, top : top + height, left : left + width].astype(np.float32)
        exact = ops.Resize((25, 37))(part)
        assert np.abs(np.asarray(cut[i]) - exact).max() < 0.501


@pytest.mark.parametrize('flip', [True, False])
def test_what_is_not_resized_is_equal_to_the_bit(flip):
    """Crops of the whole image, and crops of the wanted size."""
    options = {'size': (32, 32), 'flip': flip, 'batch': 16}

    class Square(Same):
        shape = (32, 32, 3)

    found, expected = host_and_device(Square(30), **options, min_area=0.999)
    assert_close(found, expected, levels=0)
    # Boxes of every kind, with the numbers that are drawn.
    pixels = np.stack([Square(5)[i]['image'] for i in range(5)])
    box = np.array([(3, 7, 20, 11), (12, 21, 20, 11), (0, 0, 20, 11)], np.int32)
    index = np.array([4, 0, 2], np.int32)
    mirrored = np.array([flip, False, flip])
    cut = on_device.cut(
        jnp.array(pixels), jnp.array(index), jnp.array(box), jnp.array(mirrored),
        size=(20, 11),
    )  # fmt: skip
    for image, i, (top, left, height, width), mirror in zip(
        np.asarray(cut), index, box, mirrored, strict=True
    ):
        part = pixels[i, top : top + height, left : left + width]
        np.testing.assert_array_equal(image, part[:, ::-1] if mirror else part)


@pytest.mark.parametrize('corrupt', [{2, 3, 7}, set(range(1, 30))])
def test_images_that_do_not_decode_are_skipped(corrupt):
    source = Same(30, corrupt=frozenset(corrupt))
    found, expected = host_and_device(source, skip_corrupt=True)
    assert_close(found, expected)
    assert sum(batch['skipped'].sum() for batch in expected) > 0


def test_images_that_do_not_decode_stop_and_are_named():
    source = Same(8, corrupt=frozenset({5}))
    rows = sharding.batch_sharding(sharding.make_mesh())
    made = on_device.OnDevice(source, (8, 8), rows, most=10**6)
    with pytest.raises(ops.UndecodableImage, match=r'number 5 .*skip_corrupt'):
        take(made.batches(batch=8, seed=0), 1)
    source = Same(8, corrupt=frozenset(range(8)))
    with pytest.raises(ops.UndecodableImage, match=r'number 7 .* Nor do the 7'):
        on_device.OnDevice(source, (8, 8), rows, most=10**6)


def test_hosts_draw_their_rows():
    source = Same(30)
    rows = sharding.batch_sharding(sharding.make_mesh())
    made = on_device.OnDevice(source, (8, 8), rows, most=10**6)
    (whole,) = take(made.batches(batch=12, seed=0, start=3), 1)
    parts = [
        take(made.batches(batch=12, seed=0, start=3, host=host, num_hosts=3), 1)[0]
        for host in range(3)
    ]
    for name, expected in whole.items():
        found = np.concatenate([part[name] for part in parts])
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize('fsdp', [1, 2, 8])
def test_batches_are_split_and_nothing_is_moved(fsdp):
    rows = sharding.batch_sharding(sharding.make_mesh(fsdp))
    made = on_device.OnDevice(Same(30), (24, 24), rows, most=10**6)
    (drawn,) = take(made.batches(batch=16, seed=0), 1)
    drawn = sharding.to_devices(drawn, rows)
    batch = made(drawn)
    for array in batch.values():
        assert array.sharding.is_equivalent_to(rows, array.ndim)
        assert len(array.addressable_shards) == 8
    assert made._pixels.is_fully_replicated
    parts = [drawn[name] for name in ('index', 'box', 'mirrored')]
    text = made._cut.lower(made._pixels, *parts).compile().as_text()
    assert not re.search('all-gather|all-reduce|all-to-all|collective-permute', text)


def test_images_of_different_sizes():
    rows = sharding.batch_sharding(sharding.make_mesh())
    with pytest.raises(
        ValueError, match=r'one size, .*picture/0\.jpg has \d+ x \d+ pixels and pict'
    ):
        on_device.OnDevice(Pictures(20), (8, 8), rows, most=10**8)


def test_images_that_do_not_fit():
    """Told by the first image, before the others are read."""

    class First(Same):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    read = []
    rows = sharding.batch_sharding(sharding.make_mesh())
    number = 10**6
    with pytest.raises(ValueError, match=r'1,000,000 .* 3\.6 GiB \(40 x 32 .* 95\.4'):
        on_device.OnDevice(First(number), (8, 8), rows, most=10**8)
    assert len(read) < 10_000


@pytest.fixture(scope='module')
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp('device')
    photos = make_photos(folder / 'photos', train=8, test=5)
    bad = photos / 'train' / 'dog' / '3.png'
    bad.write_bytes(bad.read_bytes()[:200])
    return processes.write_recipe(
        folder / 'recipe.py', photos, **{'pp.train': 'train', 'skip_corrupt': True}
    )


ON = '--config.cache.on_device=True'


def run_main(recipe, workdir, *arguments):
    command = ['main', f'--config={recipe}', f'--workdir={workdir}', *arguments]
    assert main.main(command) == 0
    return workdir


@pytest.fixture(scope='module')
def on(recipe):
    return run_main(recipe, recipe.with_name('on'), ON)


def test_a_run_is_about_the_same(recipe, on, tmp_path):
    off = run_main(recipe, tmp_path / 'off')
    found, expected = processes.records(on), processes.records(off)
    for one, other in zip(found, expected, strict=True):
        for name in other:
            assert one[name] == pytest.approx(other[name], rel=0.01, abs=1e-3), name
    assert max(record.get('skipped', 0) for record in found) > 0


def test_a_run_that_is_killed_goes_on_with_the_same_bits(recipe, on, tmp_path):
    class KilledError(Exception):
        pass

    def killed(step_fn, state, batches, start, stop):
        for step, *rest in loop.training_steps(step_fn, state, batches, start, stop):
            yield step, *rest
            if step == 3:
                raise KilledError

    run = tmp_path / 'run'
    config = recipe_lib.load_recipe(str(recipe))
    config.cache.on_device = True
    with mock.patch.object(loop, 'training_steps', killed), pytest.raises(KilledError):
        train.train_and_evaluate(config, run)
    # How much may be kept does not decide the numbers, nor does where on the host.
    more = ['--config.cache.device_mb=1', '--config.cache.where=memory']
    run_main(recipe, run, ON, *more)
    assert processes.records(run)[-1] == processes.records(on)[-1]
    processes.assert_same_bits(run / 'model.npz', on / 'model.npz')


def test_it_decides_the_numbers(recipe, on, capsys):
    assert main.main(['main', f'--config={recipe}', f'--workdir={on}']) == 2
    assert 'config.cache.on_device: True there, False now' in capsys.readouterr().err


@pytest.mark.slow
def test_two_hosts(recipe, on, tmp_path):
    run = tmp_path / 'two'
    assert together.finish(recipe, run, ON) == [0, 0], together.printed(run)
    found, expected = processes.records(run), processes.records(on)
    for one, other in zip(found, expected, strict=True):
        for name in other:
            assert one[name] == pytest.approx(other[name], rel=1e-4), name


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['cache.device_mb=0'], 'cache.device_mb is 0; it must be at least 1'),
        (['cache.device_mb=1', 'pp.resize=300'], r'take .* MiB .*device_mb allows'),
    ],
)
def test_user_errors(recipe, tmp_path, capsys, arguments, message):
    arguments = [f'--config.{text}' for text in arguments]
    command = ['main', f'--config={recipe}', f'--workdir={tmp_path / "run"}', ON]
    assert main.main([*command, *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_images_can_be_shrunk_without_another_cache():
    settings = {'cache.on_device': True, 'cache.shrink': 20}
    config_lib.check(tiny_config('photos', **settings))
    with pytest.raises(ValueError, match='nothing is kept'):
        config_lib.check(tiny_config('photos', **settings | {'cache.on_device': False}))


def test_the_digits(tmp_path):
    """A dataset of grey images, as a user trains on it."""
    arguments = ['--config=quickstart.py', '--config.total_steps=2', ON]
    arguments += ['--config.eval_every=0', '--config.batch=16']
    arguments += [
        f'--config.tfds_data_dir={tmp_path}/data',
        f'--workdir={tmp_path}/run',
    ]
    assert main.main(['main', *arguments, f'--workdir={tmp_path}/run']) == 0
    assert jax.device_count() == 8
