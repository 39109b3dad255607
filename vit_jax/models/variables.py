"""All arrays of a network as one tree: its parameters, and its state beside them.

Files, functions and users handle one tree, the parameters. A network may have state as
well, which training moves without a gradient: the statistics of its batches. It is in
that tree under its collection's name, which no module has. Flax wants collections
apart. The two functions here are the only ones that know both; of a network without
state, the tree is its parameters.
"""

from collections.abc import Mapping
from typing import Any

# Flax's collections of arrays that are neither parameters nor features.
STATE = ('batch_stats',)


def variables(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what `model.apply` takes: {'params': …}, and each collection of state."""
    state = {name: weights[name] for name in STATE if name in weights}
    params = {name: x for name, x in weights.items() if name not in STATE}
    return {'params': params, **state}


def weights(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what `model.init` gives as one tree: the inverse of `variables`."""
    state = {name: variables[name] for name in STATE if variables.get(name)}
    return {**variables['params'], **state}
