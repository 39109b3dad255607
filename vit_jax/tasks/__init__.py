"""What a network is trained for: loss, metrics, what is best, and the answer."""

from vit_jax.tasks.classes import CLASSES
from vit_jax.tasks.task import Task
from vit_jax.words.lookup import lookup

__all__ = ['CLASSES', 'TASKS', 'Task', 'task_of']

TASKS = {
    'classes': CLASSES,
}


def task_of(name: str) -> Task:
    """Returns the task of that name, or the user's own `package.module:Name`.

    Raises:
        ValueError: there is none; it suggests the nearest.
    """
    task = lookup(TASKS, name, 'config.task')
    if not isinstance(task, Task):
        raise ValueError(
            f'config.task is {name!r}, which is a {type(task).__name__}; it must be a '
            'vit_jax.tasks.Task.'
        )
    return task
