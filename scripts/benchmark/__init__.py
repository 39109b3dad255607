"""Measures parts of vit_jax: `python scripts/benchmark --help`."""
