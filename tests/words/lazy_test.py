"""Names of a package that are imported when they are asked for."""

import subprocess
import sys

import pytest

from vit_jax import config, data, models


def test_public_names_are_those_that_are_there():
    for package in (config, data, models):
        assert package.__all__ == sorted(package.__all__)
        for name in package.__all__:
            assert getattr(package, name) is not None
        assert {*package.__all__} <= {*dir(package)}
    assert data.ops.__name__ == 'vit_jax.data.images.ops'


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"'vit_jax\.models' has no .* 'Vit'"):
        models.Vit  # noqa: B018


def test_nothing_is_imported_before_it_is_asked_for():
    code = (
        'import sys; from vit_jax import config, data, models;'
        "assert not {'jax', 'flax', 'grain'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, '-c', code], check=True)
