"""Live progress: written promptly, limited in size, and continued after a kill."""

import json
import math
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carclf.errors import ConfigError, ServiceError, StageWaiting
from carclf.progress import report_progress
from carclf.runs import live
from carclf.runs.live import MAX_METRICS, MAX_POINTS, MAX_SERIES, add_point, read_live_progress, record_progress
from carclf.services.storage import FolderStore, Store, open_store


@pytest.fixture(autouse=True)
def frequent_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SECONDS_BETWEEN_WRITES", 0.02)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def wait_for(condition: Callable[[], Any]) -> Any:
    """Return the first true value of the condition."""
    limit = time.monotonic() + 300
    while not (value := condition()):
        assert time.monotonic() < limit
        time.sleep(0.01)
    return value


def steps(store: Store, kind: str = "points") -> list[int]:
    return [point["done"] for point in read_live_progress(store, "r")["fine_tune"]["series"]["fine_tune"][kind]]


def test_points_are_in_the_store_while_a_stage_runs_and_after_it(store: Store) -> None:
    with record_progress(store, "r", "fine_tune"):
        report_progress("fine_tune", 3, 12, {"loss": 0.5, "per_second": 3.0})
        series = wait_for(lambda: read_live_progress(store, "r").get("fine_tune", {}).get("series"))
        assert read_live_progress(store, "r")["fine_tune"]["state"] == "running"
        assert [point | {"time": ""} for point in series["fine_tune"]["points"]] == [
            {"done": 3, "time": "", "loss": 0.5}]
        report_progress("fine_tune", 6, 12, {"loss": 0.4, "val_loss": 0.3, "val_accuracy": 0.9, "epoch": 2})
    progress = read_live_progress(store, "r")["fine_tune"]
    assert progress["started"] <= progress["updated"] <= datetime.now(UTC).isoformat(timespec="seconds")
    stamps = {"started": "", "updated": ""}
    (point,), (epoch,) = (progress["series"]["fine_tune"][kind] for kind in ("points", "epochs"))
    assert epoch | {"time": ""} == {
        "done": 6, "time": "", "loss": 0.4, "val_loss": 0.3, "val_accuracy": 0.9, "epoch": 2.0}
    assert progress | stamps == stamps | {
        "stage": "fine_tune", "state": "ended", "activity": "fine_tune", "done": 6, "total": 12, "per_second": 3.0,
        "eta_seconds": 3.0, "metrics": {"loss": 0.4, "val_loss": 0.3, "val_accuracy": 0.9, "epoch": 2.0},
        "series": {"fine_tune": {"points": [point], "epochs": [epoch]}},
    }


def test_after_a_kill_the_curve_continues_where_training_resumes(store: Store) -> None:
    with pytest.raises(RuntimeError), record_progress(store, "r", "fine_tune"):
        for step in (1, 2, 3, 4, 5):
            report_progress("fine_tune", step, 10, {"loss": 1 / step})
        report_progress("fine_tune", 4, 10, {"loss": 0.2, "val_loss": 0.2})
        raise RuntimeError
    assert (read_live_progress(store, "r")["fine_tune"]["state"], steps(store)) == ("failed", [1, 2, 3, 4, 5])
    with record_progress(store, "r", "fine_tune"):
        for step in (4, 6):  # the steps after the checkpoint are repeated
            report_progress("fine_tune", step, 10, {"loss": 0.1})
    assert (steps(store), steps(store, kind="epochs")) == ([1, 2, 3, 4, 6], [])
    with record_progress(store, "r", "fine_tune"):  # with force, training starts at the first step
        report_progress("fine_tune", 1, 10, {"loss": 0.1})
    assert steps(store) == [1]


def test_repeated_steps_replace_the_earlier_points(store: Store) -> None:
    with record_progress(store, "r", "fine_tune"):
        for step in (1, 2, 3, 2, 4):
            report_progress("fine_tune", step, 10, {"loss": float(step)})
    assert steps(store) == [1, 2, 4]


def test_a_reused_stage_keeps_the_progress_of_its_creation(store: Store) -> None:
    with record_progress(store, "r", "fine_tune"):
        report_progress("fine_tune", 1, 1, {"loss": 0.5})
    before = store.read("live/r/fine_tune.json")
    with record_progress(store, "r", "fine_tune"):
        pass
    assert store.read("live/r/fine_tune.json") == before
    with pytest.raises(StageWaiting), record_progress(store, "r", "score"):
        raise StageWaiting("later")
    assert list(read_live_progress(store, "r")) == ["fine_tune"]


