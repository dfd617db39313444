"""Runs and the champion, against real artifacts in a store."""

import json
from pathlib import Path

import boto3
import pytest
from gate_candidates import build_candidate

from carclf.champion import set_threshold
from carclf.config import load_config
from carclf.errors import ConfigError, DataError
from carclf.runs.run import Result, Run
from carclf.services.storage import Store, open_store
from carclf.stages.chain import STAGES
from carclf.training.weights import weights_identity


@pytest.fixture()
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def champion(store: Store) -> str:
    return json.loads(store.read("champion.json").data)["champion"]["model"]


def test_the_first_threshold_is_stored_and_only_set_threshold_changes_it(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    weak = build_candidate(store, "weak", range(30))
    weak.promote(store)
    caplog.set_level("INFO", "carclf")
    decision, _ = weak.promote(store, load_config("demo", {"gate.threshold": 0.4}))
    assert decision.metrics["decision"] == "rejected" and "the stored threshold 0.6000 holds" in caplog.text
    set_threshold(store, 0.45)
    decision, _ = weak.promote(store)
    assert decision.metrics["decision"] == "promoted" and champion(store) == weak.model.key


def test_a_run_of_another_version_is_refused_in_words(store: Store) -> None:
    run = Run.start_or_resume("old", store, "demo", load_config("demo"))
    run.record["config"]["fine_tune"]["old_setting"] = 1
    store.write("runs/old.json", json.dumps(run.record).encode())
    with pytest.raises(ConfigError, match="begun by another version of carclf"):
        Run.load("old", store)


@pytest.mark.parametrize("content", [b'{"run": ', b"[]", b"{}", b'{"config": {}, "stages": []}',
                                     b'{"config": {}, "stages": {"split": 1}}',
                                     b'{"config": {}, "stages": {}, "attempts": []}'])
def test_a_damaged_record_is_told_in_words(store: Store, content: bytes) -> None:
    Run.start_or_resume("r", store, "demo", load_config("demo"))
    store.write("runs/r.json", content)
    for use in (lambda: Run.load("r", store), lambda: Run.start_or_resume("r", store, "demo", load_config("demo"))):
        with pytest.raises(DataError) as told:
            use()
        assert str(told.value) == (
            f"runs/r.json in {store.url} is damaged: it is no record of a run. Restore it from a backup, or begin a "
            "new run under another --run: what this one made is reused.")


def test_a_run_goes_on_under_its_id_and_another_configuration_is_refused(store: Store) -> None:
    first = Run.start_or_resume("r", store, "demo", load_config("demo"))
    first.record["stages"]["download"] = {"key": "k"}
    store.write("runs/r.json", json.dumps(first.record).encode())
    assert Run.start_or_resume("r", store, "demo", load_config("demo")).record == first.record
    with pytest.raises(ConfigError, match=r"with other settings\. Take another --run"):
        Run.start_or_resume("r", store, "demo", load_config("demo", {"seed": 1}))
    assert Run.load("r", store).record == first.record


def test_a_stage_that_is_run_again_and_makes_nothing_stays_as_long_as_it_was_and_where(store: Store) -> None:
    run = Run.start_or_resume("r", store, "demo", load_config("demo"))
    run.record_result(Result("split", "k1", False, 30.0, {}, "first"))
    first = run.record["stages"]["split"]
    run.record["stages"]["split"]["machine"] = first["machine"] | {"processor": "another"}
    store.write("runs/r.json", json.dumps(run.record).encode())
    run.record_result(Result("split", "k1", True, 0.1, {}, "again"))
    again = Run.load("r", store).record["stages"]["split"]
    assert again == first | {"summary": "again"}
    run.record_result(Result("split", "k2", True, 0.1, {}, "of another run"))
    other = Run.load("r", store).record["stages"]["split"]
    assert (other["seconds"], other["reused"]) == (0.1, True) and other["machine"]["processor"] != "another"


def test_an_interrupted_stage_says_so_and_how_to_go_on(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupted(_: Run) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(STAGES, "download", interrupted)
    run = Run.start_or_resume("r", store, "demo", load_config("demo"))
    with pytest.raises(KeyboardInterrupt):
        run.run_stage("download")
    assert "download: interrupted; the same command goes on from here" in caplog.text
    attempt = Run.load("r", store).record["attempts"]["download"]
    assert (attempt["state"], attempt["text"]) == ("failed", "interrupted")


def test_a_misspelt_run_is_told_with_where_to_look(store: Store) -> None:
    with pytest.raises(ConfigError, match=rf"no run 'nobody' in {store.url}.*carclf runs list --store {store.url}"):
        Run.load("nobody", store)


def test_a_missing_weights_file_is_told_before_the_download(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"there is no file '/nowhere/w\.h5'"):
        Run.start_or_resume("r", store, "cars10", load_config("cpu", {"model.weights": "/nowhere/w.h5"}))
    assert store.read("runs/r.json") is None


def test_weights_are_known_by_their_content_wherever_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / name).write_bytes(content)
    monkeypatch.setenv("W", str(tmp_path / "a"))
    one, moved, by_variable, other = (weights_identity(str(text)) for text in
                                      (tmp_path / "a", tmp_path / "b", "$W", tmp_path / "c"))
    assert one == moved == by_variable != other


def test_weights_at_a_store_url_are_known_by_what_stands_there_now(tmp_path: Path, aws: None) -> None:
    boto3.client("s3").create_bucket(Bucket="weights")
    found = []
    for content in (b"one", b"two"):
        (tmp_path / "w").write_bytes(content)
        open_store("s3://weights/nets").upload(tmp_path / "w", "w.h5")
        found.append((weights_identity("s3://weights/nets/w.h5"), weights_identity(str(tmp_path / "w"))))
    assert [one for one, _ in found] == [other for _, other in found] and found[0] != found[1]
