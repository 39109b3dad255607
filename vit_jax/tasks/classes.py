"""One class for each image: softmax cross-entropy, and accuracy."""

import jax
import optax
from jaxtyping import Array, Float, Int

from vit_jax.tasks.task import Task


def cross_entropy(
    logits: Float[Array, 'b y'], labels: Int[Array, ' b']
) -> Float[Array, ' b']:
    """Returns the softmax cross-entropy of each example."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def metrics(
    logits: Float[Array, 'b y'], labels: Int[Array, ' b']
) -> dict[str, Float[Array, ' b']]:
    """Returns of each example whether its likeliest class is right, and the loss."""
    correct = logits.argmax(axis=-1) == labels
    return {
        'accuracy': correct.astype(logits.dtype),
        'loss': cross_entropy(logits, labels),
    }


CLASSES = Task(
    loss=cross_entropy,
    metrics=metrics,
    answer=jax.nn.softmax,
    rank=(('accuracy', 1), ('loss', -1)),
)
