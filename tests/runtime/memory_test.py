"""What a device lacks is told with the knobs that help, at their values now."""

import jax
import jax.numpy as jnp
import processes
import pytest
from conftest import tiny_config

from vit_jax import config as config_lib
from vit_jax import main
from vit_jax.runtime import memory
from vit_jax.training import out_of_memory, plan


def test_what_a_program_takes():
    shape = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    step = jax.jit(lambda x, y: (x + y @ y, y.sum()), donate_argnums=0)
    taken = memory.MemoryUse.of(step.lower(shape, shape).compile())
    one = 256 * 256 * 4
    assert taken.arguments == 2 * one
    assert taken.aliased == one
    assert one <= taken.outputs < one + 100
    assert taken.total == pytest.approx(2 * one + taken.temporaries, abs=100)


def test_arrays_are_counted_on_one_device():
    from vit_jax.runtime import sharding

    mesh = sharding.make_mesh(4)
    leaf = jax.ShapeDtypeStruct((16, 3), jnp.float32)
    (where,) = jax.tree.leaves(sharding.state_sharding(mesh, [leaf]))
    assert memory.size([leaf.update(sharding=where)]) == 4 * 3 * 4
    whole = leaf.update(sharding=sharding.replicated(mesh))
    assert memory.size({'a': whole, 'b': whole}) == 2 * 16 * 3 * 4


@pytest.mark.parametrize(
    ('settings', 'parts', 'expected'),
    [
        ({'batch': 64}, None, ['accum_steps=2 (parts of 32', 'remat=full', 'fsdp=8']),
        ({'batch': 64}, 8, ['accum_steps=8 (parts of 8', 'remat=full', 'fsdp=8']),
        ({'batch': 48, 'accum_steps': 3}, None, ['accum_steps=6', 'remat', 'fsdp=8']),
        (
            {'batch': 16, 'accum_steps': 2, 'remat': 'full', 'sharding.fsdp': 8},
            None,
            ['batch=8'],
        ),
        (
            {'batch': 8, 'remat': 'full', 'sharding.fsdp': 8, 'scan_layers': True},
            None,
            [],
        ),
    ],
)
def test_knobs(settings, parts, expected):
    config = tiny_config('/some/photos', **settings)
    found = out_of_memory.knobs(config, 8, parts)
    assert len(found) == len(expected)
    for knob, part in zip(found, expected, strict=True):
        assert f'--config.{part}' in knob or part in knob
        # Each is a setting that the configuration takes.
        for word in knob.partition(' (')[0].split():
            key, value = word.removeprefix('--config.').split('=')
            value = {'True': True, 'full': 'full'}.get(value) or int(value)
            config.update_from_flattened_dict({key: value})
        config_lib.check(config, num_devices=8)


def test_a_device_out_of_memory_is_answered(tmp_path, photos, monkeypatch, capsys):
    def compile_step(*arguments):
        def step(state, batch):
            raise jax.errors.JaxRuntimeError(
                'RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.'
            )

        return step

    monkeypatch.setattr(plan, 'compile_step', compile_step)
    recipe = processes.write_recipe(tmp_path / 'tiny.py', photos, batch=16)
    command = ['main', f'--config={recipe}', f'--workdir={tmp_path / "run"}']
    assert main.main(command) == 2
    message = capsys.readouterr().err
    for part in (
        'is out of memory with batch=16 in accum_steps=1 parts of 16 images',
        'remat=none',
        'sharding.fsdp=1 of 8 devices',
        '--config.accum_steps=2',
        '--config.remat=full --config.scan_layers=True',
        '--config.sharding.fsdp=8',
        '--dry_run',
        'allocate 9 bytes',
    ):
        assert part in message
    assert 'Traceback' not in message
    assert 'is out of memory' in (tmp_path / 'run' / 'train.log').read_text()


def test_other_errors_of_a_device_stay_what_they_are():
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match='INTERNAL'),
        out_of_memory.explained(tiny_config('/some/photos')),
    ):
        raise jax.errors.JaxRuntimeError('INTERNAL: no idea')
