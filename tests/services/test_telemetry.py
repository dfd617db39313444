"""What stages tell by OTLP, as a real receiver sees it, and that nothing of it holds a stage up."""

import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from otlp_receiver import OtlpReceiver, otlp_receiver

from carclf.config import load_config
from carclf.demo.competition import open_competition
from carclf.demo.rendering import render_competition
from carclf.demo.server import DemoServer
from carclf.errors import ConfigError, DataError
from carclf.runs.run import Result, Run
from carclf.services.storage import Store, open_store
from carclf.services.telemetry import export_stage_metrics
from carclf.services.telemetry.instruments import (
    GPU_MEMORY_LIMIT,
    GPU_MEMORY_USAGE,
    GPU_UTILIZATION,
    METRICS,
    STAGE_RUNS,
)
from carclf.stages.chain import STAGES

SMALL = {
    "competition": "cars", "audit.enabled": False, "head.epochs": 3, "head.num_views": 1, "fine_tune.epochs": 1,
    "gate.threshold": 0, "gate.min_recall": 0, "gate.max_calibration_error": 1, "gate.champion_rule": "off",
    "split.val_fraction": 0.3, "validation.min_images_per_class": 5, "validation.max_unusable_fraction": 0.5,
}
NOW = datetime.now(UTC).isoformat(timespec="seconds")


def run_all(store: Store, name: str) -> dict[str, Result]:
    run = Run.start_or_resume(name, store, "demo", load_config("demo", SMALL))
    return {stage: run.run_stage(stage) for stage in STAGES}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Result], OtlpReceiver, OtlpReceiver]]:
    """The results of a small run, what was told of it, and what was told of one that found all in the store."""
    folder = tmp_path_factory.mktemp("cars")
    render_competition(folder, num_train=120, num_test=10)
    competition = open_competition(folder, slug="cars", work=folder / "work", truth=folder / "truth.csv")
    with (pytest.MonkeyPatch.context() as patch, otlp_receiver() as first, otlp_receiver() as second,
          DemoServer(competition, scoring_seconds=0) as server):
        patch.setenv("CARCLF_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.setenv("CARCLF_KAGGLE_ENDPOINT", server.url)
        patch.setenv("KAGGLE_API_TOKEN", "demo-key")
        patch.setenv("NO_PROXY", "127.0.0.1")
        store = open_store(str(folder / "store"))
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", first.url)
        results = run_all(store, "first")
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", second.url)
        run_all(store, "second")
        yield results, first, second


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with otlp_receiver() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{found.url}/v1/metrics")
        yield found


def test_a_run_tells_every_metric_with_its_unit_and_each_stage_is_counted_once(told) -> None:
    results, first, _ = told
    expected = {(one.name, one.unit, "counter" if one.kind == "counter" else "gauge") for one in METRICS}
    on_gpu = {one for one in expected if one[0] in (GPU_UTILIZATION.name, GPU_MEMORY_USAGE.name, GPU_MEMORY_LIMIT.name)}
    assert {(one.name, one.unit, one.kind) for one in first.points} - on_gpu == expected - on_gpu
    assert first.counted(STAGE_RUNS.name, "stage", "recipe", "outcome", "error.type") == [
        (stage, "demo", "made", "") for stage in STAGES]
    assert first.counted("carclf.gate.decisions", "decision", "outcome") == [("promoted", "made")]
    assert first.counted("carclf.submissions", "stage") == [("submit",)]
    assert first.last("carclf.validation.accuracy", stage="evaluate") == results["evaluate"].metrics["val_accuracy"]
    assert first.last("carclf.gate.threshold", stage="promote") == 0
    assert first.last("carclf.public_score", stage="score") == results["score"].metrics["public_score"]
    assert first.last("carclf.stage.progress", stage="fine_tune") == 1
    for stage, result in results.items():
        took = first.last("carclf.stage.duration", stage=stage, outcome="made")
        assert took == pytest.approx(result.seconds, abs=1)


def test_what_is_found_in_the_store_is_told_as_reused_and_nothing_was_sent_again(told) -> None:
    _, _, second = told
    assert second.counted(STAGE_RUNS.name, "stage", "outcome") == [(stage, "reused") for stage in STAGES]
    assert second.counted("carclf.gate.decisions", "decision", "outcome") == [("promoted", "reused")]
    assert second.counted("carclf.submissions", "stage") == []


def test_a_counter_begins_at_nought_before_it_counts(told) -> None:
    _, first, _ = told
    for stage in STAGES:
        seen = [(one.value, one.time) for one in first.points if one.name == STAGE_RUNS.name
                and (one.labels["stage"], one.labels["outcome"]) == (stage, "made")]
        assert (seen[0][0], seen[-1][0]) == (0, 1) and seen[0][1] < seen[-1][1]


def test_labels_are_few_and_no_runs_id_is_among_them(told) -> None:
    _, first, second = told
    points = [*first.points, *second.points]
    assert {label for one in points for label in one.labels} <= {
        "stage", "recipe", "outcome", "decision", "error.type", "hw.id"}
    assert not {"first", "second"} & {value for one in points for value in one.labels.values()}
    assert {(one["service.name"], one["service.instance.id"]) for one in first.resources} == {
        ("carclf", socket.gethostname())}


@pytest.mark.parametrize(("error", "kind"), [
    (DataError("no"), "DataError"), (MemoryError(), "MemoryError"), (KeyboardInterrupt(), "KeyboardInterrupt"),
    (ZeroDivisionError(), "_OTHER"),
])
def test_a_stage_that_fails_is_counted_with_its_kind_of_error(receiver: OtlpReceiver, error, kind: str) -> None:
    with pytest.raises(type(error)), export_stage_metrics("split", "demo", NOW):
        raise error
    assert receiver.counted(STAGE_RUNS.name, "stage", "outcome", "error.type") == [("split", "failed", kind)]


def test_a_stage_of_a_run_that_fails_is_counted_and_its_error_comes_through(receiver: OtlpReceiver, tmp_path: Path) -> None:
    run = Run.start_or_resume("r", open_store(str(tmp_path)), "demo", load_config("demo"))
    with pytest.raises(ConfigError, match="validate has not run"):
        run.run_stage("split")
    assert receiver.counted(STAGE_RUNS.name, "stage", "outcome", "error.type") == [("split", "failed", "ConfigError")]


def test_a_stage_that_waits_is_told_as_waiting_and_an_unknown_score_is_not_told(receiver: OtlpReceiver) -> None:
    with export_stage_metrics("score", "demo", NOW) as ended:
        ended("waiting", {"public_score": ""})
    assert receiver.counted(STAGE_RUNS.name, "outcome") == [("waiting",)]
    assert "carclf.public_score" not in {one.name for one in receiver.points}


def test_a_stage_tells_meanwhile_how_long_it_and_its_run_take(receiver: OtlpReceiver, monkeypatch) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "100")
    begun = datetime.now(UTC) - timedelta(hours=30)
    with export_stage_metrics("fine_tune", "demo", begun.isoformat()):
        time.sleep(0.5)
        meanwhile = len({one.time for one in receiver.points})
    assert meanwhile >= 3
    assert 0.4 < receiver.last("carclf.stage.elapsed") < 5
    assert receiver.last("carclf.run.elapsed") == pytest.approx(30 * 3600, abs=10)


