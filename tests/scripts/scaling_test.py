"""What the compiled training step moves and holds on several devices, without running.

The functions are those of `scripts/benchmark scaling`.
"""

import argparse
import importlib
import pathlib

import jax
import pytest

from vit_jax import models
from vit_jax.models.__main__ import num_params

SCRIPTS = pathlib.Path(__file__).parents[2] / 'scripts'
COUNT = 4  # bytes of how many images were replaced, added up over the devices
LOSS = 4


@pytest.fixture
def devices(monkeypatch):
    """Returns the benchmark's module of that name."""
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module('benchmark.devices')


@pytest.fixture
def scaling(devices):
    """Returns a function from the arguments of `scaling` to its rows."""
    assert jax.device_count() == 8  # before it asks for fewer

    def run(**settings) -> list[dict]:
        parser = argparse.ArgumentParser()
        devices.add_parser(parser.add_subparsers())
        args = parser.parse_args(['scaling'])
        assert set(settings) <= set(vars(args))
        return devices.run_scaling(argparse.Namespace(**{**vars(args), **settings}))

    return run


def gradient_bytes(name: str, size: int) -> int:
    return 4 * num_params(name, 1000, size)


@pytest.mark.parametrize('name', ['testing', 'ViT-Ti_16'])
@pytest.mark.parametrize('scan_layers', [False, True])
def test_gradients_are_reduced_once(scaling, name, scan_layers):
    """Data parallel, without accumulation: one all-reduce, with the loss in it."""
    settings = {'model': name, 'size': 32, 'batch': 16, 'scan_layers': scan_layers}
    one, eight = scaling(**settings, devices=[1, 8])
    assert one['collectives'] == {}
    assert set(eight['collectives']) == {'all-reduce'}
    found = eight['collectives']['all-reduce']
    # Nothing but the gradient, the loss and that count, all at once. Of stacked blocks,
    # each one's gradient is reduced as soon as it is there.
    blocks = models.get_config(name).transformer.num_layers
    assert found['bytes'] == gradient_bytes(name, 32) + LOSS + COUNT
    once = blocks + 1 if scan_layers and blocks > 1 else 1
    assert found['count'] == once


# The first has dropout, and then gradients are reduced for each part.
@pytest.mark.parametrize(('name', 'times'), [('testing', 8), ('ViT-Ti_16', 1)])
def test_accumulation_moves_gradients_and_nothing_else(scaling, name, times):
    """The batch is not gathered: all that is moved is gradients and loss."""
    settings = {'model': name, 'size': 32, 'batch': 64, 'accum_steps': 8}
    (row,) = scaling(**settings, devices=[8])
    print(row['collectives'])
    assert set(row['collectives']) == {'all-reduce'}
    found = row['collectives']['all-reduce']
    each = gradient_bytes(name, 32) + LOSS
    assert found['bytes'] == times * each + COUNT
    assert found['count'] in (times, times + 1)


@pytest.mark.parametrize('fsdp', [2, 8])
def test_sharded_parameters_are_gathered_and_activations_stay(
    devices, scaling, monkeypatch, fsdp
):
    """ZeRO-3: parameters come to the images, not the images to the parameters."""
    original = devices.sides.training_config

    def shallow(args):
        config = original(args)
        config.model.transformer.num_layers = 2
        return config

    monkeypatch.setattr(devices.sides, 'training_config', shallow)
    settings = {'model': 'ViT-S_16', 'size': 160, 'batch': 64}
    (row,) = scaling(**settings, devices=[8], fsdp=[fsdp])
    kernels = 2 * (4 * 384 * 384 + 2 * 384 * 1536) + 16 * 16 * 3 * 384 + 384 * 1000
    moved = {kind: found['bytes'] for kind, found in row['collectives'].items()}
    print(moved, 'kernels', 4 * kernels)
    # Each kernel once; the backward pass has it still.
    assert 0.85 * 4 * kernels < moved['all-gather'] < 1.1 * 4 * kernels
    # What goes with the logits, at most: the activations of one device are 38 times it.
    logits = 64 // 8 * 1000 * 4
    assert moved.get('all-to-all', 0) <= logits


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'number', 'scan_layers'),
    [
        *((name, n, True) for name in ('ViT-L_16', 'ViT-H_14') for n in (2, 4, 8)),
        # These take minutes to compile.
        *(('ViT-L_16', 2, False), ('ViT-L_16', 8, False), ('ViT-H_14', 8, False)),
    ],
)
def test_each_device_holds_its_part_of_the_state(scaling, name, number, scan_layers):
    settings = {'model': name, 'batch': 8, 'scan_layers': scan_layers}
    (row,) = scaling(**settings, devices=[number], fsdp=[number])
    share = row['argument_bytes'] / row['state_bytes']
    print(f'{share:.4f}, {share * number:.4f} of 1/{number}', row['collectives'])
    # With the device's part of the batch.
    assert 1 / number <= share <= 1.1 / number


@pytest.mark.slow
def test_computing_again_saves_three_quarters_of_the_memory(scaling):
    """ViT-H/14 at 518 pixels: what one more image of a batch takes."""

    # Enough of them that the backward pass takes more than the optimizer.
    few, many = 4, 8

    def per_image(remat: str) -> float:
        less, more = (
            scaling(
                model='ViT-H_14', size=518, batch=batch, devices=[1],
                scan_layers=True, remat=remat,
            )[0]['peak_bytes']
            for batch in (few, many)
        )  # fmt: skip
        return (more - less) / (many - few)

    found = {remat: per_image(remat) for remat in ('none', 'dots', 'full')}
    print({remat: f'{size / 2**20:,.0f} MiB' for remat, size in found.items()})
    assert 0 < min(found.values()) <= found['none'] / 4
