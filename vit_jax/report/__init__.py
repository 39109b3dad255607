"""One HTML file about a run: what it was, how it went, what came out.

contents.py  what is in a report, from the run directory and the model
page.html    how it looks, a Jinja template
__main__.py  the command: python -m vit_jax.report RUN_DIR
"""
