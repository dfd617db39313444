"""``live/<run id>/<stage>.json``: how a stage goes, for those who look on; no stage ever reads another's.

It is written by a thread of the stage's process every few seconds, so that a slow store does not slow the stage.
"""

import json
import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from carclf.errors import CarclfError
from carclf.progress import heard_by, log
from carclf.records import record_key
from carclf.services.storage import Store

MAX_POINTS, MAX_SERIES, MAX_FIGURES = 300, 12, 24
SECONDS_BETWEEN_WRITES = 4.0
SECONDS_BETWEEN_SIGNS = 30.0  # of life, where nothing is told
SECONDS_TO_END = 5.0  # that a stage waits for the last write
SILENT_SECONDS = 120.0  # after which a stage that says "running" is believed to have been killed
Live = dict[str, Any]


def live_points(store: Store, run_id: str) -> dict[str, Live]:
    """What each stage of a run tells or told, by the stage's name; without those that told nothing.

    ``stage``, ``state`` (running, ended, failed, silent: said nothing for SILENT_SECONDS, so probably killed),
    ``started`` and ``updated`` (ISO 8601, UTC); ``what`` is being done, ``done`` of ``total``, ``per_second``,
    ``eta_seconds`` (None: unknown), ``figures``: the last of each name. ``series`` by what was done: ``points`` and
    ``epochs``, MAX_POINTS of each at most, in the order of ``done``; each has ``done``, ``time`` (ISO 8601) and
    figures: loss, accuracy, learning_rate, images_per_second, data_wait_fraction, memory_mb; epochs' val_loss and
    val_accuracy too. ConfigError for what is no run id.
    """
    record_key(run_id)
    return {}
