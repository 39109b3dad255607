"""The mesh, which array is split along which axis, and batches on the devices."""

import re

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from vit_jax import config as config_lib
from vit_jax import models, optim
from vit_jax.runtime import memory, sharding
from vit_jax.training.state import Initializer


@pytest.mark.parametrize(
    ('fsdp', 'num_devices', 'shape'), [(1, 8, (8, 1)), (4, 8, (2, 4)), (2, 2, (1, 2))]
)
def test_mesh(fsdp, num_devices, shape):
    devices = jax.devices()[:num_devices]
    mesh = sharding.make_mesh(fsdp, devices)
    assert mesh.axis_names == ('data', 'fsdp')
    assert mesh.devices.shape == shape
    assert set(mesh.devices.flat) == set(devices)
    # Linen modules do not work with explicit axes, which are JAX's default.
    assert mesh.axis_types == (AxisType.Auto, AxisType.Auto)


def test_the_default_is_all_devices_for_the_data():
    assert dict(sharding.make_mesh().shape) == {'data': 8, 'fsdp': 1}


@pytest.mark.parametrize(
    ('shape', 'spec'),
    [
        ((12, 8), ('fsdp', None)),
        ((8, 12), (None, 'fsdp')),
        ((8, 30, 4), ('fsdp', None, None)),  # 4 does not divide 30
        ((3, 5), ()),
        ((4,), ('fsdp',)),
        ((), ()),
        ((8, 8), ('fsdp', None)),
    ],
)
def test_arrays_are_split_along_the_largest_axis_that_fsdp_divides(shape, spec):
    mesh = sharding.make_mesh(4)
    state = {'a': jax.ShapeDtypeStruct(shape, 'float32'), 'b': (np.zeros(shape),)}
    found = sharding.state_sharding(mesh, state)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    for each in jax.tree.leaves(found):
        assert each.spec == PartitionSpec(*spec)
        assert each.mesh == mesh
    parts = jax.device_put(np.zeros(shape), found['a']).addressable_shards
    held = {part.data.size for part in parts}
    assert held == {np.zeros(shape).size // (4 if spec else 1)}


# What the rules make of each kernel of a block, and of others: the axis that is split.
KERNELS = {
    'MultiHeadDotProductAttention_0/query': 0,  # d k e
    'MultiHeadDotProductAttention_0/key': 0,
    'MultiHeadDotProductAttention_0/value': 0,
    'MultiHeadDotProductAttention_0/out': 2,  # k e d
    'MlpBlock_0/Dense_0': 1,  # d m
    'MlpBlock_0/Dense_1': 0,  # m d
}
OTHERS = {'embedding/kernel': 3, 'head/kernel': 1}  # h w c d, d y


def split_axes(state, fsdp=4) -> dict[str, int | None]:
    """Returns the axis of each array that is split, by its name."""
    found = sharding.state_sharding(sharding.make_mesh(fsdp), state)
    return {
        jax.tree_util.keystr(path, simple=True, separator='/'): next(
            (axis for axis, name in enumerate(each.spec) if name == 'fsdp'), None
        )
        for path, each in jax.tree_util.tree_leaves_with_path(found)
    }


def initializer(name, num_classes=1000, fsdp=4, **settings):
    """Returns what makes state 0 of a run with a model."""
    config = config_lib.default()
    with config.ignore_type():
        config.model = models.get_config(name)
    config.update_from_flattened_dict(
        {'pp.crop': 224, 'total_steps': 10, 'warmup_steps': 1, **settings}
    )
    optimizer = optim.create_optimizer(config)
    mesh = sharding.make_mesh(fsdp)
    return Initializer(config, num_classes, optimizer, mesh)


def shapes_of(*args, **settings):
    """Returns the train state of a model as shapes."""
    return initializer(*args, **settings).shapes()


@pytest.mark.parametrize('optimizer', ['sgd', 'adamw'])
@pytest.mark.parametrize('scan_layers', [False, True])
def test_the_rules_name_the_published_parameters(optimizer, scan_layers):
    state = shapes_of('ViT-S_16', optimizer=optimizer, scan_layers=scan_layers)
    found = split_axes(state)
    names = {name for name in found if name.startswith('params/')}
    assert len(names) == (24 if scan_layers else 8 + 12 * 16)
    for name in names:
        _, _, published = name.partition('/')
        module, _, leaf = re.sub(
            r'^Transformer/encoderblock(_\d+)?/', '', published
        ).rpartition('/')
        axis = KERNELS.get(module, OTHERS.get(published)) if leaf == 'kernel' else None
        assert (axis is None) == (leaf != 'kernel')
        if scan_layers and axis is not None and module in KERNELS:
            axis += 1
        # The optimizer's copies lie where the parameters lie.
        copies = [found[other] for other in found if other.endswith(f'/{published}')]
        assert copies == [axis] * (3 if optimizer == 'adamw' else 2), name


def test_a_head_whose_classes_fsdp_does_not_divide():
    assert split_axes(shapes_of('ViT-S_16', 1001))['params/head/kernel'] == 0
    assert split_axes({'head': {'kernel': np.zeros((9, 3))}})['head/kernel'] is None


@pytest.mark.parametrize('name', ['ViT-L_16', 'R50+ViT-B_16', 'Mixer-B_16'])
@pytest.mark.parametrize('fsdp', [2, 8])
def test_what_is_not_split_is_a_hundredth(name, fsdp):
    state = shapes_of(name)
    found = split_axes(state.params, fsdp)
    sizes = {
        jax.tree_util.keystr(path, simple=True, separator='/'): leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)
    }
    kept = sum(size for name, size in sizes.items() if found[name] is None)
    assert kept < 0.01 * sum(sizes.values())


def test_without_fsdp_every_device_holds_all():
    mesh = sharding.make_mesh()
    (found,) = jax.tree.leaves(sharding.state_sharding(mesh, [np.zeros((8, 8))]))
    assert found == sharding.replicated(mesh)


@pytest.mark.parametrize('fsdp', [1, 4])
def test_batches_are_split_over_all_devices_in_order(fsdp):
    mesh = sharding.make_mesh(fsdp)
    batch = {
        'image': np.arange(16 * 3, dtype=np.uint8).reshape(16, 3),
        'label': np.arange(16, dtype=np.int32),
    }
    placed = sharding.to_devices(batch, sharding.batch_sharding(mesh))
    assert placed.keys() == batch.keys()
    for name, array in placed.items():
        assert array.dtype == batch[name].dtype
        np.testing.assert_array_equal(array, batch[name])
        for part in array.addressable_shards:
            row = 2 * list(mesh.devices.flat).index(part.device)
            np.testing.assert_array_equal(part.data, batch[name][row : row + 2])


@pytest.mark.parametrize('scan_layers', [False, True])
def test_no_device_holds_all_parameters_while_they_are_made(monkeypatch, scan_layers):
    needed = []
    real = jax.jit

    def measured(function, **options):
        def call(*args):
            compiled = real(function, **options).lower(*args).compile()
            needed.append(memory.MemoryUse.of(compiled).total)
            return compiled(*args)

        return call

    start = initializer('ViT-S_16', fsdp=8, scan_layers=scan_layers)
    shapes = start.shapes()
    whole = 4 * sum(leaf.size for leaf in jax.tree.leaves(shapes.params))
    monkeypatch.setattr(jax, 'jit', measured)
    state = start.state(tuple(map(str, range(1000))))
    assert memory.size(state) == memory.size(shapes) < 0.3 * whole
    assert len(needed) == 2  # the parameters, then the rest
    assert max(needed) < 0.5 * whole
