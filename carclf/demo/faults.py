"""Faults that the demo server produces on demand: what goes wrong between Kaggle and its client."""

from dataclasses import dataclass
from typing import Literal

FaultKind = Literal["status", "drop", "truncate", "html", "drop_after", "stall", "corrupt", "expired", "empty"]


@dataclass
class Fault:
    """What goes wrong at the next ``times`` calls of a method ("Download" and "Upload" are the bodies).

    status: respond with that status, and Retry-After if given. drop: close the connection without a response, or in the
    middle of a body. drop_after: execute the call, then close the connection. stall: do not respond for 30 s.
    html: respond with a web page and status 200. truncate, corrupt: serve a truncated or damaged archive.
    expired: respond like the storage to an expired URL. empty: respond with a list that lacks its entries.
    """

    method: str
    kind: FaultKind
    status: int = 500
    retry_after: int | None = None
    times: int = 1
