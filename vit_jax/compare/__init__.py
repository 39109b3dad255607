"""Whether models differ, from what they said of the same images.

pairs.py     what two said, image by image, and whether that is more than chance
__main__.py  the command: python -m vit_jax.compare A B …
"""