def test_an_idle_stage_has_a_heartbeat_and_a_killed_stage_is_stale(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "SECONDS_BETWEEN_HEARTBEATS", 0.05)
    with record_progress(store, "r", "download"):
        first = wait_for(lambda: store.read("live/r/download.json"))
        wait_for(lambda: read_live_progress(store, "r")["download"]["updated"] > json.loads(first.data)["updated"])
        progress = read_live_progress(store, "r")["download"]
        assert (progress["state"], progress["series"]) == ("running", {})
    long_ago = (datetime.now(UTC) - timedelta(seconds=live.STALE_SECONDS + 1)).isoformat(timespec="seconds")
    store.write("live/r/download.json", json.dumps(progress | {"updated": long_ago}).encode())
    assert read_live_progress(store, "r")["download"]["state"] == "stale"


class BlockedStore(FolderStore):
    """A store whose writes block until they are released, and then fail."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.released = threading.Event()
        self.num_writes = 0

    def write(self, key: str, data: bytes) -> None:
        self.num_writes += 1
        self.released.wait(60)
        raise ServiceError("the store is unavailable.")


def test_an_unresponsive_store_does_not_block_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress reports and the end of the stage return while the write is still blocked."""
    monkeypatch.setattr(live, "MAX_SECONDS_TO_FINISH", 0.1)
    store = BlockedStore(tmp_path)
    with record_progress(store, "r", "fine_tune"):
        wait_for(lambda: store.num_writes)
        for step in range(100):
            report_progress("fine_tune", step, 1000, {"loss": 0.5})
    assert (store.num_writes, store.released.is_set()) == (1, False)
    store.released.set()
    wait_for(lambda: not any(thread.name == "carclf-live" for thread in threading.enumerate()))


def test_a_failing_store_logs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = BlockedStore(tmp_path)
    store.released.set()
    with record_progress(store, "r", "fine_tune"):
        report_progress("fine_tune", 1, 10, {"loss": 0.5})
        wait_for(lambda: store.num_writes >= 3)
    [record] = caplog.records
    assert record.levelname == "WARNING" and "the store is unavailable." in record.getMessage()


@settings(max_examples=40, deadline=None)
@given(reports=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 2000)), max_size=900))
def test_a_series_is_bounded_and_ordered_and_ends_with_the_last_point(reports: list[tuple[int, int]]) -> None:
    points: list[dict[str, Any]] = []
    for done, total in reports:
        points = add_point(points, {"done": done}, total)
        steps_done = [point["done"] for point in points]
        assert len(points) <= MAX_POINTS and steps_done == sorted(set(steps_done)) and steps_done[-1] == done


def test_the_live_file_has_a_size_limit(store: Store) -> None:
    metrics = {f"metric {number} {'x' * 100}": math.pi * 10**9 for number in range(50)} | {"loss": math.nan}
    with record_progress(store, "r", "fine_tune"):
        for number in range(MAX_SERIES + 3):
            for step in range(2 * MAX_POINTS):
                report_progress(f"{number} {'y' * 100}", step, 10_000, metrics)
                report_progress("unbounded", step, 1, {"loss": math.inf})
    stored = store.read("live/r/fine_tune.json")
    progress = read_live_progress(store, "r")["fine_tune"]
    assert stored is not None and len(stored.data) < 2_000_000 and len(progress["series"]) == MAX_SERIES
    sizes = [len(points) for series in progress["series"].values() for points in series.values()]
    assert max(sizes) <= MAX_POINTS
    first = next(iter(progress["series"].values()))["points"][0]
    assert len(first) <= MAX_METRICS + 2 and b"NaN" not in stored.data and b"Infinity" not in stored.data


def test_the_progress_of_a_long_training_takes_less_than_80_kilobytes(store: Store) -> None:
    names = ("epoch", "loss", "accuracy", "learning_rate", "images_per_second", "data_wait_fraction", "memory_mb")
    with record_progress(store, "r", "fine_tune"):
        for step in range(5000):
            report_progress("fine_tune", step, 5000, dict.fromkeys(names, 0.123456789))
    stored = store.read("live/r/fine_tune.json")
    assert stored is not None and 20_000 < len(stored.data) < 80_000 and len(steps(store)) == MAX_POINTS


def test_damaged_files_are_ignored(store: Store) -> None:
    for number, content in enumerate((b"{", b"[]", b'{"stage": "other"}', b'{"stage": 1, "series": {}}')):
        store.write(f"live/r/stage{number}.json", content)
    assert read_live_progress(store, "r") == {}


@pytest.mark.parametrize("run_id", ["../runs", "a/b", "", "r\n", ".hidden", "r/", "%2e%2e"])
def test_an_invalid_run_id_raises_config_error(store: Store, run_id: str) -> None:
    with pytest.raises(ConfigError, match="Invalid run id"):
        read_live_progress(store, run_id)
