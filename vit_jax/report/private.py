"""What a page that is sent around does not tell: where files lie on somebody's disk."""

import re
from typing import Any

# A path from the root, of two names or more, and not a part of an address (https://…).
_PATH = re.compile(r"(?<![\w/.\N{HORIZONTAL ELLIPSIS}])/(?!/)(?:[^/:,='\"\n]+/)+")


def without_paths(value: Any) -> Any:
    """Returns text with only the last name of each absolute path: '…/photos'.

    Args:
        value: text, or mappings and sequences that hold some.
    """
    if isinstance(value, str):
        return _PATH.sub('\N{HORIZONTAL ELLIPSIS}/', value)
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(without_paths(item) for item in value)
    return value
