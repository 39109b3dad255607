"""Which options programs are compiled with, and that they are."""

import jax
import pytest
from conftest import tiny_config

from vit_jax import models, optim, train
from vit_jax.runtime import compiler, sharding
from vit_jax.training import step as train_step
from vit_jax.training.state import Initializer

NAME = 'xla_cpu_experimental_ynn_fusion_type'


@pytest.fixture(autouse=True)
def versions(monkeypatch):
    """Forgets what this version knows, before and after."""
    jax.devices()  # the flags of the tests have been read
    monkeypatch.delenv('XLA_FLAGS', raising=False)
    compiler._known.cache_clear()
    yield
    compiler._known.cache_clear()


def test_what_the_user_has_set_stays(monkeypatch):
    known = compiler.options()
    assert set(known) <= {NAME}
    monkeypatch.setenv('XLA_FLAGS', '--xla_dump_to=x')
    assert compiler.options() == known
    monkeypatch.setenv('XLA_FLAGS', f'--xla_dump_to=x --{NAME}=')
    assert compiler.options() == {}


def test_what_this_version_does_not_know_is_left_out(monkeypatch):
    kept = {'xla_cpu_enable_fast_math': False}
    monkeypatch.setattr(compiler, '_ON_CPU', {'xla_cpu_no_such_option': '', **kept})
    assert compiler.options() == kept


def test_other_backends_are_left_alone(monkeypatch):
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    assert compiler.options() == {}


def test_the_step_is_compiled_with_them(monkeypatch):
    """A wrong name is refused, so that options are known to arrive."""
    config = tiny_config('none', batch=8)
    optimizer = optim.create_optimizer(config)
    mesh = sharding.make_mesh(1, jax.devices()[:1])
    state = Initializer(config, 2, optimizer, mesh).shapes()
    model = models.from_config(config.model, num_classes=2)
    rows = sharding.batch_sharding(mesh)

    def leaf(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=rows)

    batch = {'image': leaf((8, 16, 16, 3), 'uint8')}
    batch |= {name: leaf((8,), 'int32') for name in ('label', 'skipped')}

    def compile_step():
        step = train_step.compile_step(config, model, optimizer, state)
        step.lower(state, batch).compile()

    compile_step()
    monkeypatch.setattr(compiler, 'options', lambda: {'xla_no_such_option': ''})
    with pytest.raises(jax.errors.JaxRuntimeError, match='xla_no_such_option'):
        compile_step()


def test_a_run_says_so_once(photos, tmp_path, caplog):
    caplog.set_level('INFO')
    train.train_and_evaluate(tiny_config(photos, total_steps=1), tmp_path / 'run')
    said = f"The step is compiled with {NAME}=''; XLA_FLAGS wins."
    assert caplog.text.count(said) == len(compiler.options())
