"""State s of a run, and how state 0 is made where the mesh wants it."""

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray, PyTree
from ml_collections import ConfigDict

from vit_jax import checkpoint, models
from vit_jax import config as config_lib
from vit_jax.runtime import sharding
from vit_jax.training import loss_scale

# Streams of randomness that follow from config.seed; the data has the seed itself.
INIT_STREAM, DROPOUT_STREAM = 0, 1


def stream(seed: int, name: int) -> PRNGKeyArray:
    """Returns the key of one stream of randomness."""
    return jax.random.fold_in(jax.random.key(seed), name)


@struct.dataclass
class TrainState:
    """State s of a run: all that step s needs, besides batch s.

    A field holds arrays, or in their places their shapes or shardings.

    Attributes:
        step: s, the number of optimizer steps applied, an int32 scalar.
        params: the parameters.
        opt_state: the optimizer's state.
        skipped: how many corrupt images were replaced in the batches so far.
        first_nonfinite: the first step whose loss or gradient was not finite, or -1;
            in float16, the first at the lowest scale of the loss.
        model_state: state of the model, such as statistics of its batches, collections
            by name; {} for Vision Transformers.
        loss_scale: of float16 training, see loss_scale.py; None without.
    """

    step: PyTree
    params: PyTree
    opt_state: PyTree
    skipped: PyTree
    first_nonfinite: PyTree
    model_state: PyTree = struct.field(default_factory=dict)
    loss_scale: PyTree = None

    @classmethod
    def create(
        cls,
        weights: PyTree,
        optimizer: optax.GradientTransformation,
        dtype: str = 'float32',
    ) -> 'TrainState':
        """Returns state 0.

        Args:
            weights: its parameters, and its model's state; see models/arrays.py.
            optimizer: from `optim.create_optimizer`.
            dtype: of the computation.
        """
        variables = models.variables(weights)
        params = variables.pop('params')
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.init(params),
            model_state=variables,
            skipped=jnp.zeros((), jnp.int32),
            first_nonfinite=jnp.full((), -1, jnp.int32),
            loss_scale=loss_scale.first(dtype),
        )

    @property
    def weights(self) -> PyTree:
        """Parameters and model state as one tree: see models/arrays.py."""
        return models.weights({'params': self.params, **self.model_state})

    def to_saved(self) -> dict[str, PyTree]:
        """Returns what a checkpoint holds: the fields that are in use."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: x for name, x in fields.items() if jax.tree.leaves(x)}

    @classmethod
    def from_saved(cls, saved: dict[str, PyTree]) -> 'TrainState':
        """Returns the state of which `to_saved` gave this."""
        return cls(**saved)


class Initializer:
    """Makes state 0 of a run, each array where the mesh wants it.

    The network is always initialised unrolled, so that the same seed gives the same
    parameters whether or not a run stacks its blocks.

    Args:
        config: a resolved configuration.
        num_classes: of the dataset.
        optimizer: from `optim.create_optimizer`.
        mesh: from `sharding.make_mesh`.
    """

    def __init__(
        self,
        config: ConfigDict,
        num_classes: int,
        optimizer: optax.GradientTransformation,
        mesh: Mesh,
    ):
        self._config = config
        self._optimizer = optimizer
        self._mesh = mesh
        self._model = models.from_config(config.model, num_classes=num_classes)

    def _init_weights(self) -> PyTree:
        channels = self._config.pp.channels
        images = jnp.zeros((1, *config_lib.image_size(self._config), channels))
        rng = stream(self._config.seed, INIT_STREAM)
        weights = models.weights(self._model.init(rng, images, train=False))
        return models.stack(weights) if self._config.scan_layers else weights

    def _create(self, weights: PyTree) -> TrainState:
        return TrainState.create(weights, self._optimizer, self._config.dtype)

    def shapes(self) -> TrainState:
        """Returns the state as `jax.ShapeDtypeStruct`s with their shardings."""
        state = jax.eval_shape(lambda: self._create(self._init_weights()))
        return jax.tree.map(
            lambda leaf, where: leaf.update(sharding=where),
            state,
            sharding.state_sharding(self._mesh, state),
        )

    def state(self, class_names: tuple[str, ...]) -> TrainState:
        """Returns state 0, from the pretrained file where there is one.

        No parameter is held twice: those that the file has are read into their place
        one at a time, and only the others are initialised.

        Args:
            class_names: of the dataset, to match those of a head that is kept.

        Raises:
            ValueError: the file does not fit the model.
        """
        shapes = self.shapes()
        weights = shapes.weights
        if self._config.pretrained is not None:
            weights = checkpoint.load_pretrained(
                pretrained_path=self._config.pretrained,
                init_params=weights,
                model_config=self._config.model,
                image_size=config_lib.image_size(self._config),
                keep_head=self._config.keep_head,
                class_names=class_names,
                new_parameters=self._config.new_parameters,
            )
        variables = models.variables(self._initialize_missing(weights))
        in_place = {'params': variables.pop('params'), 'model_state': variables}
        # Everything else is computed from the parameters, in its place.
        empty = dict.fromkeys(in_place)
        where = jax.tree.map(lambda leaf: leaf.sharding, shapes.replace(**empty))
        rest = jax.jit(
            lambda params: self._create(params).replace(**empty), out_shardings=where
        )
        return rest(in_place['params']).replace(**in_place)

    def _initialize_missing(self, weights: PyTree) -> PyTree:
        """Initialises the arrays that are shapes so far, and only those."""
        leaves, structure = jax.tree.flatten(weights)
        new = [i for i, x in enumerate(leaves) if isinstance(x, jax.ShapeDtypeStruct)]

        def init() -> list[jax.Array]:
            made = jax.tree.leaves(self._init_weights())
            return [made[i] for i in new]  # the compiler drops the others

        # It runs once: optimising it takes several times as long as it can save.
        init = jax.jit(
            init,
            out_shardings=[leaves[i].sharding for i in new],
            compiler_options={'xla_backend_optimization_level': 0},
        )
        for i, value in zip(new, init(), strict=True):
            leaves[i] = value
        return structure.unflatten(leaves)
