"""What all figures share: style, fonts, and how they become PNG files.

Figures are made without pyplot: no display, no window and no global state, so that
they can be drawn in any thread, and a notebook shows what a function returns. Colour
maps are even in lightness and safe for the colour-blind: viridis for what is at least
zero, blue to red through white for what has a sign, Okabe and Ito's colours for lines.
"""

import contextlib
import io
import os
import pathlib
import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vit_jax.runtime import extras

Figure = Any  # matplotlib.figure.Figure, which is imported when a figure is drawn

_DPI = 144
# Figures with fewer colours lose nothing that one sees in a palette.
_MANY_COLORS = 4096
LINES = ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9']
POSITIVE, SIGNED = 'viridis', 'RdBu_r'
_STYLE = {
    'font.size': 10,
    'axes.titlesize': 10,
    'figure.titlesize': 12,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'grid.alpha': 0.25,
    'legend.frameon': False,
    'figure.constrained_layout.use': True,
    'text.parse_math': False,  # '$' in a file's name is a letter
}
# Alphabets that matplotlib's own font lacks; those that are installed are used.
_FONTS = ['Noto Sans CJK SC', 'Noto Sans CJK JP', 'Noto Sans', 'WenQuanYi Zen Hei']
# Longer file names are cut in the middle.
_MAX_TITLE = 32
# Larger photos become smaller in a figure; pixels on the longer side.
_MAX_PHOTO = 640


@contextlib.contextmanager
def canvas(width: float, height: float) -> Iterator[Figure]:
    """Yields an empty figure, and what is drawn meanwhile has our style.

    Raises:
        ValueError: matplotlib is not installed.
    """
    extras.require('matplotlib', purpose='drawing', install="'vit_jax[plot]'")
    import matplotlib
    from matplotlib import font_manager
    from matplotlib.figure import Figure as NewFigure

    installed = set(font_manager.get_font_names())
    fonts = ['DejaVu Sans', *(font for font in _FONTS if font in installed)]
    with matplotlib.rc_context({**_STYLE, 'font.family': fonts}):
        yield NewFigure(figsize=(width, height))


def headline(figure: Figure, text: str, model: str = '') -> None:
    """Writes over a figure what it shows, and of which model."""
    figure.suptitle(f'{text}: {shortened(model)}' if model else text, x=0.5)


def shortened(text: str) -> str:
    """Returns a text that fits over a picture: without its middle if it is long."""
    if len(text) <= _MAX_TITLE:
        return text
    half = _MAX_TITLE // 2
    return f'{text[: half - 1]}…{text[-half:]}'


def smaller(photo: UInt8[np.ndarray, 'h w c']) -> UInt8[np.ndarray, 'H W c']:
    """Returns a photo that is no larger than it can be seen in a figure."""
    from PIL import Image

    if max(photo.shape[:2]) <= _MAX_PHOTO:
        return photo
    image = Image.fromarray(photo)
    image.thumbnail((_MAX_PHOTO, _MAX_PHOTO))
    return np.asarray(image)


def png(figure: Figure) -> bytes:
    """Returns a figure as a PNG file.

    Lines, letters and colour maps come out in a palette, which is small; photos, whose
    colours are many, as they are.
    """
    from PIL import Image

    file = io.BytesIO()
    with warnings.catch_warnings():
        # A letter that no font has is drawn as a box; nobody has to be told.
        warnings.filterwarnings('ignore', message='Glyph .* missing')
        figure.savefig(file, format='png', dpi=_DPI, metadata={'Software': None})
    image = Image.open(file).convert('RGB')
    if image.getcolors(_MANY_COLORS) is not None:
        image = image.quantize(256, method=Image.Quantize.MEDIANCUT)
    small = io.BytesIO()
    image.save(small, 'PNG', optimize=True)
    return small.getvalue()


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Writes a figure as PNG."""
    pathlib.Path(path).write_bytes(png(figure))


def svg(figure: Figure, name: str) -> str:
    """Returns a figure as an SVG element to be put into a page.

    It has no background and draws in the colour of the page's text, so that it is
    seen on a dark page too; and it is as wide as there is room.

    Args:
        figure: what to draw.
        name: unlike that of other figures of the page, in letters and digits.
    """
    import matplotlib

    file = io.StringIO()
    with warnings.catch_warnings(), matplotlib.rc_context({'svg.hashsalt': name}):
        warnings.filterwarnings('ignore', message='Glyph .* missing')
        metadata = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
        figure.savefig(file, format='svg', transparent=True, metadata=metadata)
    text = file.getvalue()
    root, body = re.fullmatch(r'.*?(<svg .*?>)(.*)', text, re.DOTALL).groups()
    view = re.search(r'viewBox="[^"]+"', root)[0]
    # matplotlib writes no colour where it is black.
    body = body.replace('#000000', 'currentColor')
    body = re.sub(r'((?: id="| xlink:href="#|url\(#))', rf'\1{name}-', body)
    return (
        f'<svg {view} role="img" fill="currentColor" '
        'xmlns="http://www.w3.org/2000/svg" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink">{body}'
    )
