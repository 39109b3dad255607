"""Look inside a model: what it has learned, as arrays and as figures.

views.py      what there is to look at: from a model and photos to arrays
filters.py  positions.py  attention_maps.py  curves.py   the computations, in NumPy
figures.py    the drawing: from arrays to matplotlib figures and PNG
__main__.py   the command: python -m vit_jax.visualize

In Python:

    predictor = Predictor.load('runs/flowers')
    found = views.attention(predictor, Photos('photos/'))
    figures.attention_distance(found)     # a notebook shows it
"""
