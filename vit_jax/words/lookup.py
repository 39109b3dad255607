"""A name in a table of the package, or `package.module:Name` in the user's own code.

Families, tasks, operations, evaluators, optimizers: wherever a configuration names
one, both are possible, so that nobody has to change the package to add their own.
"""

import importlib
from collections.abc import Mapping
from typing import Any

from vit_jax.words import suggest


def lookup(table: Mapping[str, Any], name: str, what: str) -> Any:
    """Returns the entry of that name, or what `package.module:Name` names.

    Args:
        table: the entries of the package.
        name: a key of the table, or where to import from: a module, a colon, and the
            name of what is meant in it.
        what: what the table holds, for messages, as in 'config.task'.

    Raises:
        ValueError: there is none; it suggests the nearest names, or says which part of
            `package.module:Name` cannot be imported.
    """
    if name in table:
        return table[name]
    if ':' not in str(name):
        raise ValueError(
            f'{what} is {name!r}; it can be one of {", ".join(table)}, or your own as '
            f'package.module:Name.{suggest.did_you_mean(name, table)}'
        )
    module_name, _, attribute = name.partition(':')
    try:
        value = importlib.import_module(module_name)
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name is not None
        if absent and f'{module_name}.'.startswith(f'{error.name}.'):
            reason = (
                f'there is no module {error.name}. It is looked for as Python does: in '
                'the folder of the command, in PYTHONPATH and among installed packages'
            )
        else:
            reason = f'the module {module_name} cannot be imported: {error}'
        raise ValueError(f'{what} is {name!r}, but {reason}.') from error
    for part in attribute.split('.'):
        if not hasattr(value, part):
            public = [other for other in vars(value) if not other.startswith('_')]
            raise ValueError(
                f'{what} is {name!r}, but {module_name} has no {attribute}.'
                + suggest.did_you_mean(part, public)
            )
        value = getattr(value, part)
    return value
