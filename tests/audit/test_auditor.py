"""The audit inside train_head, through real runs: what it leaves, what it says, and what it reuses."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator

import cv2
import pandas as pd
import pytest

from carclf.artifacts import Audit, Drift
from carclf.config import load_config
from carclf.demo.competition import open_competition
from carclf.demo.rendering import render_competition
from carclf.demo.server import DemoServer
from carclf.errors import DataError
from carclf.runs.run import Result, Run
from carclf.services.storage import Store, open_store
from carclf.stages.chain import STAGES

SMALL = {
    "competition": "cars", "head.epochs": 1, "head.num_views": 1, "fine_tune.epochs": 0, "gate.threshold": 0,
    "submit.enabled": False, "validation.min_images_per_class": 5, "validation.max_unusable_fraction": 0.5,
    "audit.drift_warn": 0.2, "gate.min_recall": 0, "gate.max_calibration_error": 1, "gate.champion_rule": "off",
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The same competition as it was, and with every picture darkened."""
    bright, dark = tmp_path_factory.mktemp("bright"), tmp_path_factory.mktemp("dark") / "cars"
    render_competition(bright, num_train=100, num_test=10)
    shutil.copytree(bright, dark)
    for path in dark.rglob("*.jpg"):
        if (pixels := cv2.imread(str(path))) is not None:
            cv2.imwrite(str(path), pixels // 3)
    with (DemoServer(open_competition(bright, slug="cars", work=tmp_path_factory.mktemp("a"))) as one,
          DemoServer(open_competition(dark, slug="cars", work=tmp_path_factory.mktemp("b"))) as other):
        yield {"bright": one.url, "dark": other.url}


@pytest.fixture(scope="module")
def crowned(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, Result]]:
    """A store whose champion was trained on the bright pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CARCLF_CACHE", str(tmp_path_factory.mktemp("cache")))
        store = open_store(str(tmp_path_factory.mktemp("store")))
        return store, run(store, "first", servers["bright"], patch)


def run(store: Store, name: str, url: str, patch: pytest.MonkeyPatch, **settings: object) -> dict[str, Result]:
    patch.setenv("CARCLF_KAGGLE_ENDPOINT", url)
    patch.setenv("KAGGLE_API_TOKEN", "demo-key")
    own = Run.start_or_resume(name, store, "demo", load_config("demo", SMALL | settings))
    return {stage: own.run_stage(stage) for stage in list(STAGES)[: list(STAGES).index("promote") + 1]}


def test_the_audit_ranks_every_usable_picture_and_leaves_a_page(crowned: tuple[Store, dict[str, Result]]) -> None:
    store, first = crowned
    metrics = first["train_head"].metrics
    audit = Audit.find(store, metrics["audit"])
    ranked = pd.read_parquet(audit.path(store, "suspects.parquet"))
    assert len(ranked) == metrics["num_audited"] == first["validate"].metrics["num_train"]
    assert ranked["is_suspect"].sum() == metrics["num_suspects"] and ranked["label_quality"].is_monotonic_increasing
    page = store.read(metrics["report"]).data.decode()
    assert "Suspected labels" in page and "Drift" not in page and "data:image/jpeg;base64," in page
    assert "drift" not in metrics and not list(store.list_keys("drifts/"))


def test_a_second_run_on_the_champions_own_data_reuses_everything(
    crowned: tuple[Store, dict[str, Result]], servers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, first = crowned
    again = run(store, "again", servers["bright"], monkeypatch)
    assert all(result.reused for result in again.values())
    assert again["train_head"].metrics == first["train_head"].metrics
    code = (f"import sys; from carclf.runs.run import Run; from carclf.services.storage import open_store; "
            f"print(Run.load('again', open_store({store.url!r})).run_stage('train_head').reused, "
            "sorted({'tensorflow', 'keras', 'sklearn', 'cleanlab', 'pandas'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True []\n"


def test_other_data_are_compared_with_the_champions_and_once_crowned_are_at_rest(
    crowned: tuple[Store, dict[str, Result]], servers: dict[str, str], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, _ = crowned
    champion = store.read("champion.json").data
    with pytest.raises(DataError) as error:
        run(store, "stopped", servers["dark"], monkeypatch)
    assert "brightness differs most" in str(error.value) and "raise audit.drift_stop" in str(error.value)
    assert not Run.load("stopped", store).record["stages"].get("train_head")
    [key] = [key for key in store.list_keys("drifts/") if key.endswith("report.html")]
    assert key in str(error.value) and "told apart with an AUC" in store.read(key).data.decode()
    caplog.set_level("INFO", "carclf")
    allowed = run(store, "allowed", servers["dark"], monkeypatch, **{"audit.drift_stop": 1})
    metrics = allowed["train_head"].metrics
    assert metrics["drift"] > 0.5 and "above audit.drift_warn = 0.2" in caplog.text
    assert json.loads(Drift.find(store, metrics["report"].split("/")[1]).path(store, "drift.json").read_text())[
        "verdict"] == "warn"
    assert store.read("champion.json").data != champion  # the dark pictures' model won
    at_rest = run(store, "at-rest", servers["dark"], monkeypatch)
    assert all(result.reused for result in at_rest.values()) and "drift" not in at_rest["train_head"].metrics


def test_without_an_audit_nothing_is_compared(
    crowned: tuple[Store, dict[str, Result]], servers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = crowned
    found = run(store, "unaudited", servers["bright"], monkeypatch, **{"audit.enabled": False, "seed": 1})
    assert not {"audit", "report", "drift", "num_suspects"} & set(found["train_head"].metrics)
