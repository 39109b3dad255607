"""Did you mean …? The known names nearest to one that is not known."""

import difflib
import re
from collections.abc import Iterable
from typing import Any


def nearest(
    name: str, known: Iterable[str], *, count: int = 3, cutoff: float = 0.6
) -> list[str]:
    """Returns the known names nearest to a name, the nearest first.

    Compared without case: 'vit-b16' finds 'ViT-B_16'.

    Args:
        name: what was given.
        known: what there is.
        count: how many names, at most.
        cutoff: how similar they are at least, from 0 to 1.
    """
    by_lower = {}
    for other in known:
        by_lower.setdefault(str(other).lower(), str(other))
    wanted = str(name).lower()
    close = difflib.get_close_matches(wanted, by_lower, count, cutoff)
    # A whole word of a name, as in lr for base_lr, is near as well.
    words = [other for other in by_lower if wanted in re.split(r'[._]', other)]
    return [by_lower[other] for other in dict.fromkeys(close + words)][:count]


def did_you_mean(
    name: str, known: Iterable[str], *, count: int = 3, cutoff: float = 0.6
) -> str:
    """Returns ' Did you mean …?' for the nearest names, or '' where none is near."""
    names = nearest(name, known, count=count, cutoff=cutoff)
    return f' Did you mean {" or ".join(names)}?' if names else ''


def unknown(what: str, found: Any, valid: Iterable[str]) -> ValueError:
    """Returns the error for a name that is none of the valid ones."""
    valid = list(valid)
    meant = did_you_mean(str(found), valid, count=5)
    return ValueError(
        f'Unknown {what} {found!r}.{meant} Expected one of {", ".join(valid)}.'
    )


def check_one_of(what: str, found: Any, valid: Iterable[str]) -> None:
    """Raises a ValueError unless the value is one of the valid ones."""
    valid = list(valid)
    if found not in valid:
        raise unknown(what, found, valid)
