import importlib.util
import pathlib
import shutil

import jax
import numpy as np
import pytest
from conftest import GOLDEN

from vit_jax import checkpoint, models

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def script():
    path = ROOT / 'scripts/verify_checkpoint.py'
    spec = importlib.util.spec_from_file_location('verify_checkpoint', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def published(tmp_path_factory):
    """Random weights under a published name, with ImageNet's classes."""
    folder = tmp_path_factory.mktemp('w') / 'vit_models/augreg'
    stem = 'Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0'
    path = folder / f'{stem}--imagenet2012-steps_20k-lr_0.03-res_224.npz'
    model = models.get_model('ViT-Ti_16', 1000, head_init='lecun_normal')
    images = np.zeros((1, 224, 224, 3), np.float32)
    checkpoint.save(path, jax.jit(model.init)(jax.random.key(0), images)['params'])
    return path


def test_a_published_file(script, published, capsys):
    assert script.main([str(published)]) == 0
    out = capsys.readouterr().out
    assert 'sha256' in out
    assert 'Transformer/encoderblock_11/MlpBlock_0/Dense_1/bias (192,) float32' in out
    assert '200 arrays, 5,717,416 parameters' in out
    assert 'arrays: 200, published 200' in out
    assert "'augmentation': 'none'" in out
    lines = out.partition('flower.jpg')[2].splitlines()[1:6]
    probabilities = [float(line.split()[0]) for line in lines]
    assert probabilities == sorted(probabilities, reverse=True)
    assert all(line.split()[1][0].isalpha() for line in lines)
    assert 'Nothing speaks against it' in out


def test_a_file_of_another_kind(script, published, tmp_path, capsys):
    path = tmp_path / 'sam/ViT-B_16.npz'
    path.parent.mkdir()
    shutil.copy(published, path)
    assert script.main([str(path), '--short']) == 2
    assert 'These look like the weights of ViT-Ti_16' in capsys.readouterr().err
    path = path.with_name('mine.npz')
    with checkpoint.open(published) as weights:
        arrays = dict(weights)
    arrays['head/bias'] = np.full(1000, np.nan, np.float32)
    np.savez(path, **arrays)
    assert script.main([str(path), '--short']) == 1
    out = capsys.readouterr().out
    assert 'PROBLEM  head/bias holds values that are not finite' in out
    assert 'No published file is known by this name' in out


def test_a_repository(script, capsys):
    assert script.main([str(GOLDEN / 'hf_vit'), '--short']) == 0
    assert 'exact GELU' in capsys.readouterr().out


def test_bad_input(script, tmp_path, capsys):
    assert script.main([str(tmp_path / 'nothing.npz')]) == 2
    assert 'There is no' in capsys.readouterr().err
