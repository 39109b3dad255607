"""Pixels: decoded, cropped, resized, brought to the range of the model."""
