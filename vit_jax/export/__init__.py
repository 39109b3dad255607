"""A model as one artifact that runs without this library."""
