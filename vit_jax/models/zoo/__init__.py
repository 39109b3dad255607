"""The models that were published: names, sizes, files."""
