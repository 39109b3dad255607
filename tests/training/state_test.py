"""State of a network beside its parameters: trained along, saved, used in inference."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config
from ml_collections import ConfigDict

from vit_jax import checkpoint, evaluate, models, train
from vit_jax.models import Family
from vit_jax.training import loop

MOMENTUM = 0.9


class Counted(nn.Module):
    """A network whose inference depends on statistics of its batches."""

    num_classes: int
    dtype: str = 'float32'

    @nn.compact
    def __call__(self, images, train=False):
        x = images.mean(axis=(1, 2))
        x = nn.BatchNorm(use_running_average=not train, momentum=MOMENTUM, name='norm')(
            x
        )
        return nn.Dense(self.num_classes, name='head')(x)


COUNTED = Family('Counted', Counted)


@pytest.fixture
def config(photos):
    config = tiny_config(photos, batch=24, total_steps=3, warmup_steps=0)
    config.model = ConfigDict({'family': 'state_test:COUNTED'})
    config.progress_every = 1
    return config


def flat(tree):
    from flax import traverse_util

    return traverse_util.flatten_dict(dict(tree), sep='/')


def test_statistics_are_those_of_the_whole_batch(config, photos, tmp_path):
    """Of all devices: the batch holds every image, each cropped to its whole."""
    config.pp.min_area = 1.0
    params, _ = train.train_and_evaluate(config, tmp_path)
    mean = np.asarray(params['batch_stats']['norm']['mean'])
    plan_images = []
    from vit_jax.training.plan import checked, prepare

    plan = prepare(checked(config), '/nowhere')
    batches = plan.input()
    expected = np.zeros(3)
    for _ in range(3):
        images = next(batches)['image'].astype(np.float32) / 127.5 - 1
        plan_images.append(images)
        expected = MOMENTUM * expected + (1 - MOMENTUM) * images.mean(axis=(0, 1, 2))
    batches.close()
    np.testing.assert_allclose(mean, expected, rtol=1e-4)


def test_a_run_that_was_stopped_ends_with_the_same_bits(config, tmp_path, monkeypatch):
    whole, _ = train.train_and_evaluate(config, tmp_path / 'whole')

    class DiedError(Exception):
        pass

    steps = loop.training_steps

    def dying(*args):
        for step, *rest in steps(*args):
            yield step, *rest
            if step == 2:
                raise DiedError

    config.checkpoint_every = 1
    with monkeypatch.context() as patch:
        patch.setattr(loop, 'training_steps', dying)
        with pytest.raises(DiedError):
            train.train_and_evaluate(config, tmp_path / 'parts')
    parts, _ = train.train_and_evaluate(config, tmp_path / 'parts')
    for name, array in flat(whole).items():
        np.testing.assert_array_equal(flat(parts)[name], array, err_msg=name)


def test_what_is_saved_is_used(config, photos, tmp_path, capsys):
    params, summary = train.train_and_evaluate(config, tmp_path / 'run')
    model, loaded, _ = checkpoint.load_model(tmp_path / 'run')
    images = jnp.linspace(-1, 1, 2 * 16 * 16 * 3).reshape(2, 16, 16, 3)
    variables = models.variables(loaded)
    assert set(variables) == {'params', 'batch_stats'}
    np.testing.assert_array_equal(
        model.apply(variables, images), model.apply(models.variables(params), images)
    )
    command = [str(tmp_path / 'run'), '--dataset', str(photos), '--split', 'test[60%:]']
    assert evaluate.main(command) == 0
    assert f'accuracy {summary["test_accuracy"]:.4f}' in capsys.readouterr().out


def test_parts_of_a_batch_move_the_state_one_after_another(config, tmp_path):
    config.batch, config.accum_steps = 16, 2
    params, _ = train.train_and_evaluate(config, tmp_path)
    assert np.abs(params['batch_stats']['norm']['mean']).max() > 0
