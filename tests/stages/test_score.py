"""Public scores from a local Kaggle server's list of submissions."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from gate_candidates import build_artifact, build_candidate
from submissions import submit_file

from carclf.artifacts import Archive, Evaluation, Metrics, Provenance, StageContext, Submission
from carclf.champion import read_state
from carclf.config import load_config
from carclf.demo.competition import Competition, open_competition
from carclf.demo.rendering import render_competition
from carclf.demo.server import DemoServer, Fault
from carclf.errors import DataError
from carclf.services.kaggle.client import KaggleClient
from carclf.services.storage import Store, open_store
from carclf.stages.score import score

CONFIG = load_config("demo", {"data.source": "cars", "gate.threshold": 0.1, "gate.min_recall": 0.0})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture(scope="module")
def cars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cars")
    render_competition(folder, num_train=60, num_test=30)
    return folder


@pytest.fixture
def graded(cars: Path, tmp_path: Path) -> Competition:
    return open_competition(cars, slug="cars", work=tmp_path, truth=cars / "truth.csv")


def build_evaluation(
    store: Store, value: float, interval: tuple[float, float], metric: str = "accuracy", kaggle: str = ""
) -> Evaluation:
    """Build an evaluation of an archive with Kaggle's description of its metric."""
    low, high = interval
    metrics: Metrics = {
        "metric": metric, "val_metric": value, "val_metric_low": low, "val_metric_high": high, "num_images": 60,
    }
    archive = build_artifact(store, Archive, Provenance(1, {}, {"metric": kaggle}), {"evaluation_metric": kaggle})
    return build_artifact(store, Evaluation, Provenance(1, {"archive": archive.key, "model": "m"}, metrics), metrics)


def fingerprint(submission: Submission) -> str:
    return submission.files["submission.csv"].sha256[:16]


def send(store: Store, predictions: Path, monkeypatch: pytest.MonkeyPatch, server: DemoServer) -> Submission:
    """Submit a file to the server and return its submission artifact."""
    monkeypatch.setenv("CARCLF_KAGGLE_ENDPOINT", server.url)
    monkeypatch.setenv("KAGGLE_API_TOKEN", "demo-key")
    provenance = Provenance(1, {}, {"name": predictions.name})
    files = {"submission.csv": predictions.read_bytes()}
    mark = hashlib.sha256(predictions.read_bytes()).hexdigest()[:16]
    state = submit_file(KaggleClient("cars"), predictions, mark)
    submission: Submission = build_artifact(store, Submission, provenance, {"ref": state.ref, "num_rows": 30}, files)
    return submission


def score_metrics(submission: Submission, evaluation: Evaluation, store: Store) -> dict[str, Any]:
    return score(submission, evaluation, StageContext(store, CONFIG))[0].metrics


