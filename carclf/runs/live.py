"""``live/<run id>/<stage>.json``: the progress of a stage, for pages that watch it; no stage reads it.

A thread of the stage's process writes the file every few seconds, so that a slow store does not slow the stage down.
"""

import json
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, with_config
from typing_extensions import TypedDict  # pydantic needs it on Python 3.11

from carclf.errors import CarclfError, DataError, StageSkipped, StageWaiting
from carclf.progress import log, progress_listener
from carclf.runs.record import record_key
from carclf.services.storage import Store, parse_object

MAX_POINTS = 300  # per series and kind
MAX_SERIES = 6
MAX_METRICS = 12
MAX_NAME = 40  # characters of the name of a metric or an activity
SECONDS_BETWEEN_WRITES = 2.0
SECONDS_BETWEEN_HEARTBEATS = 30.0  # writes without new points, which show that the process is alive
MAX_SECONDS_TO_FINISH = 5.0  # how long a finished stage waits for its last points to be written
STALE_SECONDS = 120.0  # a running stage without a heartbeat for this long was probably killed
LiveProgress = dict[str, Any]  # StoredProgress
Point = dict[str, Any]
Points = list[Point]


def _parse_time(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("the time zone is missing")
    return text


Time = Annotated[str, AfterValidator(_parse_time)]


@with_config(extra="allow")
class StoredPoint(TypedDict):
    """A point of a series; the other keys are metrics."""

    done: int
    time: Time


class StoredSeries(TypedDict):
    """The points and epochs of an activity."""

    points: list[StoredPoint]
    epochs: list[StoredPoint]


class StoredProgress(TypedDict):
    """The content of a live file."""

    stage: str
    state: Literal["running", "ended", "failed"]
    started: Time
    updated: Time
    activity: str
    done: int
    total: int
    per_second: float | None
    eta_seconds: float | None
    metrics: dict[str, float | None]
    series: dict[str, StoredSeries]


@contextmanager
def record_progress(store: Store, run_id: str, stage: str) -> Iterator[None]:
    """Write the progress that the block reports to the store. If writing fails, one warning is logged."""
    recorder = _Recorder(store, run_id, stage)
    try:
        with progress_listener(recorder.on_progress):
            yield
    except (StageSkipped, StageWaiting):
        recorder.finish("ended")
        raise
    except BaseException:
        recorder.finish("failed")
        raise
    recorder.finish("ended")


def read_live_progress(store: Store, run_id: str) -> dict[str, LiveProgress]:
    """Return the latest progress of each stage of a run, by stage; stages without progress are missing.

    Each value has these keys:

    - ``stage``; ``state``: running, ended, failed, or stale (running, but no heartbeat for STALE_SECONDS)
    - ``started`` and ``updated`` (ISO 8601, UTC)
    - ``activity`` with ``done`` of ``total``, ``per_second`` and ``eta_seconds`` (None if unknown)
    - ``metrics``: the latest value of each metric
    - ``series``: for each activity, ``points`` and ``epochs``, at most MAX_POINTS of each, ordered by ``done``. A
      point has ``done``, ``time`` and metrics such as loss, learning_rate, images_per_second; an epoch also has
      val_loss and val_accuracy.

    Raise ConfigError if the run id is invalid.
    """
    record_key(run_id)
    progress = {}
    for key in store.list_keys(f"live/{run_id}/"):
        stage = key.removeprefix(f"live/{run_id}/").removesuffix(".json")
        if (live := _read(store, key)) and live["stage"] == stage:
            progress[stage] = live | {"state": _state(live)}
    return progress


class _Recorder:
    """Collects the progress of one attempt; a thread writes it, merged with earlier attempts, to the store."""

    def __init__(self, store: Store, run_id: str, stage: str) -> None:
        record_key(run_id)
        self.store = store
        self.key = f"live/{run_id}/{stage}.json"
        self.live: LiveProgress = {"stage": stage, "state": "running", "started": _now()}
        self.series: dict[str, dict[str, Points]] = {}
        self.earlier: LiveProgress | None = None  # read before the first write
        self.lock = threading.Lock()
        self.finished = threading.Event()
        self.changed = threading.Event()
        self.written = False
        self.warned = False
        self.thread = threading.Thread(target=self._run, name="carclf-live", daemon=True)
        self.thread.start()

    def on_progress(self, activity: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """Keep a report of progress in memory, without access to the store."""
        activity = activity[:MAX_NAME]
        values = {name[:MAX_NAME]: _rounded(value) for name, value in list(metrics.items())[:MAX_METRICS]}
        rate = values.pop("per_second", None)
        with self.lock:
            self.live |= {"activity": activity, "done": done, "total": total}
            if rate:
                self.live |= {"per_second": rate, "eta_seconds": _rounded((total - done) / rate)}
            self.live["metrics"] = self.live.get("metrics", {}) | values
            if activity in self.series or len(self.series) < MAX_SERIES:
                kind = "epochs" if "val_loss" in values else "points"
                points = self.series.setdefault(activity, {"points": [], "epochs": []})
                points[kind] = add_point(points[kind], {"done": done, "time": _now()} | values, total)
        self.changed.set()

    def finish(self, state: str) -> None:
        """Write the remaining points; give up after MAX_SECONDS_TO_FINISH if the store does not respond."""
        with self.lock:
            self.live["state"] = state
        self.finished.set()
        self.thread.join(MAX_SECONDS_TO_FINISH)

    def _run(self) -> None:
        idle_seconds = 0.0
        while not self.finished.wait(SECONDS_BETWEEN_WRITES):
            idle_seconds += SECONDS_BETWEEN_WRITES
            if self.changed.is_set() or not self.written or idle_seconds >= SECONDS_BETWEEN_HEARTBEATS:
                idle_seconds = 0.0
                self._write()
        if self.written or self.changed.is_set():  # a reused stage keeps the progress of the attempt that created it
            self._write()

    def _write(self) -> None:
        try:
            self.earlier = self.earlier or _read(self.store, self.key) or {"series": {}}
            self.changed.clear()
            self.store.write(self.key, json.dumps(self._merged(self.earlier), separators=(",", ":")).encode())
            self.written = True
        except CarclfError as error:
            self.changed.set()
            if not self.warned:
                log.warning("%s: live progress not written: %s", self.live["stage"], error)
            self.warned = True

    def _merged(self, earlier: LiveProgress) -> LiveProgress:
        """Return this attempt's progress, preceded by earlier attempts' points up to the step where it resumed."""
        with self.lock:
            series = dict(earlier["series"])
            for activity, current in self.series.items():
                previous = series.get(activity, {"points": [], "epochs": []})
                first = min(point["done"] for points in current.values() for point in points)
                series[activity] = {
                    kind: _thin([point for point in previous[kind] if point["done"] < first] + points)
                    for kind, points in current.items()
                }
            return _EMPTY | earlier | self.live | {"updated": _now(), "series": series}


_EMPTY: LiveProgress = {"activity": "", "done": 0, "total": 0, "per_second": None, "eta_seconds": None, "metrics": {}}


def add_point(points: Points, new: Point, total: int) -> Points:
    """Append a point to a series, which stays bounded and ordered by ``done``.

    Points at or after its ``done`` are removed: the training repeats these steps. If ``total`` is divided into
    MAX_POINTS equal parts, only the last point of each part is kept.
    """

    def part(point: Point) -> int:
        return int(point["done"]) * MAX_POINTS // max(total, 1)

    earlier = [point for point in points if point["done"] < new["done"]]
    if earlier and part(earlier[-1]) == part(new) < MAX_POINTS:
        earlier.pop()
    return _thin([*earlier, new])


def _thin(points: Points) -> Points:
    """Drop every second point, but not the last, until at most MAX_POINTS are left."""
    while len(points) > MAX_POINTS:
        points = [*points[:-1:2], points[-1]]
    return points


def _read(store: Store, key: str) -> LiveProgress | None:
    """Return the content of a live file, or None if it is missing or damaged."""
    if (stored := store.read(key)) is None:
        return None
    try:
        return dict(parse_object(StoredProgress, stored.data, f"{key} in {store.url}", "The next write replaces it."))
    except DataError:  # informative only
        return None


def _state(live: LiveProgress) -> str:
    age = (datetime.now(UTC) - datetime.fromisoformat(live["updated"])).total_seconds()
    return "stale" if live["state"] == "running" and age > STALE_SECONDS else str(live["state"])


def _rounded(value: float) -> float | None:
    """Round to six significant digits; None for infinity and NaN, which JSON does not have."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
