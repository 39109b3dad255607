"""A model that can be asked: from images to probabilities and features.

Everything that happens after training goes through `Predictor.outputs`: prediction,
evaluation, features, few-shot. The images enter as in evaluation, because the same
function prepares them.
"""

import collections
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, SupportsIndex

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float, Shaped

from vit_jax import checkpoint, data, models
from vit_jax.checkpoint import ModelCard
from vit_jax.data.datasets.photos import Photos
from vit_jax.models.layers import INTERMEDIATES
from vit_jax.runtime import sharding
from vit_jax.tasks import task_of
from vit_jax.words.suggest import check_one_of

# Batches on the devices at once: one that computes and one that arrives.
_IN_FLIGHT = 2
# The name of what the head sees.
PRE_LOGITS = 'pre_logits/features'


class Predictor:
    """A model with its parameters on all devices, and the card that says how to use it.

    Attributes:
        model: the module.
        params: its parameters, on every device.
        card: image size, normalization, class names.
        mesh: whose devices share each batch.
    """

    def __init__(self, model: nn.Module, params: Any, card: ModelCard, mesh=None):
        self.model, self.card = model, card
        self.task = task_of(card.task)
        self.mesh = sharding.make_mesh() if mesh is None else mesh
        self.place(params)
        # A compiled function for each choice of outputs; jit's own cache does not find
        # a lambda again.
        self._compiled: dict[tuple[str, ...], Any] = {}

    def place(self, params: Any) -> None:
        """Takes other parameters of the same model; those on all devices stay there."""
        devices = set(self.mesh.devices.flat)
        there = all(
            isinstance(x, jax.Array) and x.sharding.device_set == devices
            for x in jax.tree.leaves(params)
        )
        if not there:
            params = jax.device_put(params, sharding.replicated(self.mesh))
        self.params = params

    @classmethod
    def load(
        cls,
        reference: str | os.PathLike,
        *,
        best: bool | None = None,
        num_heads: int | None = None,
        dtype: str = '',
        image_size: tuple[int, int] | None = None,
    ) -> 'Predictor':
        """Returns the predictor of anything that `vit_jax.load` takes.

        Args:
            reference: a run directory, a file of weights, a URL.
            best: as in `vit_jax.load`.
            num_heads: as in `vit_jax.load`.
            dtype: of the computation; default: as in training.
            image_size: (height, width) of the images; default: the card's.
        """
        model, params, card = checkpoint.load_model(
            reference, best=best, num_heads=num_heads, image_size=image_size
        )
        model = models.from_config(
            card.model,
            num_classes=model.num_classes,
            dtype=dtype or card.source.get('dtype', 'float32'),
        )
        return cls(model, params, card)

    @property
    def preprocess(self) -> 'data.Preprocess':
        """From an image to what the model takes."""
        return data.Preprocess.from_card(
            self.card, checkpoint.num_channels(self.params)
        )

    def predict(self, image: Any, top_k: int = 5) -> list[tuple[str, float]]:
        """Returns the likeliest classes of one image, with their probabilities.

        Many images at once are faster, and what `outputs` is for.

        Args:
            image: a file, as `Photos` takes it; or its bytes, a PIL image, or pixels
                (h w c) or (h w) of 0…255, as uint8.
            top_k: how many classes, at most.

        Returns:
            (class name, probability), the likeliest first. Classes without names are
            called by their numbers.

        Raises:
            ValueError: it is no image, or several; the model has no head.
        """
        source = Photos(image) if isinstance(image, str | os.PathLike) else _One(image)
        if len(source) != 1:
            raise ValueError(
                f'{image}: found {len(source)} images, expected one; `outputs` takes '
                'many, as does python -m vit_jax.predict'
            )
        (found,) = self.outputs(source)
        return top(found['probabilities'][0], self.card.class_names, top_k)

    def feature_names(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape, for one image, of every feature that can be asked for.

        Names are the modules' paths and what they sow, as described in models/vit.py:
        'pre_logits/features', 'Transformer/encoderblock_0/tokens', …; and 'logits' and
        'probabilities', if the model has a head.
        """
        shape = (1, *self.preprocess.size, self.preprocess.channels)
        image = jax.ShapeDtypeStruct(shape, jnp.float32)
        outputs = jax.eval_shape(self.all_outputs, self.params, image)
        return {name: x.shape[1:] for name, x in outputs.items()}

    def outputs(
        self,
        source: data.Source,
        names: Sequence[str] = ('probabilities',),
        *,
        batch: int = 64,
        num_workers: int = 0,
        skip_corrupt: bool = False,
        on_skip: Callable[[ValueError], None] | None = None,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yields outputs of the examples of a source, in order, some at a time.

        Args:
            source: the examples.
            names: of `feature_names`.
            batch: how many images the devices compute at once.
            num_workers: worker processes for the images; 0: threads.
            skip_corrupt: leave out images that do not decode, instead of raising.
            on_skip: called for each of them, with an `UndecodableImage`.

        Yields:
            A dict of host arrays, one row for each example: index (n,) its place in
            the source, label (n,), and each name that was asked for.

        Raises:
            ValueError: there is no output of that name; it suggests the nearest.
        """
        known = self.feature_names()
        for name in names:
            if name in ('logits', 'probabilities') and name not in known:
                raise ValueError(
                    'the model has no head (num_classes is 0), so it gives features '
                    'but no classes'
                )
            check_one_of('output', name, known)
        batches = data.eval_batches(
            source,
            self.preprocess,
            batch=-(-min(batch, len(source)) // self.mesh.size) * self.mesh.size,
            reading=data.Reading(num_workers=num_workers, skip_corrupt=skip_corrupt),
            on_skip=on_skip,
        )
        compute = self._compile(tuple(names))
        rows = sharding.batch_sharding(self.mesh)
        waiting = collections.deque()

        def collect() -> dict[str, np.ndarray]:
            host, results = waiting.popleft()
            real = host['mask'] > 0
            found = {'index': host['index'][real], 'label': host['label'][real]}
            return found | {k: np.asarray(x)[real] for k, x in results.items()}

        for host in batches:
            images = sharding.to_devices({'image': host['image']}, rows)['image']
            waiting.append((host, compute(self.params, images)))
            if len(waiting) > _IN_FLIGHT:
                yield collect()
        while waiting:
            yield collect()

    def _compile(self, names: tuple[str, ...]) -> Any:
        if names not in self._compiled:

            def compute(params: Any, images: Float[Array, 'b h w c']) -> Mapping:
                outputs = self.all_outputs(params, images)
                return {name: outputs[name] for name in names}

            self._compiled[names] = jax.jit(compute)
        return self._compiled[names]

    def all_outputs(self, params: Any, images: Float[Array, 'b h w c']) -> Mapping:
        """Returns every output by name, to be compiled with what is done to them.

        The compiler drops what nobody asks for.

        Args:
            params: of the model.
            images: as the model takes them.
        """
        result, state = self.model.apply(
            models.variables(params), images, train=False, mutable=[INTERMEDIATES]
        )
        # `sow` makes a tuple of one.
        sown = traverse_util.flatten_dict(state.get(INTERMEDIATES, {}), sep='/')
        outputs = {name: x for name, (x,) in sown.items()}
        if self.model.num_classes:
            outputs['logits'] = result
            outputs['probabilities'] = self.task.answer(result)
        return outputs


class _One:
    """A source of one image without a label."""

    class_names: tuple[str, ...] = ()

    def __init__(self, image: Any):
        self._image = image

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: SupportsIndex) -> data.Example:
        return {'image': self._image, 'label': -1, 'name': 'the image'}

    def fingerprint(self) -> str:
        return data.sources.sha256(np.asarray(self._image).tobytes().hex())


def top(
    probabilities: Shaped[np.ndarray, ' y'],
    class_names: Sequence[str] | None,
    count: int,
) -> list[tuple[str, float]]:
    """Returns (class, probability) of the likeliest classes, the likeliest first.

    Args:
        probabilities: of one image.
        class_names: one for each; None: their numbers.
        count: how many, at most.
    """
    order = np.argsort(-probabilities, kind='stable')[:count].tolist()
    return [
        (class_names[i] if class_names else str(i), float(probabilities[i]))
        for i in order
    ]
