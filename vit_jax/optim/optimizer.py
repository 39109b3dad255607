"""The optimizer of a run: its learning-rate schedule, and what it leaves alone."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree
from ml_collections import ConfigDict

from vit_jax.optim.groups import _by_name, _like, is_kernel, multipliers
from vit_jax.optim.schedules import create_learning_rate_schedule
from vit_jax.words.lookup import lookup

MOMENTUM = 0.9


def sgd(
    learning_rate: optax.Schedule, config: ConfigDict
) -> optax.GradientTransformation:
    """Returns SGD with momentum 0.9 (not Nesterov), kept in `config.optim_dtype`.

    Weight decay adds to the gradient.
    """
    optimizer = optax.sgd(
        learning_rate,
        momentum=MOMENTUM,
        accumulator_dtype=jnp.dtype(config.optim_dtype),
    )
    if not config.weight_decay:
        return optimizer
    decay = optax.add_decayed_weights(config.weight_decay, is_kernel)
    return optax.chain(decay, optimizer)


def adamw(
    learning_rate: optax.Schedule, config: ConfigDict
) -> optax.GradientTransformation:
    """Returns AdamW, whose decay is decoupled (Loshchilov & Hutter, 2019).

    Its first moment is kept in `config.optim_dtype`.
    """
    return optax.adamw(
        learning_rate,
        weight_decay=config.weight_decay,
        mask=is_kernel,
        mu_dtype=jnp.dtype(config.optim_dtype),
    )


# (learning rate, configuration) -> what makes updates of clipped gradients.
OPTIMIZERS = {
    'sgd': sgd,
    'adamw': adamw,
}


def optimizer_of(name: str) -> Callable[..., optax.GradientTransformation]:
    """Returns the optimizer of that name, or the user's own `package.module:Name`.

    Raises:
        ValueError: there is none; it suggests the nearest.
    """
    return lookup(OPTIMIZERS, name, 'config.optimizer')


def create_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Returns the optimizer: clip by global norm, then one of OPTIMIZERS.

    What `config.frozen` finds has no state, is not decayed, and does not count in the
    norm. `config.layer_decay` multiplies the learning rate, and so decoupled decay.

    Raises:
        ValueError: there is no optimizer of that name.
    """
    learning_rate = create_learning_rate_schedule(
        config.total_steps, config.base_lr, config.decay_type, config.warmup_steps
    )
    make = optimizer_of(config.optimizer)
    steps = [
        optax.clip_by_global_norm(config.grad_norm_clip),
        make(learning_rate, config),
    ]
    optimizer = optax.chain(*steps)
    if not config.frozen and config.layer_decay == 1:
        return optimizer  # its state is that of the runs that knew of neither

    def labels(params: dict) -> dict[str, str]:
        factors = multipliers(config, params)
        return {name: 'trained' if x else 'frozen' for name, x in factors.items()}

    def scale(updates: dict, params: dict | None) -> dict:
        del params
        factors = multipliers(config, updates)
        return jax.tree_util.tree_map_with_path(
            lambda path, update: update * factors[path[-1].key], updates
        )

    return _on_names(
        optax.multi_transform(
            {
                'trained': optax.chain(optimizer, optax.stateless(scale)),
                'frozen': optax.set_to_zero(),
            },
            labels,
        )
    )


def _on_names(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Returns an optimizer for any tree of parameters from one for dicts by name.

    Names are the published ones, one for each block: single layers of a stack can
    be frozen, and the state is the same whether or not a run stacks its blocks.
    """

    def init(params: PyTree) -> optax.OptState:
        return optimizer.init(_by_name(params))

    def update(
        updates: PyTree, state: optax.OptState, params: PyTree | None = None
    ) -> tuple[PyTree, optax.OptState]:
        found, state = optimizer.update(_by_name(updates), state, _by_name(params))
        return _like(updates, found), state

    return optax.GradientTransformation(init, update)
