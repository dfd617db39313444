"""Live points: what a stage tells is soon in the store, bounded, and goes on after a kill."""

import json
import math
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
from carclf.runs.live import MAX_METRICS, MAX_POINTS, MAX_SERIES, read_live_progress, record_progress
from carclf.runs.run import live
from carclf.services.storage import FolderStore, Store, open_store


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SECONDS_BETWEEN_WRITES", 0.02)


@pytest.fixture()
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def comes(condition: Callable[[], Any]) -> Any:
    """What the condition gives once it is true."""
    limit = time.monotonic() + 20
    while not (found := condition()):
        assert time.monotonic() < limit
        time.sleep(0.01)
    return found


def steps(store: Store, what: str = "fine_tune", kind: str = "points") -> list[int]:
    return [point["done"] for point in read_live_progress(store, "r")["fine_tune"]["series"][what][kind]]


def test_a_running_stages_points_are_in_the_store_while_it_runs_and_stay_when_it_has_ended(store: Store) -> None:
    with record_progress(store, "r", "fine_tune"):
        report_progress("fine_tune", 3, 12, {"loss": 0.5, "per_second": 3.0})
        found = comes(lambda: read_live_progress(store, "r").get("fine_tune", {}).get("series"))
        assert read_live_progress(store, "r")["fine_tune"]["state"] == "running"
        assert [point | {"time": ""} for point in found["fine_tune"]["points"]] == [
            {"done": 3, "time": "", "loss": 0.5}]
        report_progress("fine_tune", 6, 12, {"loss": 0.4, "val_loss": 0.3, "val_accuracy": 0.9, "epoch": 2})
    told = read_live_progress(store, "r")["fine_tune"]
    assert told["started"] <= told["updated"] <= datetime.now(UTC).isoformat(timespec="seconds")
    stamps = {"started": "", "updated": ""}
    (point,), (epoch,) = (told["series"]["fine_tune"][kind] for kind in ("points", "epochs"))
    assert epoch | {"time": ""} == {
        "done": 6, "time": "", "loss": 0.4, "val_loss": 0.3, "val_accuracy": 0.9, "epoch": 2.0}
    assert told | stamps == stamps | {
        "stage": "fine_tune", "state": "ended", "activity": "fine_tune", "done": 6, "total": 12, "per_second": 3.0,
        "eta_seconds": 3.0, "metrics": {"loss": 0.4, "val_loss": 0.3, "val_accuracy": 0.9, "epoch": 2.0},
        "series": {"fine_tune": {"points": [point], "epochs": [epoch]}},
    }


def test_after_a_kill_the_curve_goes_on_where_the_training_is_taken_up(store: Store) -> None:
    with pytest.raises(RuntimeError), record_progress(store, "r", "fine_tune"):
        for step in (1, 2, 3, 4, 5):
            report_progress("fine_tune", step, 10, {"loss": 1 / step})
        report_progress("fine_tune", 4, 10, {"loss": 0.2, "val_loss": 0.2})
        raise RuntimeError
    assert (read_live_progress(store, "r")["fine_tune"]["state"], steps(store)) == ("failed", [1, 2, 3, 4, 5])
    with record_progress(store, "r", "fine_tune"):
        for step in (4, 6):  # what came after the checkpoint is trained, and told, again
            report_progress("fine_tune", step, 10, {"loss": 0.1})
    assert (steps(store), steps(store, kind="epochs")) == ([1, 2, 3, 4, 6], [])
    with record_progress(store, "r", "fine_tune"):  # with force, from the beginning
        report_progress("fine_tune", 1, 10, {"loss": 0.1})
    assert steps(store) == [1]


def test_a_training_that_goes_back_within_itself_takes_its_curve_back(store: Store) -> None:
    with record_progress(store, "r", "fine_tune"):
        for step in (1, 2, 3, 2, 4):
            report_progress("fine_tune", step, 10, {"loss": float(step)})
    assert steps(store) == [1, 2, 4]


def test_a_stage_that_was_reused_leaves_what_it_told_when_it_was_made(store: Store) -> None:
    with record_progress(store, "r", "fine_tune"):
        report_progress("fine_tune", 1, 1, {"loss": 0.5})
    before = store.read("live/r/fine_tune.json")
    with record_progress(store, "r", "fine_tune"):
        pass
    assert store.read("live/r/fine_tune.json") == before
    with pytest.raises(StageWaiting), record_progress(store, "r", "score"):
        raise StageWaiting("later")
    assert list(read_live_progress(store, "r")) == ["fine_tune"]


