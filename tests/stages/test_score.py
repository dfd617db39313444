"""Scores, from a real server's list of submissions."""

from pathlib import Path

import pytest
from gate_candidates import build_candidate

from carclf.artifacts import Evaluation, Metrics, Provenance, StageContext, Submission, build
from carclf.champion import read_state
from carclf.config import load_config
from carclf.demo.competition import open_competition
from carclf.demo.rendering import render_competition
from carclf.demo.server import DemoServer, Fault
from carclf.errors import DataError
from carclf.services.kaggle.client import KaggleClient
from carclf.services.storage import Store, open_store
from carclf.stages.score import score

CONFIG = load_config("demo", {"competition": "cars", "gate.threshold": 0.1, "gate.min_recall": 0.0})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture(scope="module")
def cars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cars")
    render_competition(folder, num_train=60, num_test=30)
    return folder


def measured(store: Store, accuracy: float, low: float, high: float) -> Evaluation:
    metrics = {"val_accuracy": accuracy, "val_accuracy_low": low, "val_accuracy_high": high}
    return build(Evaluation, lambda _: metrics, Provenance(1, {"model": "m"}, metrics), store)[0]


def sent(store: Store, answers: Path, monkeypatch: pytest.MonkeyPatch, server: DemoServer) -> Submission:
    monkeypatch.setenv("CARCLF_KAGGLE_ENDPOINT", server.url)
    monkeypatch.setenv("KAGGLE_API_TOKEN", "demo-key")

    def make(folder: Path) -> Metrics:
        (folder / "submission.csv").write_bytes(answers.read_bytes())
        return {"ref": 0, "num_rows": 30}

    submission = build(Submission, make, Provenance(1, {}, {"answers": answers.name}), store)[0]
    mark = submission.files["submission.csv"].sha256[:16]
    KaggleClient("cars").submit(answers, description=f"carclf {mark}", fingerprint=mark)
    return submission


def test_a_score_is_found_by_the_files_mark_and_an_empty_one_is_asked_for_again(
    tmp_path: Path, cars: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, evaluation = tmp_path / "submissions.json", measured(store, 0.97, 0.9, 0.99)
    blind = open_competition(cars, slug="cars", work=tmp_path)
    with DemoServer(blind, scoring_seconds=0, submissions_path=memory) as server:
        submission = sent(store, cars / "truth.csv", monkeypatch, server)
        empty = {"ref": 1001, "public_score": "", "rank": "", "gap": "", "warning": ""}
        assert score(submission, evaluation, StageContext(store, CONFIG))[0].metrics == empty
    graded = open_competition(cars, slug="cars", work=tmp_path, truth=cars / "truth.csv")
    with DemoServer(graded, scoring_seconds=0, submissions_path=memory) as server:
        other = sent(store, cars / "sample-submission.csv", monkeypatch, server)
        assert score(other, evaluation, StageContext(store, CONFIG))[0].metrics["rank"] == 2  # behind the perfect answers
        found, reused = score(submission, evaluation, StageContext(store, CONFIG))
        expected = {"ref": 1001, "public_score": 1.0, "rank": 1, "gap": -0.03, "warning": ""}
        assert (found.metrics, reused) == (expected, False)
        assert score(submission, evaluation, StageContext(store, CONFIG)) == (found, True)
    with DemoServer(graded, scoring_seconds=0) as forgetful:
        monkeypatch.setenv("CARCLF_KAGGLE_ENDPOINT", forgetful.url)
        with pytest.raises(DataError, match="knows no submission with the mark"):
            score(other, evaluation, StageContext(store, CONFIG, "again"))


def test_a_submission_that_kaggle_could_not_grade_gets_the_score_of_one_sent_by_hand(
    tmp_path: Path, cars: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = measured(store, 0.97, 0.9, 0.99)
    graded = open_competition(cars, slug="cars", work=tmp_path, truth=cars / "truth.csv")
    with DemoServer(graded, scoring_seconds=0) as server:
        submission = sent(store, cars / "truth.csv", monkeypatch, server)
        server.submissions[0].error = "The file could not be read"
        file = submission.files["submission.csv"]
        words = f"submission 1001: The file could not be read.*send {store.url}/{file.key} by hand at .*/cars with "
        with pytest.raises(DataError, match=words + file.sha256[:16]):
            score(submission, evaluation, StageContext(store, CONFIG))
        by_hand = f"by hand {file.sha256[:16]}"
        KaggleClient("cars").submit(submission.path(store, "submission.csv"), description=by_hand, fingerprint="by hand")
        found = score(submission, evaluation, StageContext(store, CONFIG))[0].metrics
    assert (found["ref"], found["public_score"]) == (1002, 1.0)


def test_a_score_far_from_the_validation_warns_and_enters_the_champions_history_once(
    tmp_path: Path, cars: Path, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    champion = build_candidate(store, "overfitted", config=CONFIG)
    champion.promote(store)
    graded = open_competition(cars, slug="cars", work=tmp_path, truth=cars / "truth.csv")
    with DemoServer(graded, scoring_seconds=0) as server:
        submission = sent(store, cars / "sample-submission.csv", monkeypatch, server)
        metrics = score(submission, champion.evaluation, StageContext(store, CONFIG))[0].metrics
        score(submission, champion.evaluation, StageContext(store, CONFIG))
    assert metrics["gap"] == round(1 - float(metrics["public_score"]), 5) > 0.5
    assert "more than chance explains: look for leakage from training" in str(metrics["warning"])
    assert str(metrics["warning"]) in caplog.text
    state = read_state(store)
    assert state is not None
    scored = [event for event in state["history"] if event.get("action") == "scored"]
    assert [(event["model"], event["ref"], event["public_score"], event["rank"]) for event in scored] == [
        (champion.model.key, 1001, metrics["public_score"], 1)
    ]


def test_a_leaderboard_that_may_not_be_read_costs_the_rank_and_not_the_score(
    tmp_path: Path, cars: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    graded = open_competition(cars, slug="cars", work=tmp_path, truth=cars / "truth.csv")
    with DemoServer(graded, scoring_seconds=0) as server:
        submission = sent(store, cars / "truth.csv", monkeypatch, server)
        server.faults.append(Fault("GetLeaderboard", "status", 403))
        metrics = score(submission, measured(store, 1.0, 0.9, 1.0), StageContext(store, CONFIG))[0].metrics
    assert metrics == {"ref": 1001, "public_score": 1.0, "rank": "", "gap": 0.0, "warning": ""}
