"""Which options programs are compiled with, and that they are."""

import jax
import jax.numpy as jnp
import pytest

from vit_jax import compiler, evaluate, models

NAME = 'xla_cpu_experimental_ynn_fusion_type'


@pytest.fixture(autouse=True)
def versions(monkeypatch):
    """Forgets what this version knows, before and after."""
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


def test_programs_are_compiled_with_them(monkeypatch):
    """A wrong value is refused, so that one that is not used would not be noticed."""
    model = models.get_model('testing', num_classes=2)
    params = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))['params']
    batch = {
        'image': jnp.zeros((2, 32, 32, 3)),
        'label': jnp.zeros(2, int),
        'mask': jnp.ones(2),
    }
    step = evaluate.make_eval_step(model)
    assert step(params, batch)['num_examples'] == 2
    monkeypatch.setattr(compiler, 'options', lambda: {'xla_no_such_option': ''})
    with pytest.raises(jax.errors.JaxRuntimeError, match='xla_no_such_option'):
        evaluate.make_eval_step(model)(params, batch)
