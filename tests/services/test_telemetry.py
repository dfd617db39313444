"""Metrics of stages, as a receiver of OTLP gets them, and stages whose endpoint fails."""

import logging
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from types import SimpleNamespace

import pytest
from otlp_receiver import OtlpReceiver, otlp_receiver
from small_runs import reload_in_this_process

from carclf.config import load_config
from carclf.demo.competition import Competition, open_competition
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
from carclf.services.telemetry.otlp import export_error_filter

pytestmark = pytest.mark.integration

SMALL = {
    "data.source": "cars", "audit.enabled": False, "head.epochs": 3, "head.num_views": 1, "fine_tune.epochs": 1,
    "gate.threshold": 0, "gate.min_recall": 0, "gate.max_calibration_error": 1, "gate.champion_rule": "off",
    "split.val_fraction": 0.3, "validation.min_images_per_class": 5, "validation.max_unusable_fraction": 0.5,
}
NOW = datetime.now(UTC).isoformat(timespec="seconds")


@dataclass
class Clock:
    """The seconds since ``NOW`` by the clocks of the stage metrics. They pass only when a test sets them."""

    seconds: float = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()

    class ControlledDatetime(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.fromisoformat(NOW).astimezone(tz) + timedelta(seconds=clock.seconds)

    module = "carclf.services.telemetry.stage_metrics"
    monkeypatch.setattr(f"{module}.time", SimpleNamespace(monotonic=lambda: clock.seconds))
    monkeypatch.setattr(f"{module}.datetime", ControlledDatetime)
    return clock


def run_all(store: Store, name: str) -> dict[str, Result]:
    run = Run.start_or_resume(name, store, "demo", load_config("demo", SMALL))
    return {stage: run.run_stage(stage) for stage in run.stages}


@dataclass(frozen=True)
class Telemetry:
    """The results of a run and its metrics, and the metrics of a second run that reused all artifacts."""

    results: dict[str, Result]
    first: OtlpReceiver
    second: OtlpReceiver


@pytest.fixture(scope="module")
def telemetry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Telemetry]:
    folder = tmp_path_factory.mktemp("cars")
    render_competition(folder, num_train=120, num_test=10)
    competition = open_competition(folder, slug="cars", work=folder / "work", truth=folder / "truth.csv")
    with (pytest.MonkeyPatch.context() as patch, otlp_receiver() as first, otlp_receiver() as second,
          DemoServer(competition, scoring_seconds=0) as server):
        patch.setenv("CARCLF_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.setenv("CARCLF_KAGGLE_ENDPOINT", server.url)
        patch.setenv("KAGGLE_API_TOKEN", "demo-key")
        patch.setenv("NO_PROXY", "127.0.0.1")
        reload_in_this_process(patch)
        store = open_store(str(folder / "store"))
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", first.url)
        results = run_all(store, "first")
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", second.url)
        run_all(store, "second")
        yield Telemetry(results, first, second)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with otlp_receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{receiver.url}/v1/metrics")
        yield receiver


def test_a_run_exports_every_metric_with_its_unit_and_kind(telemetry: Telemetry) -> None:
    expected = {(metric.name, metric.unit, "counter" if metric.kind == "counter" else "gauge") for metric in METRICS}
    gpu_names = {GPU_UTILIZATION.name, GPU_MEMORY_USAGE.name, GPU_MEMORY_LIMIT.name}
    gpu_metrics = {metric for metric in expected if metric[0] in gpu_names}
    exported = {(point.name, point.unit, point.kind) for point in telemetry.first.points}
    assert exported - gpu_metrics == expected - gpu_metrics


def test_a_run_counts_each_stage_decision_and_submission_once(telemetry: Telemetry) -> None:
    first = telemetry.first
    assert first.counted(STAGE_RUNS.name, "stage", "recipe", "outcome", "error.type") == [
        (stage, "demo", "created", "") for stage in telemetry.results]
    assert first.counted("carclf.gate.decisions", "decision", "outcome") == [("promoted", "created")]
    assert first.counted("carclf.submissions", "stage") == [("submit",)]


def test_a_run_exports_the_values_of_its_results(telemetry: Telemetry) -> None:
    first, results = telemetry.first, telemetry.results
    assert first.last("carclf.validation.accuracy", stage="evaluate") == results["evaluate"].metrics["val_accuracy"]
    assert first.last("carclf.gate.threshold", stage="promote") == 0
    assert first.last("carclf.public_score", stage="score") == results["score"].metrics["public_score"]
    assert first.last("carclf.stage.progress", stage="fine_tune") == 1
    for stage in results:
        assert isinstance(first.last("carclf.stage.duration", stage=stage, outcome="created"), float)


def test_reused_artifacts_are_counted_as_reused_and_not_submitted_again(telemetry: Telemetry) -> None:
    second = telemetry.second
    assert second.counted(STAGE_RUNS.name, "stage", "outcome") == [(stage, "reused") for stage in telemetry.results]
    assert second.counted("carclf.gate.decisions", "decision", "outcome") == [("promoted", "reused")]
    assert second.counted("carclf.submissions", "stage") == []


def test_a_counter_is_exported_as_zero_before_it_counts(telemetry: Telemetry) -> None:
    for stage in telemetry.results:
        points = [point for point in telemetry.first.points if point.name == STAGE_RUNS.name
                  and (point.labels["stage"], point.labels["outcome"]) == (stage, "created")]
        assert (points[0].value, points[-1].value) == (0, 1)
        assert points[0].time < points[-1].time


def test_labels_are_few_and_do_not_contain_the_run_id(telemetry: Telemetry) -> None:
    points = [*telemetry.first.points, *telemetry.second.points]
    assert {label for point in points for label in point.labels} <= {
        "stage", "recipe", "outcome", "decision", "error.type", "hw.id"}
    assert not {"first", "second"} & {value for point in points for value in point.labels.values()}
    instances = {(resource["service.name"], resource["service.instance.id"]) for resource in telemetry.first.resources}
    assert instances == {("carclf", socket.gethostname())}


@pytest.mark.parametrize(("error", "error_type"), [
    (DataError("message"), "DataError"), (MemoryError(), "MemoryError"), (KeyboardInterrupt(), "KeyboardInterrupt"),
    (ZeroDivisionError(), "_OTHER"),
])
def test_a_failed_stage_is_counted_with_its_type_of_error(
    receiver: OtlpReceiver, error: BaseException, error_type: str
) -> None:
    with pytest.raises(type(error)), export_stage_metrics("split", "demo", NOW):
        raise error
    assert receiver.counted(STAGE_RUNS.name, "stage", "outcome", "error.type") == [("split", "failed", error_type)]


def test_a_failed_stage_of_a_run_is_counted_and_its_error_is_raised(receiver: OtlpReceiver, tmp_path: Path) -> None:
    run = Run.start_or_resume("r", open_store(str(tmp_path)), "demo", load_config("demo"))
    with pytest.raises(ConfigError, match="validate"):
        run.run_stage("split")
    assert receiver.counted(STAGE_RUNS.name, "stage", "outcome", "error.type") == [("split", "failed", "ConfigError")]


def test_a_waiting_stage_is_counted_as_waiting_without_a_score(receiver: OtlpReceiver) -> None:
    with export_stage_metrics("score", "demo", NOW) as report_outcome:
        report_outcome("waiting", {"public_score": ""})
    assert receiver.counted(STAGE_RUNS.name, "outcome") == [("waiting",)]
    assert "carclf.public_score" not in {point.name for point in receiver.points}


def test_a_running_stage_exports_its_elapsed_time_and_that_of_its_run(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    def elapsed() -> list[float]:
        points = sorted(receiver.points, key=lambda point: point.time)
        return [point.value for point in points if point.name == "carclf.stage.elapsed"]

    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "100")
    run_started = datetime.fromisoformat(NOW) - timedelta(hours=30)
    with export_stage_metrics("fine_tune", "demo", run_started.isoformat()):
        clock.seconds = 7.5
        receiver.wait_until(lambda: 7.5 in elapsed())
        clock.seconds = 60.0
        receiver.wait_until(lambda: 60.0 in elapsed())
    assert set(elapsed()) - {0.0} == {7.5, 60.0}  # the first export may precede 7.5
    assert elapsed() == sorted(elapsed())
    assert receiver.last("carclf.run.elapsed") == 30 * 3600 + 60


def test_the_duration_of_a_stage_is_exported_with_its_outcome(receiver: OtlpReceiver, clock: Clock) -> None:
    clock.seconds = 100.0
    with export_stage_metrics("split", "demo", NOW) as report_outcome:
        clock.seconds += 42.5
        report_outcome("created", {})
    assert receiver.last("carclf.stage.duration", stage="split", outcome="created") == 42.5


def warnings_of_two_stages(
    endpoint: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> list[str]:
    """Run two stages without work, and return their log lines."""
    export_error_filter.reset()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    caplog.set_level(logging.INFO)
    for _ in range(2):
        with export_stage_metrics("split", "demo", NOW) as report_outcome:
            report_outcome("created", {})
    return [record.getMessage() for record in caplog.records]


def test_an_unreachable_endpoint_logs_one_warning_without_the_password(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://user:secret@127.0.0.1:{closed.getsockname()[1]}"
        (line,) = warnings_of_two_stages(url, monkeypatch, caplog)
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in line
    assert "secret" not in line


@pytest.mark.timeout(300)
def test_a_stage_ends_while_its_endpoint_does_not_respond(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts connections and never responds
        lines = warnings_of_two_stages(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch, caplog)
    assert [line for line in lines if "OTEL_EXPORTER_OTLP_ENDPOINT" in line] == lines
    assert len(lines) == 1


def test_a_server_without_an_otlp_receiver_is_reported_with_its_status(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, random_bytes_competition: Competition
) -> None:
    with DemoServer(random_bytes_competition, scoring_seconds=0) as other:
        (line,) = warnings_of_two_stages(other.url, monkeypatch, caplog)
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in line
    assert "status 4" in line


@pytest.mark.parametrize(("name", "value"), [
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "nonsense"), ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
    ("OTEL_METRIC_EXPORT_INTERVAL", "often"), ("OTEL_EXPORTER_OTLP_COMPRESSION", "lz99"),
    ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere.pem"),
])
def test_an_invalid_variable_logs_a_warning_and_the_stage_succeeds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, value: str
) -> None:
    export_error_filter.reset()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:9")
    monkeypatch.setenv(name, value)
    with export_stage_metrics("split", "demo", NOW) as report_outcome:
        report_outcome("created", {})
    assert {record.levelname for record in caplog.records} == {"WARNING"}  # carclf's, or OpenTelemetry's


def test_without_an_endpoint_opentelemetry_is_not_imported() -> None:
    code = ("import sys, carclf.cli.app\n"
            "from carclf.services.telemetry import export_stage_metrics\n"
            f"with export_stage_metrics('split', 'demo', '{NOW}') as report_outcome: report_outcome('created', {{}})\n"
            "sys.exit(any(name.partition('.')[0] in ('opentelemetry', 'pynvml') for name in sys.modules))")
    done = subprocess.run([sys.executable, "-c", code], env={"PATH": "", "PYTHONPATH": ":".join(sys.path)}, check=False)
    assert done.returncode == 0
