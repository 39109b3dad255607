"""One key of a configuration: its default, what it may be, and what it means."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vit_jax.words.suggest import did_you_mean


@dataclasses.dataclass(frozen=True)
class Limit:
    """What values of a key can be.

    Attributes:
        holds: whether a value can be.
        says: how it is said: 'it {says}'.
    """

    holds: Callable[[Any], bool]
    says: str


def at_least(minimum: float) -> Limit:
    """Returns the limit of numbers that are no less."""
    return Limit(lambda value: value >= minimum, f'must be at least {minimum}')


def are_counts(values: Sequence[Any]) -> bool:
    """Returns whether values are positive whole numbers, and some."""
    return bool(values) and all(isinstance(n, int) and n > 0 for n in values)


def are_first_and_last(steps: Sequence[Any]) -> bool:
    """Returns whether these are the first and the last of some steps, or none."""
    if not steps:
        return True
    pair = len(steps) == 2 and all(isinstance(step, int) for step in steps)
    return pair and 1 <= steps[0] <= steps[1]


@dataclasses.dataclass(frozen=True)
class Key:
    """A key of the configuration.

    Attributes:
        default: its value in `default()`. A `ConfigDict` has keys of its own, which
            recipes set.
        says: what it means.
        none: what None means; '' where it cannot be None.
        kind: type of the values of a key whose default is None.
        how: whether it does not decide the numbers of a run (devices, paths, logging).
        limit: what its values can be.
        one_of: the names that it can have.
        own: whether it can name the user's own code as well, `package.module:Name`.
    """

    default: Any
    says: str
    none: str = ''
    kind: type | None = None
    how: bool = False
    limit: Limit | None = None
    one_of: Sequence[str] = ()
    own: bool = False

    def initial(self) -> Any:
        """Returns the value that a new configuration has."""
        if isinstance(self.default, ConfigDict):
            return ConfigDict()
        return placeholder(self.kind) if self.default is None else self.default

    def check(self, name: str, value: Any) -> None:
        """Raises a ValueError unless a value can be; None is not judged here."""
        if value is None:
            return
        if self.one_of and value not in self.one_of:
            if self.own and ':' in str(value):
                return
            raise ValueError(
                f'config.{name} is {value!r}; it can be one of '
                f'{", ".join(self.one_of)}'
                f'{", or your own as package.module:Name" if self.own else ""}.'
                + did_you_mean(str(value), self.one_of)
            )
        if self.limit is not None and not self.limit.holds(value):
            raise ValueError(f'config.{name} is {value}; it {self.limit.says}.')

    def described(self) -> str:
        """Returns what it means, with None and its limits."""
        parts = [self.says]
        if self.none:
            parts.append(f'None: {self.none}.')
        if self.one_of:
            own = ', or your own as `package.module:Name`' if self.own else ''
            parts.append(f'One of {", ".join(self.one_of)}{own}.')
        if self.limit is not None:
            parts.append(f'It {self.limit.says}.')
        return ' '.join(parts)
