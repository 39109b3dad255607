"""Configurations that tests of the config room start from."""

from vit_jax import config as config_lib
from vit_jax import models


def make(**settings):
    """Returns the configuration of a tiny model on the digits."""
    config = config_lib.default()
    config.dataset = 'digits'
    config.model = models.get_config('testing')
    config.pp.crop = 32
    config.update_from_flattened_dict(settings)
    return config
