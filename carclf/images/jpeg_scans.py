"""Count the scans of a JPEG, to reject files that keep a decoder busy for minutes."""

import re

# Each scan of a progressive JPEG updates all pixels, but may take only a few bytes. Encoders write about ten scans.
MAX_SCANS = 100  # libtiff has the same limit for JPEGs inside TIFFs
MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")  # all markers with a length, and the end of the image
SEQUENTIAL_FRAMES = (0xC0, 0xC1)
START_OF_SCAN = 0xDA
END_OF_IMAGE = 0xD9
START_OF_IMAGE_BYTES, LENGTH_BYTES = 2, 2


def count_scans(data: bytes) -> int:
    """Return the number of scans in the bytes of a JPEG.

    Return 1 for sequential JPEGs: their scans need bytes for each pixel, so the file size limits them.
    """
    position, num_scans = START_OF_IMAGE_BYTES, 0
    while (match := MARKER.search(data, position)) and (marker := data[match.start() + 1]) != END_OF_IMAGE:
        if marker in SEQUENTIAL_FRAMES:
            return 1
        num_scans += marker == START_OF_SCAN
        position = match.end() + int.from_bytes(data[match.end() : match.end() + LENGTH_BYTES], "big")
    return num_scans
