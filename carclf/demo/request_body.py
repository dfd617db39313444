"""The body of a request, within a size limit."""

import re
from email.message import Message
from http import HTTPStatus
from io import BufferedIOBase

from carclf.demo.responses import ApiError

MAX_BODY_BYTES = 8 << 20  # a submission of 100,000 rows has 3 MB
MAX_LINE_BYTES = 1 << 10  # of the lines between chunks
DIGITS = {10: "[0-9]+", 16: "[0-9A-Fa-f]+"}


def read_body(headers: Message, stream: BufferedIOBase) -> bytes:
    """Return the body that follows the headers.

    Raise ApiError: 413 if the body exceeds MAX_BODY_BYTES, 400 if its length is invalid or ambiguous, or if the
    connection ends early. The rest of the connection is then not usable.
    """
    lengths = headers.get_all("Content-Length", [])
    codings = [coding.lower() for coding in headers.get_all("Transfer-Encoding", [])]
    if codings:
        # A second length would let two servers disagree about where the next request starts.
        if lengths or codings != ["chunked"]:
            raise ApiError(HTTPStatus.BAD_REQUEST, "Expected Content-Length, or Transfer-Encoding: chunked, not both")
        return _read_chunks(stream)  # Kaggle's client sends an empty file in chunks
    if len(lengths) > 1:
        raise ApiError(HTTPStatus.BAD_REQUEST, "Expected one Content-Length")
    return _read_exactly(stream, _parse_size(lengths[0], 10)) if lengths else b""


def _read_chunks(stream: BufferedIOBase) -> bytes:
    chunks = bytearray()  # += copies bytes each time, and a chunk may have one byte
    while size := _parse_size(_read_line(stream).partition(";")[0], 16):
        chunks += _read_exactly(stream, size)
        if len(chunks) > MAX_BODY_BYTES:
            raise ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"Expected a body of at most {MAX_BODY_BYTES} bytes")
        _require_end_of_line(_read_line(stream))
    _require_end_of_line(_read_line(stream))
    return bytes(chunks)


def _require_end_of_line(line: str) -> None:
    if line.strip():
        raise ApiError(HTTPStatus.BAD_REQUEST, "Expected the end of a chunk")


def _read_line(stream: BufferedIOBase) -> str:
    line = stream.readline(MAX_LINE_BYTES)
    if not line.endswith(b"\n"):
        raise ApiError(HTTPStatus.BAD_REQUEST, "Expected a complete line between two chunks")
    return line.decode("latin-1")


def _parse_size(text: str, base: int) -> int:
    """Return a size; ``int`` alone would also accept signs, underscores and other digits."""
    if not re.fullmatch(DIGITS[base], text.strip(" \t\r\n")):
        raise ApiError(HTTPStatus.BAD_REQUEST, f"Invalid size {text[:20]!r}: expected a number of bytes")
    if len(text) > MAX_LINE_BYTES or (size := int(text, base)) > MAX_BODY_BYTES:
        raise ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"Expected a body of at most {MAX_BODY_BYTES} bytes")
    return size


def _read_exactly(stream: BufferedIOBase, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise ApiError(HTTPStatus.BAD_REQUEST, f"Received {len(data)} of {size} bytes")
    return data
