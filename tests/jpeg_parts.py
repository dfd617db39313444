"""JPEGs built from their segments: each type of frame, and metadata that no encoder here writes."""

import struct

LOSSLESS_FRAMES = (3, 7, 11, 15)
PROGRESSIVE_FRAMES = (2, 6, 10, 14)


def segment(code: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, code, len(content) + 2) + content


def insert(data: bytes, code: int, content: bytes) -> bytes:
    """Insert a segment after the start of a JPEG."""
    return data[:2] + segment(code, content) + data[2:]


def exif(orientation: int) -> bytes:
    """The content of an EXIF segment with an orientation."""
    return b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1" + struct.pack(">HHI", orientation, 0, 0)


def uniform_jpeg(frame: int = 0, bits: int = 8, num_channels: int = 3, sampling: int = 0x11) -> bytes:
    """A gray JPEG of 640x480 pixels with a frame of the type SOF``frame``.

    Each difference from the neighbor is 0, whose code is the bit 0. ``sampling`` is that of the first channel.
    """
    channels = range(1, num_channels + 1)
    factors = [sampling, *[0x11] * (num_channels - 1)]
    header = struct.pack(">BHHB", bits, 480, 640, num_channels)
    header += b"".join(bytes([channel, factor, 0]) for channel, factor in zip(channels, factors, strict=True))
    is_lossless = frame in LOSSLESS_FRAMES
    tables = segment(0xC4, bytes([0, 1, *[0] * 16]))
    if not is_lossless:
        tables += segment(0xC4, bytes([16, 1, *[0] * 16])) + segment(0xDB, bytes([0, *[16] * 64]))
    selection = bytes([1, 0, 0]) if is_lossless else bytes([0, 0 if frame in PROGRESSIVE_FRAMES else 63, 0])
    scan = segment(0xDA, bytes([num_channels, *[byte for channel in channels for byte in (channel, 0)]]) + selection)
    side = 1 if is_lossless else 8
    num_units = -(-480 // (side * (sampling & 15))) * -(-640 // (side * (sampling >> 4)))
    num_blocks = num_units * ((sampling & 15) * (sampling >> 4) + num_channels - 1)
    num_bits = num_blocks if is_lossless or frame in PROGRESSIVE_FRAMES else 2 * num_blocks
    return b"\xff\xd8" + tables + segment(0xC0 + frame, header) + scan + bytes(-(-num_bits // 8)) + b"\xff\xd9"
