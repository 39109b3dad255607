"""Optional dependencies: found, or asked for by the name of their extra."""

import importlib.util


def require(module: str, *, purpose: str, install: str) -> None:
    """Raises a ValueError that says what to install where a module is missing."""
    spec = importlib.util.find_spec(module)
    # Without an origin it is but a folder of that name in the working directory.
    if spec is None or spec.origin is None:
        raise ValueError(
            f'{purpose} needs the module {module!r}: pip install {install}'
        )
