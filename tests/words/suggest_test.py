"""Nearest names."""

from vit_jax.words import suggest

NAMES = ['ViT-B_16', 'ViT-B_32', 'Mixer-B_16']


def test_without_regard_to_case():
    assert suggest.nearest('vit-b16', NAMES)[0] == 'ViT-B_16'
    assert suggest.did_you_mean('vit-b16', NAMES, count=1) == ' Did you mean ViT-B_16?'
    assert suggest.did_you_mean('VIT-B_1', NAMES, count=2).endswith(' or ViT-B_32?')


def test_nothing_near():
    assert suggest.nearest('xyz', NAMES) == []
    assert suggest.did_you_mean('xyz', NAMES) == ''
