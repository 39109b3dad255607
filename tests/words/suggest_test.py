"""The nearest of the known names."""

from vit_jax.words import suggest


def test_unknown_suggests_without_regard_to_case():
    error = suggest.unknown('size', 'BASE', ['base', 'large'])
    assert str(error) == (
        "Unknown size 'BASE'. Did you mean base? Expected one of base, large."
    )
    error = suggest.unknown('size', 'xyz', ['base', 'large'])
    assert str(error) == "Unknown size 'xyz'. Expected one of base, large."
