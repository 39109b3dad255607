"""Numbers with units as people say them."""


def readable_bytes(count: float) -> str:
    """Returns bytes as people say them: '2.3 GiB'."""
    power = next((i for i in range(3) if count < 1024 ** (i + 1)), 3)
    count, unit = count / 1024**power, ('B', 'KiB', 'MiB', 'GiB')[power]
    return f'{count:,.{int(power > 0 and count < 100)}f} {unit}'
