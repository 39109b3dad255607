"""The kinds of datasets, each opened by data/open.py."""
