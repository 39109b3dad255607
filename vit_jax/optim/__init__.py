"""Optimizers, learning rate schedules, and which parameters they train."""

from vit_jax.optim.groups import layers, multipliers, trainable
from vit_jax.optim.optimizer import create_optimizer, optimizer_of
from vit_jax.optim.schedules import Schedule, create_learning_rate_schedule

__all__ = [
    'Schedule',
    'create_learning_rate_schedule',
    'create_optimizer',
    'layers',
    'multipliers',
    'optimizer_of',
    'trainable',
]
