"""``live/<run id>/<stage>.json``: how a stage goes, for those who look on; no stage ever reads another's.

It is written by a thread of the stage's process every few seconds, so that a slow store does not slow the stage.
"""

import json
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from carclf.errors import CarclfError, StageWaiting
from carclf.progress import log, progress_listener
from carclf.runs.record import record_key
from carclf.services.storage import Store

MAX_POINTS, MAX_SERIES, MAX_METRICS, MAX_NAME = 300, 6, 12, 40
SECONDS_BETWEEN_WRITES = 2.0
SECONDS_BETWEEN_SIGNS = 30.0  # of life, where nothing is told
SECONDS_TO_END = 5.0  # that a stage waits for its last points to be written
STALE_SECONDS = 120.0  # after which a stage that says "running" is believed to have been killed
LiveProgress = dict[str, Any]
Points = list[dict[str, Any]]


@contextmanager
def record_progress(store: Store, run_id: str, stage: str) -> Iterator[None]:
    """While this holds, what the stage tells is kept in the store; where that fails there is one warning."""
    recorder = _Recorder(store, run_id, stage)
    try:
        with progress_listener(recorder.hear):
            yield
    except StageWaiting:
        recorder.end("ended")
        raise
    except BaseException:
        recorder.end("failed")
        raise
    recorder.end("ended")


def read_live_progress(store: Store, run_id: str) -> dict[str, LiveProgress]:
    """What each stage of a run tells or told, by the stage's name; without those that told nothing.

    ``stage``, ``state`` (running, ended, failed, or silent: running, and nothing heard of it for SILENT_SECONDS, so
    that it was probably killed), ``started`` and ``updated`` (ISO 8601, UTC); ``what`` is being done, ``done`` of
    ``total``, ``per_second`` and ``eta_seconds`` (None: unknown), ``metrics``: the last of each name. ``series`` by
    what was done: ``points`` and ``epochs``, MAX_POINTS of each at most, in the order of ``done``; each has ``done``,
    ``time`` and metrics: epoch, loss, accuracy, learning_rate, images_per_second, data_wait_fraction, memory_mb;
    epochs have val_loss and val_accuracy too. ConfigError for what is no run id.
    """
    record_key(run_id)
    found = {}
    for key in store.list_keys(f"live/{run_id}/"):
        stage = key.removeprefix(f"live/{run_id}/").removesuffix(".json")
        if (live := _read(store, key)) is not None and live["stage"] == stage:
            found[stage] = live | {"state": _state(live)}
    return found


class _Recorder:
    """What one attempt at a stage tells, after what the attempts before it told."""

    def __init__(self, store: Store, run_id: str, stage: str) -> None:
        self.store, self.key = store, f"live/{run_id}/{stage}.json"
        record_key(run_id)
        self.own: LiveProgress = {"stage": stage, "state": "running", "started": _now()}
        self.series: dict[str, dict[str, Points]] = {}
        self.earlier: LiveProgress | None = None  # once it was read
        self.lock, self.over, self.told = threading.Lock(), threading.Event(), threading.Event()
        self.written = self.warned = False
        self.thread = threading.Thread(target=self._write_on, name="carclf-live", daemon=True)
        self.thread.start()

    def hear(self, what: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """A listener: nothing here waits for the store."""
        known = {name[:MAX_NAME]: _digits(value) for name, value in list(metrics.items())[:MAX_METRICS]}
        rate, what = known.pop("per_second", None), what[:MAX_NAME]
        with self.lock:
            of_rate = {"per_second": rate, "eta_seconds": _digits((total - done) / rate)} if rate else {}
            self.own |= {"activity": what, "done": done, "total": total, **of_rate}
            self.own["metrics"] = self.own.get("metrics", {}) | known
            if what in self.series or len(self.series) < MAX_SERIES:
                kind = "epochs" if "val_loss" in known else "points"
                points = self.series.setdefault(what, {"points": [], "epochs": []})
                points[kind] = _with_point(points[kind], {"done": done, "time": _now()} | known, total)
        self.told.set()

    def end(self, state: str) -> None:
        """Write what is not yet written; a store that is away keeps nobody for long."""
        with self.lock:
            self.own["state"] = state
        self.over.set()
        self.thread.join(SECONDS_TO_END)

    def _write_on(self) -> None:
        silent = 0.0
        while not self.over.wait(SECONDS_BETWEEN_WRITES):
            silent += SECONDS_BETWEEN_WRITES
            if self.told.is_set() or not self.written or silent >= SECONDS_BETWEEN_SIGNS:
                silent = 0.0
                self._write()
        if self.written or self.told.is_set():  # a stage that was reused leaves what it told when it was made
            self._write()

    def _write(self) -> None:
        try:
            self.earlier = self.earlier or _read(self.store, self.key) or {"series": {}}
            self.told.clear()
            self.store.write(self.key, json.dumps(self._joined(self.earlier), separators=(",", ":")).encode())
            self.written = True
        except CarclfError as error:
            self.told.set()
            if not self.warned:
                log.warning("%s: its live points were not written: %s", self.own["stage"], error)
            self.warned = True

    def _joined(self, earlier: LiveProgress) -> LiveProgress:
        """The earlier attempts' points as far as this one went on from them, and its own."""
        with self.lock:
            series = dict(earlier["series"])
            for what, own in self.series.items():
                before = series.get(what, {"points": [], "epochs": []})
                first = min(point["done"] for points in own.values() for point in points)
                joined = {kind: [point for point in before[kind] if point["done"] < first] + own[kind] for kind in own}
                series[what] = {kind: _thinned(points) for kind, points in joined.items()}
            return _EMPTY | earlier | self.own | {"updated": _now(), "series": series}


_EMPTY: LiveProgress = {"activity": "", "done": 0, "total": 0, "per_second": None, "eta_seconds": None, "metrics": {}}


def _with_point(points: Points, new: dict[str, Any], total: int) -> Points:
    """With the new point as the last: those that it repeats are gone, and of each MAX_POINTS-th part the last stays."""
    def part(point: dict[str, Any]) -> int:
        return int(point["done"]) * MAX_POINTS // max(total, 1)

    kept = [point for point in points if point["done"] < new["done"]]
    if kept and part(kept[-1]) == part(new) < MAX_POINTS:
        kept.pop()
    return _thinned([*kept, new])


def _thinned(points: Points) -> Points:
    while len(points) > MAX_POINTS:
        points = [*points[:-1:2], points[-1]]
    return points


def _read(store: Store, key: str) -> LiveProgress | None:
    """The file; None where there is none, or what is no live file."""
    found = store.read(key)
    try:
        live = json.loads(found.data) if found else None
    except ValueError:
        return None
    whole = isinstance(live, dict) and {"stage", "state", "updated", "series"} <= live.keys()
    return live if whole else None


def _state(live: LiveProgress) -> str:
    age = (datetime.now(UTC) - datetime.fromisoformat(live["updated"])).total_seconds()
    return "stale" if live["state"] == "running" and age > STALE_SECONDS else str(live["state"])


def _digits(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
