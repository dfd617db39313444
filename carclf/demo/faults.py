"""Faults that the demo server makes on demand: what is known to go wrong between Kaggle and its client."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

FaultKind = Literal["status", "drop", "truncate", "html", "drop_after", "stall", "corrupt", "expired", "empty"]


@dataclass
class Fault:
    """What goes wrong at the next ``times`` calls of a method ("Download" and "Upload" are the bodies).

    status: that status, with Retry-After where given. drop: the connection closes without an answer, or in the
    middle of a body. drop_after: the call counts, then the connection closes. stall: no answer for 30 s.
    html: a web page with status 200. truncate, corrupt: an archive cut short, or damaged, at its source.
    expired: what storage says of a signed URL that ran out. empty: a list that does not show its entries yet.
    """

    method: str
    kind: FaultKind
    status: int = 500
    retry_after: int | None = None
    times: int = 1


def take_fault(faults: Iterable[Fault], method: str) -> Fault | None:
    """Use up one of the first planned fault of a method; None where none is left."""
    for fault in faults:
        if fault.method == method and fault.times > 0:
            fault.times -= 1
            return fault
    return None
