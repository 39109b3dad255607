"""Numbers in about three digits, with a unit; and what pixels are measured by."""

from collections.abc import Sequence

# The middle of the pixels 0 … 255. The published models take (x - MID_GREY) / MID_GREY,
# which is from -1 to 1.
MID_GREY = 127.5


def readable_bytes(count: float) -> str:
    """Returns bytes with their unit: '2.34 GiB'."""
    return _scaled(count, 1024, ('B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'))


def readable_count(count: float) -> str:
    """Returns a count with its unit: '17.6 G'."""
    return _scaled(count, 1000, ('', 'k', 'M', 'G', 'T', 'P'))


def _scaled(number: float, step: int, units: Sequence[str]) -> str:
    power = 0
    while number >= step and power < len(units) - 1:
        number, power = number / step, power + 1
    digits = 0 if power == 0 or number >= 100 else 1 if number >= 10 else 2
    return f'{number:,.{digits}f} {units[power]}'.rstrip()
