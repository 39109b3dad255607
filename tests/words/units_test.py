"""Numbers with units."""

import pytest

from vit_jax.words import units


@pytest.mark.parametrize(
    ('count', 'text'),
    [
        (0, '0 B'),
        (512, '512 B'),
        (2048, '2.00 KiB'),
        (300 * 2**20, '300 MiB'),
        (5e9, '4.66 GiB'),
        (50e9, '46.6 GiB'),
        (2e18, '1,776 PiB'),
    ],
)
def test_readable_bytes(count, text):
    assert units.readable_bytes(count) == text


@pytest.mark.parametrize(
    ('count', 'text'), [(7, '7'), (1000, '1.00 k'), (17.58e9, '17.6 G')]
)
def test_readable_count(count, text):
    assert units.readable_count(count) == text
