"""Softmax classification as a task, against PyTorch-free arithmetic."""

import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import tasks

LOGITS = jnp.array([[2.0, 0.0, -1.0], [0.0, 0.5, 3.0]])
LABELS = jnp.array([0, 1])


def test_losses_and_metrics_are_those_of_each_example():
    task = tasks.task_of('classes')
    shifted = np.exp(np.array(LOGITS, np.float64))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    expected = -np.log(probabilities[[0, 1], np.array(LABELS)])
    np.testing.assert_allclose(task.loss(LOGITS, LABELS), expected, rtol=1e-6)
    metrics = task.metrics(LOGITS, LABELS)
    np.testing.assert_array_equal(metrics['accuracy'], [1, 0])
    np.testing.assert_allclose(metrics['loss'], expected, rtol=1e-6)
    np.testing.assert_allclose(task.answer(LOGITS), probabilities, rtol=1e-6)
    assert task.targets({'label': LABELS, 'image': None}) is LABELS


def test_accuracy_counts_before_loss():
    score = tasks.CLASSES.score
    assert score({'accuracy': 0.9, 'loss': 2.0}) > score({'accuracy': 0.8, 'loss': 0.1})
    assert score({'accuracy': 0.9, 'loss': 1.0}) > score({'accuracy': 0.9, 'loss': 2.0})


def test_a_task_that_there_is_not():
    with pytest.raises(ValueError, match=r'config.task is .clases.*mean classes\?'):
        tasks.task_of('clases')
    with pytest.raises(ValueError, match=r'it must be a vit_jax\.tasks\.Task'):
        tasks.task_of('json:dumps')
