"""The segments of a JPEG: how it is encoded, and how many scans it has."""

import re
from collections.abc import Iterator
from typing import NamedTuple

# Each scan of a progressive JPEG updates all pixels, but may take only a few bytes. Encoders write about ten scans.
MAX_SCANS = 100  # libtiff has the same limit for JPEGs inside TIFFs
MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")  # all markers with a length, and the end of the image
START_OF_IMAGE, START_OF_SCAN, END_OF_IMAGE = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
END_OF_IMAGE_CODE = 0xD9
START_OF_SCAN_CODE = 0xDA
LENGTH_BYTES = 2
# A frame (SOF) of the type n has the marker 0xC0 + n: 0 to 2 are the usual ones, 3 is lossless, 9 and 10 have
# arithmetic coding. The markers of the missing numbers mean something else.
FRAME_CODES = {0xC0 + number for number in range(16) if number not in (4, 8, 12)}
SEQUENTIAL_FRAMES = (0, 1)


class Segment(NamedTuple):
    """The second byte of a segment's marker, and where the segment starts and ends, in bytes from the beginning."""

    code: int
    start: int
    end: int


class Frame(NamedTuple):
    """The type of a JPEG's frame (the n of SOFn) and its bits per sample."""

    type: int
    bits: int


def read_segments(data: bytes) -> Iterator[Segment]:
    """Yield the segments between the start and the end of the image, without the scans' pixels."""
    position = len(START_OF_IMAGE)
    while (match := MARKER.search(data, position)) and (code := data[match.start() + 1]) != END_OF_IMAGE_CODE:
        position = match.end() + int.from_bytes(data[match.end() : match.end() + LENGTH_BYTES], "big")
        yield Segment(code, match.start(), position)


def read_frame(data: bytes) -> Frame | None:
    """Return the first frame in the bytes of a JPEG, or None if it has none."""
    for code, start, _ in read_segments(data):
        if code in FRAME_CODES:
            return Frame(code - 0xC0, int.from_bytes(data[start + 4 : start + 5]))
    return None


def count_scans(data: bytes) -> int:
    """Return the number of scans in the bytes of a JPEG.

    Return 1 for sequential JPEGs: their scans need bytes for each pixel, so the file size limits them.
    """
    num_scans = 0
    for code, _, _ in read_segments(data):
        if code in FRAME_CODES and code - 0xC0 in SEQUENTIAL_FRAMES:
            return 1
        num_scans += code == START_OF_SCAN_CODE
    return num_scans
