"""Faults that the demo server produces on demand, and the responses and damage that they cause."""

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal

FaultKind = Literal[
    "status", "drop", "truncate", "html", "drop_after", "status_after", "stall", "corrupt", "expired", "empty",
]
Response = tuple[int, bytes, dict[str, str]]  # status, body, headers
JSON_TYPE = {"Content-Type": "application/json"}
DAMAGED_BYTES = 64
FIXED_RESPONSES: dict[str, Response] = {
    "html": (HTTPStatus.OK, b"<html>Please wait</html>", {"Content-Type": "text/html"}),
    "empty": (HTTPStatus.OK, b"{}", JSON_TYPE),
    # The storage's response to an expired signature: XML, which Kaggle's client cannot parse.
    "expired": (HTTPStatus.FORBIDDEN, b"<?xml version='1.0' encoding='UTF-8'?><Error><Code>ExpiredToken</Code></Error>",
                {"Content-Type": "application/xml"}),
}


@dataclass
class Fault:
    """A planned fault in the next ``times`` calls of a method ("Download" and "Upload" are file transfers).

    status: respond with that status, and Retry-After if given. drop: close the connection without a response, or in the
    middle of a body. drop_after, status_after: the same, after executing the call. stall: do not respond for 30 s.
    html: respond with a web page and status 200. truncate, corrupt: serve a truncated or damaged archive.
    expired: respond like the storage to an expired URL. empty: respond with a list that lacks its entries.
    """

    method: str
    kind: FaultKind
    status: int = 500
    retry_after: int | None = None
    times: int = 1

    def response(self) -> Response | None:
        """Return the response that replaces the real response; None to close the connection."""
        if self.kind not in ("status", "status_after"):
            return FIXED_RESPONSES.get(self.kind)
        body = json.dumps({"code": self.status, "message": f"planned fault {self.status}"})
        retry_after = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return self.status, body.encode(), JSON_TYPE | retry_after

    def damage(self, data: bytes) -> bytes:
        """Return a truncated or corrupted archive."""
        middle = len(data) // 2
        if self.kind == "truncate":
            return data[:middle]
        end = middle + DAMAGED_BYTES
        return data[:middle] + bytes(byte ^ 255 for byte in data[middle:end]) + data[end:]
