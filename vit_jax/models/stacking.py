"""The two layouts of a transformer's parameters.

Published, and in every file and public function: one subtree per block,
`Transformer/encoderblock_0/…`, `encoderblock_1/…` (in Mixers `MixerBlock_0/…`). With
`scan_layers`, inside a training run: one subtree `Transformer/encoderblock/…` whose
leaves have a leading axis l for the layers. Only the two functions here know both; what
blocks are called is said by the families (`Family.stems`).

They are pure and take any tree: parameters, gradients, optimizer states that mirror
them, intermediates; of arrays (also traced ones), numbers or `jax.ShapeDtypeStruct`s.
A tree that is already in the wanted layout is returned as it is.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vit_jax.models.families import known_families


def _stems() -> list[str]:
    return [stem for family in known_families() for stem in family.stems]


def stack(tree: Any) -> Any:
    """Returns the tree with the blocks of every transformer in it stacked.

    Raises:
        ValueError: if blocks are missing or differ in structure or shapes.
    """
    return _map_dicts(_stack_blocks, tree)


def unstack(tree: Any) -> Any:
    """Returns the tree with published names: the inverse of `stack`.

    A stack without leaves, as an optimizer that leaves the blocks alone has it, has as
    many layers as the other stacks in the tree.

    Raises:
        ValueError: if the leaves of a stack disagree about the number of layers.
    """
    lengths = set()

    def count(node: dict) -> dict:
        for stem in _stems():
            lengths.update(np.shape(x)[0] for x in jax.tree.leaves(node.get(stem))[:1])
        return node

    _map_dicts(count, tree)
    layers = lengths.pop() if len(lengths) == 1 else None
    return _map_dicts(functools.partial(_unstack_blocks, layers=layers), tree)


def _map_dicts(convert: Callable[[Mapping], Mapping], tree: Any) -> Any:
    """Applies `convert` to all dicts in the tree, whatever contains them."""

    def visit(node: Any) -> Any:
        if not isinstance(node, Mapping):
            return node
        visited = {key: _map_dicts(convert, value) for key, value in node.items()}
        converted = convert(visited)
        return converted if type(node) is dict else type(node)(converted)

    return jax.tree.map(visit, tree, is_leaf=lambda node: isinstance(node, Mapping))


def _stack_blocks(node: dict) -> dict:
    block = re.compile(rf'({"|".join(map(re.escape, _stems()))})_(\d+)')
    matches = [m for key in node if (m := block.fullmatch(str(key)))]
    if not matches:
        return node
    stem = matches[0][1]
    found = {m[0]: int(m[2]) for m in matches if m[1] == stem}
    names = sorted(found, key=found.get)
    if sorted(found.values()) != list(range(len(found))):
        raise ValueError(
            f'Cannot stack the blocks {", ".join(names)}: expected {stem}_0 to '
            f'{stem}_{len(found) - 1} without a gap.'
        )
    blocks = [node[name] for name in names]
    first = jax.tree.structure(blocks[0])
    for name, block in zip(names, blocks, strict=True):
        if jax.tree.structure(block) != first:
            raise ValueError(
                f'Cannot stack the blocks: {name} has other parameters than {names[0]}.'
            )
    rest = {key: value for key, value in node.items() if key not in found}
    return rest | {stem: jax.tree.map(lambda *x: _stack_leaves(x), *blocks)}


def _unstack_blocks(node: dict, layers: int | None) -> dict:
    stacked = [stem for stem in _stems() if stem in node]
    if not stacked:
        return node
    (stem,) = stacked
    leaves, treedef = jax.tree.flatten(node[stem])
    lengths = {np.shape(leaf)[:1] for leaf in leaves} or {(layers,)}
    if len(lengths) != 1 or lengths == {()}:
        raise ValueError(
            f'Cannot unstack {stem}: its leaves have {sorted(lengths)} layers, '
            'expected one number for all of them.'
        )
    (length,) = lengths.pop()
    if length is None:
        return node
    rest = {key: value for key, value in node.items() if key != stem}
    return rest | {
        f'{stem}_{i}': treedef.unflatten([_layer(leaf, i) for leaf in leaves])
        for i in range(length)
    }


def _stack_leaves(leaves: Sequence[Any]) -> Any:
    shapes = sorted({np.shape(leaf) for leaf in leaves})
    if len(shapes) > 1:
        raise ValueError(f'Cannot stack the blocks: a parameter has shapes {shapes}.')
    first = leaves[0]
    if isinstance(first, jax.ShapeDtypeStruct):
        return _struct(first, (len(leaves), *first.shape), lambda spec: (None, *spec))
    if any(isinstance(leaf, jax.Array) for leaf in leaves):
        return jnp.stack(leaves)
    return np.stack(leaves)


def _layer(leaf: Any, i: int) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return _struct(leaf, leaf.shape[1:], lambda spec: spec[1:])
    return leaf[i]


def _struct(
    like: jax.ShapeDtypeStruct, shape: tuple[int, ...], respec: Callable
) -> jax.ShapeDtypeStruct:
    """Returns a struct of that shape, sharded along the layer's own axes as `like`."""
    sharding = like.sharding
    if isinstance(sharding, NamedSharding):
        spec = PartitionSpec(*respec(tuple(sharding.spec)))
        sharding = NamedSharding(sharding.mesh, spec)
    return jax.ShapeDtypeStruct(shape, like.dtype, sharding=sharding)
