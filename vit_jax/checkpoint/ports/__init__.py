"""Weights with other libraries' names: timm's and transformers'."""
