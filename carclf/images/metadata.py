"""Remove metadata from the bytes of an image: damage to them must not matter if the pixels are intact."""

import zlib

from carclf.images.jpeg_segments import (
    SEQUENTIAL_FRAMES,
    START_OF_IMAGE,
    START_OF_SCAN_CODE,
    Segment,
    read_frame,
    read_segments,
)

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_NUMBER_BYTES = 4  # of a chunk's length, name and checksum
ANCILLARY = 0x20  # the bit of a PNG chunk's name that a decoder may ignore the chunk
# The application segments that change the pixels, with their first bytes and their smallest size: the color space
# (JFIF 1.x and Adobe) and the EXIF orientation.
NEEDED_SEGMENTS = {0xE0: (b"JFIF\0\1", 14), 0xE1: (b"Exif\0\0", 6), 0xEE: (b"Adobe", 12)}
APPLICATION_CODES = range(0xE0, 0xF0)
COMMENT_CODE = 0xFE
SEGMENT_HEADER_BYTES = 4  # marker and length
# The end of a scan header. In a sequential JPEG, decoders ignore other values with a warning.
SEQUENTIAL_SCAN = b"\0\x3f\0"


def without_metadata(data: bytes) -> bytes:
    """Return a JPEG or PNG with EXIF as its only metadata; other data are returned unchanged.

    Stray bytes between the segments of a JPEG's header are removed, and parameters without effect are corrected.
    """
    if data.startswith(START_OF_IMAGE):
        return _remove_segments(data)
    return _remove_chunks(data) if data.startswith(PNG_SIGNATURE) else data


def _remove_segments(data: bytes) -> bytes:
    parts = [START_OF_IMAGE]
    for segment in read_segments(data):
        if segment.code == START_OF_SCAN_CODE:
            if (frame := read_frame(data)) and frame.type in SEQUENTIAL_FRAMES:
                parts += [data[segment.start : segment.end - len(SEQUENTIAL_SCAN)], SEQUENTIAL_SCAN]
                return b"".join([*parts, data[segment.end :]])
            return b"".join([*parts, data[segment.start :]])
        if _is_needed(data, segment):
            parts.append(data[segment.start : segment.end])
    return data


def _is_needed(data: bytes, segment: Segment) -> bool:
    if segment.code not in APPLICATION_CODES:
        return segment.code != COMMENT_CODE
    prefix, min_bytes = NEEDED_SEGMENTS.get(segment.code, (b"", len(data)))
    start = segment.start + SEGMENT_HEADER_BYTES
    return data.startswith(prefix, start) and segment.end - start >= min_bytes


def _remove_chunks(data: bytes) -> bytes:
    parts = []
    start = position = len(PNG_SIGNATURE)
    while position + 3 * PNG_NUMBER_BYTES <= len(data):
        length = int.from_bytes(data[position : position + PNG_NUMBER_BYTES])
        name = data[position + PNG_NUMBER_BYTES : position + 2 * PNG_NUMBER_BYTES]
        end = position + length + 3 * PNG_NUMBER_BYTES
        if name[0] & ANCILLARY and name != b"tRNS" and not _is_intact_exif(data[position:end]):
            parts.append(data[start:position])
            start = end
        position = end
        if name == b"IEND":
            break
    return b"".join([PNG_SIGNATURE, *parts, data[start:]]) if parts else data


def _is_intact_exif(chunk: bytes) -> bool:
    content, checksum = chunk[PNG_NUMBER_BYTES:-PNG_NUMBER_BYTES], chunk[-PNG_NUMBER_BYTES:]
    return content.startswith(b"eXIf") and zlib.crc32(content) == int.from_bytes(checksum)
