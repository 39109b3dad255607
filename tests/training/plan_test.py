"""The plan of a run: what it knows, and that it writes nothing."""

import dataclasses

import numpy as np
from conftest import tiny_config

from vit_jax.training.plan import checked, prepare


def test_it_fills_in_a_copy_and_writes_nothing(photos, tmp_path):
    config = tiny_config(photos, accum_steps=None)
    with config.ignore_type():
        config.accum_steps = None
    plan = prepare(checked(config), tmp_path / 'run')
    assert config.accum_steps is None
    assert plan.config.accum_steps == 1
    assert plan.start is None
    assert {role: len(source) for role, source in plan.sources.items()} == {
        **{'train': 24, 'val': 9, 'test': 6}
    }
    assert not (tmp_path / 'run').exists()


def test_it_makes_the_batches_of_the_run(photos, tmp_path):
    plan = prepare(checked(tiny_config(photos)), tmp_path)
    batches, later = plan.input(), plan.input(1)
    try:
        next(batches)
        second, first = next(batches), next(later)
        np.testing.assert_array_equal(second['image'], first['image'])
    finally:
        batches.close()
        later.close()


def test_a_replaced_plan_makes_its_parts_anew(photos, tmp_path):
    plan = prepare(checked(tiny_config(photos)), tmp_path)
    assert plan.model is plan.model
    config = plan.config.copy_and_resolve_references()
    config.dtype = 'bfloat16'
    assert dataclasses.replace(plan, config=config).model.dtype == 'bfloat16'