def test_a_stage_that_tells_nothing_gives_a_sign_of_life_and_one_that_was_killed_falls_silent(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "SECONDS_BETWEEN_SIGNS", 0.05)
    with record_progress(store, "r", "download"):
        first = comes(lambda: store.read("live/r/download.json"))
        comes(lambda: read_live_progress(store, "r")["download"]["updated"] > json.loads(first.data)["updated"])
        told = read_live_progress(store, "r")["download"]
        assert (told["state"], told["series"]) == ("running", {})
    long_ago = (datetime.now(UTC) - timedelta(seconds=live.SILENT_SECONDS + 1)).isoformat(timespec="seconds")
    store.write("live/r/download.json", json.dumps(told | {"updated": long_ago}).encode())
    assert read_live_progress(store, "r")["download"]["state"] == "stale"


class Away(FolderStore):
    """A store that hangs, then fails."""

    def write(self, key: str, data: bytes) -> None:
        time.sleep(0.3)
        raise ServiceError("the store is away.")


def test_a_store_that_is_away_neither_fails_nor_slows_a_stage_and_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "SECONDS_TO_END", 0.1)
    with record_progress(Away(tmp_path), "r", "fine_tune"):
        started = time.monotonic()
        for step in range(100):
            report_progress("fine_tune", step, 1000, {"loss": 0.5})
        telling = time.monotonic() - started
        comes(lambda: caplog.records)
        time.sleep(0.5)  # for another try or two
        ending = time.monotonic()
    assert telling < 0.25 and time.monotonic() - ending < 0.25
    assert [record.getMessage() for record in caplog.records] == [
        "fine_tune: its live points were not written: the store is away."]


@settings(max_examples=40, deadline=None)
@given(told=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 2000), st.booleans()), max_size=900))
def test_a_series_is_bounded_in_the_order_of_what_was_done_and_ends_with_the_last(
    told: list[tuple[int, int, bool]]
) -> None:
    points: list[dict[str, Any]] = []
    for done, total, _ in told:
        points = live._with_point(points, {"done": done}, total)
        dones = [point["done"] for point in points]
        assert len(points) <= MAX_POINTS and dones == sorted(set(dones)) and dones[-1] == done


def test_the_file_is_bounded_however_long_and_much_is_told(store: Store) -> None:
    metrics = {f"figure {number} {'x' * 100}": math.pi * 10**9 for number in range(50)} | {"loss": math.nan}
    with record_progress(store, "r", "fine_tune"):
        for number in range(MAX_SERIES + 3):
            for step in range(2 * MAX_POINTS):
                report_progress(f"{number} {'y' * 100}", step, 10_000, metrics)
                report_progress("unbounded", step, 1, {"loss": math.inf})
    found = store.read("live/r/fine_tune.json")
    told = read_live_progress(store, "r")["fine_tune"]
    assert found is not None and len(found.data) < 2_000_000 and len(told["series"]) == MAX_SERIES
    sizes = [len(points) for series in told["series"].values() for points in series.values()]
    assert max(sizes) <= MAX_POINTS
    first = next(iter(told["series"].values()))["points"][0]
    assert len(first) <= MAX_METRICS + 2 and b"NaN" not in found.data and b"Infinity" not in found.data


def test_a_long_training_of_usual_figures_takes_some_dozen_kilobytes(store: Store) -> None:
    names = ("epoch", "loss", "accuracy", "learning_rate", "images_per_second", "data_wait_fraction", "memory_mb")
    with record_progress(store, "r", "fine_tune"):
        for step in range(5000):
            report_progress("fine_tune", step, 5000, dict.fromkeys(names, 0.123456789))
    found = store.read("live/r/fine_tune.json")
    assert found is not None and 20_000 < len(found.data) < 80_000 and len(steps(store)) == MAX_POINTS


def test_damaged_files_are_no_stages_and_ids_that_are_none_are_refused(store: Store) -> None:
    for number, content in enumerate((b"{", b"[]", b'{"stage": "other"}', b'{"stage": 1, "series": {}}')):
        store.write(f"live/r/stage{number}.json", content)
    assert read_live_progress(store, "r") == {}
    for name in ("../runs", "a/b", "", "r\n", ".hidden", "r/", "%2e%2e"):
        with pytest.raises(ConfigError, match="is no run id"):
            read_live_progress(store, name)