def test_a_score_is_found_by_fingerprint_and_an_empty_one_is_requested_again(
    tmp_path: Path, cars: Path, graded: Competition, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, evaluation = tmp_path / "submissions.json", build_evaluation(store, 0.97, (0.9, 0.99))
    context = StageContext(store, CONFIG)
    ungraded = open_competition(cars, slug="cars", work=tmp_path)
    with DemoServer(ungraded, scoring_seconds=0, submissions_path=path) as server:
        submission = send(store, cars / "truth.csv", monkeypatch, server)
        empty = {"ref": 1001, "public_score": "", "rank": "", "gap": "", "warning": ""}
        assert score_metrics(submission, evaluation, store) == empty
    with DemoServer(graded, scoring_seconds=0, submissions_path=path) as server:
        other = send(store, cars / "sample-submission.csv", monkeypatch, server)
        assert score_metrics(other, evaluation, store)["rank"] == 2  # behind the perfect predictions
        public_score, reused = score(submission, evaluation, context)
        expected = {"ref": 1001, "public_score": 1.0, "rank": 1, "gap": -0.03, "warning": ""}
        assert (public_score.metrics, reused) == (expected, False)
        assert score(submission, evaluation, context) == (public_score, True)
    with DemoServer(graded, scoring_seconds=0) as forgetful:
        monkeypatch.setenv("CARCLF_KAGGLE_ENDPOINT", forgetful.url)
        again = StageContext(store, CONFIG, "again")
        with pytest.raises(DataError, match=rf"{fingerprint(other)}.*{other.files['submission.csv'].key}"):
            score(other, evaluation, again)
        submit_file(KaggleClient("cars"), other.path(store, "submission.csv"), f"by hand {fingerprint(other)}")
        assert score(other, evaluation, again)[0].metrics["ref"] == 1001


def test_an_ungraded_submission_gets_the_score_of_a_manual_submission(
    cars: Path, graded: Competition, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = build_evaluation(store, 0.97, (0.9, 0.99))
    with DemoServer(graded, scoring_seconds=0) as server:
        submission = send(store, cars / "truth.csv", monkeypatch, server)
        server.submissions[0].error = "The file could not be read"
        file, mark = submission.files["submission.csv"], fingerprint(submission)
        with pytest.raises(DataError, match=rf"submission 1001: The file could not be read.*{file.key}.*{mark}"):
            score_metrics(submission, evaluation, store)
        path = submission.path(store, "submission.csv")
        submit_file(KaggleClient("cars"), path, f"by hand {mark}")
        metrics = score_metrics(submission, evaluation, store)
    assert (metrics["ref"], metrics["public_score"]) == (1002, 1.0)


def test_a_score_far_from_the_validation_warns_and_enters_the_history_once(
    cars: Path,
    graded: Competition,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    champion = build_candidate(store, "overfitted", config=CONFIG)
    champion.promote(store)
    with DemoServer(graded, scoring_seconds=0) as server:
        submission = send(store, cars / "sample-submission.csv", monkeypatch, server)
        metrics = score_metrics(submission, champion.evaluation, store)
        score_metrics(submission, champion.evaluation, store)
    assert metrics["gap"] == round(1 - float(metrics["public_score"]), 5) > 0.5
    assert metrics["warning"] and str(metrics["warning"]) in caplog.text
    state = read_state(store)
    assert state is not None
    events = [event for event in state["history"] if event["action"] == "scored"]
    assert [(event["model"], event["ref"], event["public_score"], event["rank"]) for event in events] == [
        (champion.model.key, 1001, metrics["public_score"], 1)
    ]


@pytest.mark.parametrize("fault", [("status", 403), ("status", 503), ("empty",), ("html",)])
def test_a_leaderboard_that_cannot_be_read_costs_only_the_rank(
    cars: Path, graded: Competition, store: Store, monkeypatch: pytest.MonkeyPatch, fault: tuple[Any, ...]
) -> None:
    monkeypatch.setattr("carclf.services.kaggle.retries.time.sleep", lambda _: None)
    with DemoServer(graded, scoring_seconds=0) as server:
        submission = send(store, cars / "truth.csv", monkeypatch, server)
        server.faults.append(Fault("GetLeaderboard", *fault, times=99))
        metrics = score_metrics(submission, build_evaluation(store, 1.0, (0.9, 1.0)), store)
    assert metrics == {"ref": 1001, "public_score": 1.0, "rank": "", "gap": 0.0, "warning": ""}


def test_a_submission_that_kaggle_does_not_list_yet_is_found_by_its_number(
    cars: Path, graded: Competition, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DemoServer(graded, scoring_seconds=0) as server:
        server.list_lag_seconds = 3600
        submission = send(store, cars / "truth.csv", monkeypatch, server)
        assert KaggleClient("cars").list_submissions() == []
        metrics = score_metrics(submission, build_evaluation(store, 1.0, (0.9, 1.0)), store)
    assert (metrics["ref"], metrics["public_score"]) == (1001, 1.0)


@pytest.mark.parametrize("expected", [
    ("macro_f1", 0.95, "leakage"), ("log_loss", 0.01, "leakage"), ("log_loss", 2.0, "easier"),
], ids=str)
def test_gap_of_another_metric_has_its_direction(
    cars: Path, graded: Competition, store: Store, monkeypatch: pytest.MonkeyPatch, expected: tuple[str, float, str]
) -> None:
    """The public score of the sample submission is 0.1."""
    metric, value, suspect = expected
    with DemoServer(graded, scoring_seconds=0) as server:
        submission = send(store, cars / "sample-submission.csv", monkeypatch, server)
        evaluation = build_evaluation(store, value, (value - 0.01, value + 0.01), metric)
        metrics = score_metrics(submission, evaluation, store)
    public_score = float(metrics["public_score"])
    assert metrics["gap"] == round(value - public_score, 5)
    assert suspect in metrics["warning"]


def test_score_that_the_metric_cannot_have_is_not_compared(
    cars: Path, graded: Competition, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DemoServer(graded, scoring_seconds=0) as server:
        submission = send(store, cars / "truth.csv", monkeypatch, server)
        monkeypatch.setattr("carclf.services.kaggle.client._parse_score", lambda _: 12.5)
        metrics = score_metrics(submission, build_evaluation(store, 0.9, (0.8, 0.95), "macro_f1"), store)
    assert (metrics["public_score"], metrics["gap"], metrics["warning"]) == (12.5, "", "")


@pytest.mark.parametrize("expected", [
    ("Categorization Accuracy", 0.8, 1), ("F-Score (Micro)", 0.8, 1), ("Log Loss", "", 2), ("?", 0.8, 1)], ids=str)
def test_scores_of_another_metric_have_a_rank_in_its_direction_and_no_gap(
    store: Store, cars: Path, graded: Competition, monkeypatch: pytest.MonkeyPatch, expected: tuple[str, Any, int]
) -> None:
    """The public score of the sample submission is 0.1."""
    kaggle, gap, rank = expected
    monkeypatch.setattr(
        KaggleClient, "leaderboard_rank", lambda _, score, *, higher_is_better: 1 if higher_is_better else 2)
    with DemoServer(graded, scoring_seconds=0) as server:
        submission = send(store, cars / "sample-submission.csv", monkeypatch, server)
        metrics = score_metrics(submission, build_evaluation(store, 0.9, (0.8, 0.95), kaggle=kaggle), store)
    assert metrics["gap"] == (gap and pytest.approx(gap, abs=0.05))
    assert metrics["rank"] == rank