def timed(endpoint: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> tuple[float, list[str]]:
    """The seconds that a stage without work takes with its metrics going there, and the warnings of two such stages."""
    monkeypatch.setattr("carclf.services.telemetry.otlp._one_warning.said", False)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    caplog.set_level(logging.INFO)
    started = time.monotonic()
    for _ in range(2):
        with export_stage_metrics("split", "demo", NOW) as ended:
            ended("made", {})
    return (time.monotonic() - started) / 2, [record.getMessage() for record in caplog.records]


AWAY = ("Metrics do not reach the place that OTEL_EXPORTER_OTLP_ENDPOINT names: {}. The stage goes on without them.")


def test_an_endpoint_that_refuses_costs_two_seconds_at_most_and_one_warning(monkeypatch, caplog) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        seconds, lines = timed(f"http://user:secret@127.0.0.1:{closed.getsockname()[1]}", monkeypatch, caplog)
    assert seconds < 2.5 and lines == [AWAY.format("it does not answer")]


def test_an_endpoint_that_hangs_costs_two_seconds_at_most_and_one_warning(monkeypatch, caplog) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes the connection and never answers
        seconds, lines = timed(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch, caplog)
        time.sleep(0.5)  # what still hangs says nothing either
    assert seconds < 2.5 and lines == [AWAY.format("it does not answer")]


def test_an_endpoint_that_knows_no_metrics_is_named_by_its_answer(monkeypatch, caplog, random_bytes_competition) -> None:
    with DemoServer(random_bytes_competition, scoring_seconds=0) as other:
        seconds, lines = timed(other.url, monkeypatch, caplog)
    assert seconds < 1 and len(lines) == 1 and lines[0].startswith(AWAY.partition("{}")[0] + "it answered 4")


@pytest.mark.parametrize(("name", "value"), [
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "nonsense"), ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
    ("OTEL_METRIC_EXPORT_INTERVAL", "often"), ("OTEL_EXPORTER_OTLP_COMPRESSION", "lz99"),
    ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere.pem"),
])
def test_a_wrong_variable_is_a_warning_and_no_failed_stage(monkeypatch, caplog, name: str, value: str) -> None:
    monkeypatch.setattr("carclf.services.telemetry.otlp._one_warning.said", False)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:9")
    monkeypatch.setenv(name, value)
    with export_stage_metrics("split", "demo", NOW) as ended:
        ended("made", {})
    assert {record.levelname for record in caplog.records} == {"WARNING"}  # carclf's, or OpenTelemetry's own


def test_without_an_endpoint_opentelemetry_is_not_imported() -> None:
    code = ("import sys, carclf.cli.app\n"
            f"with carclf.runs.run.watched('split', 'demo', '{NOW}') as ended: ended('made', {{}})\n"
            "sys.exit(any(name.partition('.')[0] in ('opentelemetry', 'pynvml') for name in sys.modules))")
    done = subprocess.run([sys.executable, "-c", code], env={"PATH": "", "PYTHONPATH": ":".join(sys.path)})
    assert done.returncode == 0
