"""Image files from outside: which format they have, and the pixels without the rest.

Metadata never makes whole pixels unusable: what stands beside them in a PNG, WebP or
JPEG file can be left out without decoding anything.
"""

import struct
import zlib

from vit_jax.files.kinds import kind

# Of the kinds of files, those that are images; the pixels may be damaged still.
IMAGES = frozenset({'PNG', 'JPEG', 'GIF', 'WebP', 'BMP', 'TIFF', 'HEIC', 'AVIF'})
HEIC_HINT = "pip install 'vit_jax[heic]' reads it"
_PNG_HEADER = 8
# Chunks without which the pixels are not what they are: the critical ones, and the
# transparency. (Pillow reads orientations from eXIf.)
_PNG_KEPT = (b'IHDR', b'PLTE', b'IDAT', b'IEND', b'tRNS', b'eXIf')
_WEBP_LEFT_OUT = (b'ICCP', b'EXIF', b'XMP ')
# Bits of VP8X: there are a profile, EXIF data, XMP data.
_WEBP_FLAGS = 0x20 | 0x08 | 0x04
# The orientation, and how colours are stored.
_JPEG_KEPT = (b'Exif\0\0', b'Adobe\0d')
_START_OF_SCAN = 0xDA


def without_metadata(data: bytes) -> bytes | None:
    """The file with its pixels alone; None: it is of another format, or all is left."""
    clean = {'PNG': _clean_png, 'WebP': _clean_webp, 'JPEG': _clean_jpeg}
    if (name := kind(data)) not in clean:
        return None
    try:
        cleaned = clean[name](data)
    except (struct.error, IndexError, ValueError):  # it is damaged elsewhere, too
        return None
    return None if cleaned == data else cleaned


def _clean_png(data: bytes) -> bytes:
    parts, at = [data[:_PNG_HEADER]], _PNG_HEADER
    while at + 8 <= len(data):
        length, chunk = struct.unpack_from('>I4s', data, at)
        end = at + 12 + length
        body = data[at + 8 : end - 4]
        # The orientation, where it is whole.
        is_whole = data[end - 4 : end] == struct.pack('>I', zlib.crc32(chunk + body))
        if chunk in _PNG_KEPT and (chunk != b'eXIf' or is_whole):
            parts.append(data[at:end])
        if chunk == b'IEND':
            break
        at = end
    return b''.join(parts)


def _clean_webp(data: bytes) -> bytes:
    parts, at = [], 12
    while at + 8 <= len(data):
        chunk, length = struct.unpack_from('<4sI', data, at)
        end = at + 8 + length + length % 2
        body = bytearray(data[at:end])
        if chunk == b'VP8X':
            body[8] &= ~_WEBP_FLAGS
        if chunk not in _WEBP_LEFT_OUT and end <= len(data):
            parts.append(bytes(body))
        at = end
    pixels = b''.join(parts)
    return b'RIFF' + struct.pack('<I', len(pixels) + 4) + b'WEBP' + pixels


def _clean_jpeg(data: bytes) -> bytes:
    parts, at, marker = [data[:2]], 2, 0
    while marker != _START_OF_SCAN:
        at = data.index(b'\xff', at)  # what is between segments belongs to nobody
        marker = data[at + 1]
        if marker in (0x00, 0xFF):  # padding
            at += 1
            continue
        (length,) = struct.unpack_from('>H', data, at + 2)
        segment = data[at : at + 2 + length]
        is_metadata = 0xE0 <= marker <= 0xEF or marker == 0xFE
        if not is_metadata or segment[4:].startswith(_JPEG_KEPT):
            parts.append(segment)
        at += len(segment)
    return b''.join([*parts, data[at:]])
