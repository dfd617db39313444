"""How often a JPEG makes its decoder go over all of its pixels."""

import re

# Each scan of a progressive JPEG goes over all of its pixels, and may take a few bytes only. Encoders write ten or so.
MAX_SCANS = 100  # as in libtiff, for the JPEGs in its files
JPEG_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")  # with a length, or the end; between them there are none
SEQUENTIAL, SCAN, END = (0xC0, 0xC1), 0xDA, 0xD9


def count_scans(data: bytes) -> int:
    """The scans of a JPEG's bytes; 1 for sequential ones, whose scans take bytes for each pixel."""
    place, found = 2, 0
    while (marker := JPEG_MARKER.search(data, place)) and (kind := data[marker.start() + 1]) != END:
        if kind in SEQUENTIAL:
            return 1
        found += kind == SCAN
        place = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    return found
