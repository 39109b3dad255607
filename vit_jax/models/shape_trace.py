"""The shape trace of a forward pass: what happens to an image, layer by layer.

Nothing is computed and no parameter is made: JAX traces the model, and the trace says
which layer gives what shape, and how many operations that takes. So it holds for every
network, whatever is inside.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from vit_jax.models import families
from vit_jax.models.arrays import variables, weight_shapes
from vit_jax.models.family import Family

# Operations that count once for every number they give, as in XLA. (Moving, converting
# and comparing numbers is not counted.)
# fmt: off
_ELEMENTWISE = frozenset({
    'abs', 'add', 'add_any', 'cos', 'div', 'erf', 'erfc', 'exp', 'exp2', 'expm1',
    'integer_pow', 'log', 'log1p', 'logistic', 'max', 'min', 'mul', 'neg', 'pow',
    'rsqrt', 'sign', 'sin', 'sqrt', 'square', 'sub', 'tanh',
})
# fmt: on
_REDUCTIONS = frozenset({'reduce_max', 'reduce_min', 'reduce_prod', 'reduce_sum'})
_PRODUCTS = frozenset({'conv_general_dilated', 'dot_general'})
# Marks a module's scope in the names that JAX keeps with each operation.
_MARK = '@'
# Where a layer is but the way to its parts: the operations in between.
_BETWEEN = (
    ({'tanh'}, 'GELU'),
    ({'erf'}, 'GELU'),
    ({'erfc'}, 'GELU'),
    ({'reduce_window_max'}, 'ReLU, max pooling'),
    ({'reduce_sum'}, 'mean of the tokens'),
    ({'add', 'max'}, 'shortcut added, ReLU'),
    ({'add'}, 'shortcut added'),
    ({'max'}, 'ReLU'),
    ({'squeeze'}, 'class token'),
)


@dataclasses.dataclass(frozen=True)
class Layer:
    """A row: what one layer does, for one image.

    Attributes:
        name: in the parameter tree; empty for the model itself.
        what: the same in words; may be empty.
        output: shape of the result, without the batch.
        parameters: how many it has of its own.
        flops: floating-point operations; a multiplication and an addition are two.
        parameter_bytes: of the parameters, float32.
        output_bytes: of the result, in the dtype of the computation.
        repeats: so many blocks one after another have a layer like this.
    """

    name: str
    what: str
    output: tuple[int, ...]
    parameters: int
    flops: int
    parameter_bytes: int
    output_bytes: int
    repeats: int = 1


@dataclasses.dataclass(frozen=True)
class Summary:
    """The shape trace of a model.

    Attributes:
        model: its name.
        image: (h w c) of the input.
        dtype: of the computation.
        layers: every layer, in the order of the computation.
    """

    model: str
    image: tuple[int, int, int]
    dtype: str
    layers: tuple[Layer, ...]

    @property
    def parameters(self) -> int:
        """Number of parameters of the model."""
        return sum(layer.parameters * layer.repeats for layer in self.layers)

    @property
    def flops(self) -> int:
        """Floating-point operations for one image."""
        return sum(layer.flops * layer.repeats for layer in self.layers)

    def folded(self) -> 'Summary':
        """Returns the summary with equal blocks in a row told once.

        Their layers carry the number of blocks in `repeats`, and the range of them in
        their names: encoderblock_0…11.
        """
        return dataclasses.replace(self, layers=tuple(_fold(self.layers)))


def summarize(model: Any, image_size: tuple[int, int], channels: int = 3) -> Summary:
    """Returns the shape trace of a model for one image.

    Args:
        model: a module of `models`.
        image_size: (height, width) in pixels.
        channels: of the image.

    Raises:
        ValueError: the model does not take images of that size.
    """
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    from flax import traverse_util

    image = jax.ShapeDtypeStruct((1, *image_size, channels), jnp.float32)

    def marked(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        # The scope's path and not the module's name: hybrids share scopes.
        with jax.named_scope(_MARK + '.'.join(context.module.path)):
            return call(*args, **kwargs)

    flat = traverse_util.flatten_dict(
        weight_shapes(model, image_size, channels), sep='/'
    )

    def forward(flat: Any, x: Any) -> Any:
        weights = traverse_util.unflatten_dict(flat, sep='/')
        return model.apply(variables(weights), x, train=False)

    with nn.intercept_methods(marked):
        trace = jax.make_jaxpr(forward)(flat, image).jaxpr
    # The arguments of the trace, in the order of a dict in JAX.
    names = dict(zip(trace.invars, sorted(flat), strict=False))
    family = families.family_of(model)
    layers = [
        _layer(family, stay, {names[v]: v.aval for v in stay.used if v in names})
        for stay in _stays(trace)
    ]
    return Summary(
        model=getattr(model, 'model_name', None) or type(model).__name__,
        image=(*image_size, channels),
        dtype=jnp.dtype(getattr(model, 'dtype', None) or 'float32').name,
        layers=tuple(row for row in layers if row.flops or row.parameters or row.what),
    )


@dataclasses.dataclass
class _Stay:
    """Operations one after another in the same layer, at most one matrix product."""

    layer: str
    part: int = 0  # there were so many products in this layer just before
    output: Any = None
    flops: int = 0
    kinds: set[str] = dataclasses.field(default_factory=set)
    used: dict[Any, None] = dataclasses.field(default_factory=dict)


def _stays(jaxpr: Any) -> Iterator[_Stay]:
    """Yields the stays in layers, in order; a parameter is used once."""
    stay, seen = None, set()
    for layer, equation, times in _equations(jaxpr, '', 1):
        kind = equation.primitive.name
        product = kind in _PRODUCTS
        if stay is None or layer != stay.layer:
            if stay is not None:
                yield stay
            stay = _Stay(layer)
        elif product and stay.kinds & _PRODUCTS:
            yield stay
            stay = _Stay(layer, part=stay.part + 1)
        stay.output = equation.outvars[0].aval
        stay.flops += times * operations(equation)
        stay.kinds.add(kind)
        variables = [v for v in equation.invars if not hasattr(v, 'val')]
        stay.used |= dict.fromkeys(v for v in variables if v not in seen)
        seen.update(variables)
    if stay is not None:
        yield stay


def _equations(jaxpr: Any, layer: str, times: int) -> Iterator[tuple[str, Any, int]]:
    """Yields (layer, equation, how often it runs), inner ones before their call."""
    for equation in jaxpr.eqns:
        names = str(equation.source_info.name_stack).split('/')
        marks = [name for name in names if name.startswith(_MARK)]
        here = marks[-1][len(_MARK) :].replace('.', '/') if marks else layer
        inner = [
            getattr(value, 'jaxpr', value)
            for value in equation.params.values()
            if hasattr(value, 'eqns') or hasattr(value, 'jaxpr')
        ]
        if inner:  # of a function and its derivative, the first is what is computed
            repeats = equation.params.get('length', 1)  # of a loop over layers
            yield from _equations(inner[0], here, times * repeats)
        yield here, equation, times


def operations(equation: Any) -> int:
    """Returns the floating-point operations of one equation of a jaxpr.

    As XLA counts them, but for exponentials and their like, which it counts apart.
    """
    kind = equation.primitive.name
    inputs = [v.aval.shape for v in equation.invars]
    result = equation.outvars[0].aval.shape
    if kind == 'dot_general':
        (contracted, _), _ = equation.params['dimension_numbers']
        return 2 * math.prod(result) * math.prod(inputs[0][i] for i in contracted)
    if kind == 'conv_general_dilated':
        return _convolution(equation.params, *inputs, result)
    if kind in _ELEMENTWISE:
        return math.prod(result)
    if kind in _REDUCTIONS:
        return math.prod(inputs[0]) - math.prod(result)
    if kind.startswith('reduce_window'):
        return math.prod(result) * (math.prod(equation.params['window_dimensions']) - 1)
    return 0


def _convolution(
    params: Any, image: Sequence[int], kernel: Sequence[int], result: Sequence[int]
) -> int:
    """Returns two for each product of a pixel and a weight; padding has no pixels."""
    numbers = params['dimension_numbers']
    products = 1
    for axis, (side, size, stride, (before, _), dilation) in enumerate(
        zip(
            [image[i] for i in numbers.lhs_spec[2:]],
            [kernel[i] for i in numbers.rhs_spec[2:]],
            params['window_strides'],
            params['padding'],
            params['rhs_dilation'],
            strict=True,
        )
    ):
        positions = result[numbers.out_spec[2 + axis]]
        products *= sum(
            0 <= position * stride + offset * dilation - before < side
            for position in range(positions)
            for offset in range(size)
        )
    channels = kernel[numbers.rhs_spec[1]]  # of one group
    images, features = (result[i] for i in numbers.out_spec[:2])
    # Before JAX 0.9 paddings were NumPy's numbers, and so would this one be.
    return int(2 * products * channels * images * features)


def _layer(family: Family, stay: _Stay, own: dict[str, Any]) -> Layer:
    name = stay.layer or ''.join(own)  # the class token is the model's own parameter
    if family.attention and name.endswith(family.attention):
        gathered = stay.part or stay.output.shape[-1] != stay.output.shape[-2]
        what = 'values gathered by each head' if gathered else 'attention of each head'
    elif ends := [end for end in family.words if f'/{name}'.endswith(f'/{end}')]:
        what = family.words[max(ends, key=len)]
    elif own:
        what = ''
    else:
        what = next((w for kinds, w in _BETWEEN if kinds <= stay.kinds), '')
    return Layer(
        name=name,
        what=what,
        output=tuple(stay.output.shape[1:]),
        parameters=sum(math.prod(array.shape) for array in own.values()),
        flops=stay.flops,
        parameter_bytes=sum(
            math.prod(array.shape) * array.dtype.itemsize for array in own.values()
        ),
        output_bytes=math.prod(stay.output.shape) * stay.output.dtype.itemsize,
    )


def _block() -> str:
    """Returns a regular expression: what is told once if it comes several times."""
    families_ = families.known_families()
    stems = [rf'(?:[^/]+/)*{re.escape(s)}_' for f in families_ for s in f.stems]
    units = [unit for family in families_ for unit in family.units]
    return rf'(?P<stem>{"|".join([*stems, *units])})(?P<number>\d+)'


def _fold(layers: Sequence[Layer]) -> list[Layer]:
    """Returns layers, a block that equals the one before counted instead of told."""
    told: list[tuple[re.Match | None, list[Layer], list[Layer]]] = []
    for block, rows in _blocks(layers):
        start = block.end() if block else 0
        plain = [dataclasses.replace(row, name=row.name[start:]) for row in rows]
        first, before, shown = told[-1] if told else (None, [], [])
        if block and first and before == plain and first['stem'] == block['stem']:
            name = f'{first[0]}…{block["number"]}'
            more = shown[0].repeats + 1
            rows = [
                dataclasses.replace(row, name=name + row.name, repeats=more)
                for row in plain
            ]
            block, _, _ = told.pop()
        told.append((block, plain, rows))
    return [row for _, _, rows in told for row in rows]


def _blocks(layers: Sequence[Layer]) -> Iterator[tuple[re.Match | None, list[Layer]]]:
    """Yields (name of the block or None, its layers), one after another."""
    pattern = re.compile(_block())
    matched = ((pattern.match(layer.name), layer) for layer in layers)
    for _, group in itertools.groupby(matched, lambda pair: pair[0] and pair[0][0]):
        blocks, rows = zip(*group, strict=True)
        yield blocks[0], list(rows)


def block_of(layer: Layer) -> str:
    """Returns the name of the block that a layer is in, folded or not, or ''."""
    match = re.match(rf'{_block()}(…\d+)?', layer.name)
    return match[0] if match else ''
