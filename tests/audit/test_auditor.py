"""The audit in ``train_head``, in real runs on two versions of a dataset."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import pandas as pd
import pytest
from gate_candidates import build_archive, build_artifact
from small_runs import reload_in_this_process

from carclf.artifacts import Archive, Audit, Drift, Model, Provenance, Split, StageContext
from carclf.audit.auditor import Auditor
from carclf.champion import ensure_state, record_promotion
from carclf.config import load_config
from carclf.demo.competition import open_competition
from carclf.demo.rendering import render_competition
from carclf.demo.server import DemoServer
from carclf.errors import DamagedArtifactError, DataError
from carclf.runs.run import STAGES, Result, Run
from carclf.services.storage import Store, open_store

SMALL = {
    "data.source": "cars", "head.epochs": 1, "head.num_views": 1, "fine_tune.epochs": 0, "gate.threshold": 0,
    "submit.enabled": False, "validation.min_images_per_class": 5, "validation.max_unusable_fraction": 0.5,
    "audit.drift_warn": 0.2, "gate.min_recall": 0, "gate.max_calibration_error": 1, "gate.champion_rule": "off",
}
Results = dict[str, Result]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The URLs of a competition, and of the same one with darkened images."""
    bright, dark = tmp_path_factory.mktemp("bright"), tmp_path_factory.mktemp("dark") / "cars"
    render_competition(bright, num_train=100, num_test=10)
    shutil.copytree(bright, dark)
    for path in dark.rglob("*.jpg"):
        if (pixels := cv2.imread(str(path))) is not None:
            cv2.imwrite(str(path), pixels // 3)
    with (DemoServer(open_competition(bright, slug="cars", work=tmp_path_factory.mktemp("a"))) as bright_server,
          DemoServer(open_competition(dark, slug="cars", work=tmp_path_factory.mktemp("b"))) as dark_server):
        yield {"bright": bright_server.url, "dark": dark_server.url}


@pytest.fixture(scope="module")
def first_run(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Results]:
    """A store whose champion was trained on the bright images, and the results of its run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CARCLF_CACHE", str(tmp_path_factory.mktemp("cache")))
        store = open_store(str(tmp_path_factory.mktemp("store")))
        return store, run_to("promote", start(store, "first", servers["bright"], patch))


def start(
    store: Store, run_id: str, url: str, patch: pytest.MonkeyPatch, settings: dict[str, object] | None = None
) -> Run:
    reload_in_this_process(patch)
    patch.setenv("CARCLF_KAGGLE_ENDPOINT", url)
    patch.setenv("KAGGLE_API_TOKEN", "demo-key")
    return Run.start_or_resume(run_id, store, "demo", load_config("demo", SMALL | (settings or {})))


def run_to(last: str, run: Run) -> Results:
    return {stage: run.run_stage(stage) for stage in list(STAGES)[: list(STAGES).index(last) + 1]}


def test_the_audit_ranks_all_usable_images_and_writes_a_report(first_run: tuple[Store, Results]) -> None:
    store, results = first_run
    metrics = results["train_head"].metrics
    ranked = pd.read_parquet(Audit.require(store, metrics["audit"]).path(store, "suspects.parquet"))
    assert len(ranked) == metrics["num_audited"] == results["validate"].metrics["num_train"]
    assert ranked["is_suspect"].sum() == metrics["num_suspects"]
    assert ranked["label_quality"].is_monotonic_increasing
    report = store.read(metrics["report"]).data.decode()
    assert 'id="suspects"' in report
    assert "data:image/jpeg;base64," in report


def test_the_first_run_measures_no_drift(first_run: tuple[Store, Results]) -> None:
    store, results = first_run
    metrics = results["train_head"].metrics
    assert "drift" not in metrics
    assert 'id="drift"' not in store.read(metrics["report"]).data.decode()
    assert not list(store.list_keys("drifts/"))


def test_a_run_on_the_champions_data_reuses_everything(
    first_run: tuple[Store, Results], servers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, results = first_run
    again = run_to("promote", start(store, "again", servers["bright"], monkeypatch))
    assert all(result.reused for result in again.values())
    assert again["train_head"].metrics == results["train_head"].metrics
    code = f"""
import sys
from carclf.runs.run import Run
from carclf.services.storage import open_store
print(Run.load("again", open_store({store.url!r})).run_stage("train_head").reused,
      sorted({{"tensorflow", "keras", "sklearn", "cleanlab", "pandas"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True []\n"


def test_drift_stops_a_run_unless_the_limit_is_raised(
    first_run: tuple[Store, Results], servers: dict[str, str], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After a model of the new data becomes the champion, its data have no drift."""
    store, _ = first_run
    champion = store.read("champion.json").data
    with pytest.raises(DataError, match=r"brightness .*audit\.drift_stop") as error:
        run_to("promote", start(store, "stopped", servers["dark"], monkeypatch))
    assert not Run.load("stopped", store).record["stages"].get("train_head")
    [report] = [key for key in store.list_keys("drifts/") if key.endswith("report.html")]
    assert report in str(error.value)
    assert "AUC" in store.read(report).data.decode()

    caplog.set_level("INFO", "carclf")
    allowed = run_to("promote", start(store, "allowed", servers["dark"], monkeypatch, {"audit.drift_stop": 1}))
    metrics = allowed["train_head"].metrics
    assert metrics["drift"] > 0.5
    assert "audit.drift_warn = 0.2" in caplog.text
    drift = Drift.require(store, metrics["report"].split("/")[1])
    assert json.loads(drift.path(store, "drift.json").read_text())["verdict"] == "warn"
    assert store.read("champion.json").data != champion

    again = run_to("promote", start(store, "again-dark", servers["dark"], monkeypatch))
    assert all(result.reused for result in again.values())
    assert "drift" not in again["train_head"].metrics


def test_a_missing_archive_of_the_champion_is_reported_as_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run rebuilds what is reported so."""
    store = open_store(tmp_path / "store")
    archive = build_archive(store)
    champion_split, split = (build_artifact(store, Split, Provenance(1, {"dataset": name}, {})) for name in "ab")
    inputs = {"archive": archive.key, "split": champion_split.key}
    model = build_artifact(store, Model, Provenance(1, inputs, {}))
    assert record_promotion(store, {"model": model.key, "decision": "d"}, ensure_state(store, 0.5))
    audit = build_artifact(store, Audit, Provenance(1, {}, {}), files={"report.html": b""})
    monkeypatch.setattr(Auditor, "rank_suspects", lambda _: (audit, True))
    Path(store.url, Archive.manifest_path(archive.key)).unlink()
    auditor = Auditor(archive, split, StageContext(store, load_config("demo")), "none", lambda *_: pytest.fail())
    with pytest.raises(DamagedArtifactError) as damage:
        auditor.metrics()
    assert damage.value.path == f"archives/{archive.key}"


def test_a_run_with_audit_disabled_has_no_audit(
    first_run: tuple[Store, Results], servers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = first_run
    run = start(store, "no-audit", servers["bright"], monkeypatch, {"audit.enabled": False, "seed": 1})
    results = run_to("train_head", run)
    assert not {"audit", "report", "drift", "num_suspects"} & set(results["train_head"].metrics)
