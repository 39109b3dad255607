"""JPEG files: what their headers say, and their pixels as far down as they are needed.

libjpeg decodes row after row from the top. A header that names fewer rows makes it stop
there, and pass over the rest of the file up to its end marker; what it has decoded is
the same, bit for bit.
"""

import contextlib
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import simplejpeg
from jaxtyping import UInt8

Box = tuple[int, int, int, int]  # (top, left, height, width) in pixels

MAGIC = b'\xff\xd8'
# As TensorFlow decodes by default: the fast integer DCT with smooth chroma upsampling.
OPTIONS = {'colorspace': 'RGB', 'fastdct': True}
# libjpeg's warnings about bytes between segments, after which the picture is whole.
# TensorFlow decodes such files silently. Any other warning means damaged pixels.
HARMLESS = re.compile('extraneous bytes before marker|JFIF revision|Adobe color')
# What it says where it was told to stop early: before the end, or a restart marker.
# It tells its first warning only, so that nothing was wrong with the rows before, but
# for what `HARMLESS` forgives in a whole file, too.
_STOPPED = re.compile(r'extraneous bytes before marker 0xd[0-79]')
# Smooth upsampling looks at the next row of the chroma, which has half the rows.
_BELOW = 2

_ORIENTATION = 0x0112  # the EXIF tag
# Types of EXIF, as struct has them. The orientation is to be a SHORT (3).
_INTEGERS = {3: 'H', 4: 'I', 8: 'h', 9: 'i'}
# Orientations of which the columns, and the rows, are in reverse, once those from 5 on
# have changed places.
_MIRRORED, _UPSIDE_DOWN = (2, 3, 6, 7), (3, 4, 7, 8)
_START_OF_SCAN = 0xDA
_APP1 = 0xE1
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # which are tables, or reserved
_SEQUENTIAL = (0xC0, 0xC1)  # with Huffman codes: baseline, extended


@dataclass(frozen=True)
class Header:
    """What a file says before its pixels.

    Attributes:
      height, width: of the stored picture; 0 where they are missing.
      orientation: of EXIF: 1 … 8, and what to do with the stored picture, see `orient`.
      height_at: where in the file the height is (16 bits, big-endian), if a lower one
        makes the decoder stop there; 0 if it must not be touched: in progressive files,
        for example, each scan goes through the whole picture.
    """

    height: int = 0
    width: int = 0
    orientation: int = 1
    height_at: int = 0

    @property
    def seen(self) -> tuple[int, int]:
        """(height, width) as a viewer shows the picture."""
        if self.orientation >= 5:
            return self.width, self.height
        return self.height, self.width

    def stored(self, box: Box) -> Box:
        """Returns where a part of the picture, as it is seen, is in the stored one."""
        top, left, height, width = box
        seen_height, seen_width = self.seen
        if self.orientation in _UPSIDE_DOWN:
            top = seen_height - top - height
        if self.orientation in _MIRRORED:
            left = seen_width - left - width
        if self.orientation >= 5:
            return left, top, width, height
        return top, left, height, width


def orient(
    image: UInt8[np.ndarray, 'h w 3'], orientation: int
) -> UInt8[np.ndarray, '... 3']:
    """Turns stored pixels as an EXIF orientation says (2 … 8; else unchanged)."""
    if orientation not in range(2, 9):
        return image
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in _MIRRORED:
        image = image[:, ::-1]
    if orientation in _UPSIDE_DOWN:
        image = image[::-1]
    return np.ascontiguousarray(image)


def read_header(data: bytes) -> Header:
    """Returns what the few bytes before the pixels say, as far as it can be read."""
    orientation, frame, height, width, height_at = 1, 0, 0, 0, 0
    for marker, at, length in _segments(data):
        if marker == _APP1 and data[at : at + 6] == b'Exif\0\0':
            orientation = _exif_orientation(data[at + 6 : at + length])
        elif marker in _FRAMES and length > 5:
            # Precision, height, width, number of components.
            height, width = struct.unpack_from('>HH', data, at + 1)
            frame = at if marker in _SEQUENTIAL else 0
        elif marker == _START_OF_SCAN and frame:
            # Where this scan has all components, there is no other. Of four (CMYK),
            # simplejpeg makes RGB by way of another buffer.
            components = data[frame + 5]
            if length > 0 and data[at] == components <= 3:
                height_at = frame + 1
    if not height * width:
        with contextlib.suppress(ValueError):  # libjpeg may know better
            height, width, *_ = simplejpeg.decode_jpeg_header(data)
            height_at = 0
    return Header(height, width, orientation, height_at)


def decode_top(
    data: bytes, header: Header, rows: int
) -> UInt8[np.ndarray, 'h w 3'] | None:
    """Returns the uppermost rows of the stored picture.

    None: the file is not one of which that is possible, or something is wrong with the
    rows or with the end of the file. What is wrong with the rows below stays unseen.

    Args:
      data: the file.
      header: its.
      rows: how many rows.
    """
    height = rows + _BELOW
    if not header.height_at or height >= header.height:
        return None
    shorter = bytearray(data)
    struct.pack_into('>H', shorter, header.height_at, height)
    image = np.empty((height, header.width, 3), np.uint8)
    try:
        simplejpeg.decode_jpeg(shorter, **OPTIONS, buffer=image)
    except ValueError as error:
        if not _STOPPED.search(str(error)):
            return None
    return image[:rows]


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields (marker, first byte, length) of each segment's payload, up to a scan's."""
    at = 2
    # Segments: 0xff, marker, length (which counts itself), payload.
    while 0 <= (at := data.find(b'\xff', at)) <= len(data) - 4:
        marker = data[at + 1]
        if marker in (0x00, 0xFF):  # padding, or what belongs to no segment
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], 'big')
        if end > len(data):
            break
        yield marker, at + 4, end - at - 4
        if marker == _START_OF_SCAN:
            break
        at = end


def _exif_orientation(tiff: bytes) -> int:
    """Returns the orientation in EXIF data, which is a small TIFF file."""
    order = {b'II': '<', b'MM': '>'}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + 'I', tiff, 4)
        (count,) = struct.unpack_from(order + 'H', tiff, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + 'HH', tiff, entry)
            if tag == _ORIENTATION and kind in _INTEGERS:
                return struct.unpack_from(order + _INTEGERS[kind], tiff, entry + 8)[0]
    except struct.error:  # damaged EXIF data do not make an image unusable
        pass
    return 1
