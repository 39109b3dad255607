"""The plan of a run: what it knows, and that it writes nothing."""

import dataclasses
import pathlib
import shutil
from collections.abc import Sequence

import numpy as np
import pytest
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


def test_one_class_is_nothing_to_tell_apart(photos, tmp_path):
    outer = tmp_path / 'outer'
    shutil.copytree(photos / 'train', outer / 'photos')
    plan = prepare(checked(tiny_config(outer)), tmp_path / 'run')
    with pytest.raises(ValueError, match='one class') as raised:
        plan.check()
    # What it proposes works.
    meant = str(raised.value).partition('--config.dataset=')[2].split(' ')[0]
    prepare(checked(tiny_config(pathlib.Path(meant))), tmp_path / 'run').check()


class Unlabelled(Sequence):
    """A split of TFDS whose labels nobody has published."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        raise ValueError(f'cifar/test[{index}]: label -1 is none of the 3 classes')

    def paths(self):
        return []


def test_a_test_split_without_labels_is_told_before_the_first_step(photos, tmp_path):
    plan = prepare(checked(tiny_config(photos)), tmp_path)
    sources = {**plan.sources, 'test': Unlabelled()}
    with pytest.raises(ValueError, match='label -1 is none of the 3 classes'):
        dataclasses.replace(plan, sources=sources).check()


def test_bad_images_to_be_judged_are_found_before_the_first_step(photos, tmp_path):
    folder = tmp_path / 'photos'
    shutil.copytree(photos, folder)
    config = tiny_config(folder)
    bad = sorted(prepare(checked(config), tmp_path).sources['test'].paths())[:2]
    pathlib.Path(bad[0]).write_bytes(b'<!DOCTYPE html>')
    pathlib.Path(bad[1]).write_bytes(b'')
    with pytest.raises(ValueError, match='2 files are no image') as raised:
        prepare(checked(config), tmp_path / 'run').check()
    assert all(path in str(raised.value) for path in bad)
    # As the message says.
    config.skip_corrupt = True
    prepare(checked(config), tmp_path / 'run').check()
    config.skip_corrupt = False
    for path in bad:
        pathlib.Path(path).unlink()
    prepare(checked(config), tmp_path / 'run').check()


def test_splits_that_nobody_uses_are_told(photos, tmp_path, caplog):
    caplog.set_level('INFO')
    config = tiny_config(photos)
    config.pp.train, config.pp.val, config.pp.test = 'train[:50%]', 'train[50%:]', None
    prepare(checked(config), tmp_path / 'run')
    assert 'Not used of' in caplog.text
