"""MLflow after runs of real stages, with a server on loopback, and with servers that fail or hang."""

import json
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from gate_candidates import Candidate, build_candidate
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowEntity
from mlflow_test_server import mlflow_server
from small_runs import SMALL, reload_in_this_process
from typer.testing import CliRunner

from carclf.cli.app import app
from carclf.config import iter_settings, load_config
from carclf.errors import ConfigError
from carclf.runs.run import Run
from carclf.services.mlflow import MlflowRun, RunDescription, background
from carclf.services.mlflow.background import DEFAULT_ENVIRONMENT, THREAD_NAME, Outage
from carclf.services.storage import FolderStore, Store, init_store, open_store
from carclf.stages.chain import stages_of

pytestmark = pytest.mark.integration

AIRFLOW_RUN_URL = "http://localhost:8080/dags/car_retrain/runs/manual__1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as url:
        yield url


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reset the state that a process keeps about MLflow."""
    for name in [*DEFAULT_ENVIRONMENT, "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "CARCLF_AIRFLOW_RUN_URL"]:
        monkeypatch.setenv(name, "")  # so that monkeypatch restores what carclf sets
        monkeypatch.delenv(name)
    monkeypatch.setattr(background, "outage", Outage())
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def be_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for the server as long as a busy machine needs."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    monkeypatch.setattr(background, "WAIT_SECONDS", 120.0)


@pytest.fixture
def client(server: str, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """Enable MLflow, and return a client."""
    be_patient(monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    return MlflowClient(server)


class LossyStore(FolderStore):
    """A folder whose disk is full when the third checkpoint is written."""

    num_checkpoints = 0

    def upload(self, path: Path, key: str) -> None:
        if key.startswith("checkpoints/"):
            self.num_checkpoints += 1
            if self.num_checkpoints == 3:
                raise ConfigError("the disk is full")
        super().upload(path, key)


def runs_of(client: MlflowClient, experiment: str) -> list[MlflowEntity]:
    entity = client.get_experiment_by_name(experiment)
    assert entity is not None
    return list(client.search_runs([entity.experiment_id]))


def steps(client: MlflowClient, run: MlflowEntity, name: str) -> list[int]:
    return [metric.step for metric in client.get_metric_history(run.info.run_id, name)]


def files_of(client: MlflowClient, run: MlflowEntity) -> dict[str, list[str]]:
    def names(path: str) -> list[str]:
        return [Path(file.path).name for file in client.list_artifacts(run.info.run_id, path)]

    return {folder: names(folder) for folder in names("")}


@pytest.fixture(scope="module")
def chain(cars: Any, server: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, MlflowEntity]:
    """A run without submission, whose training was interrupted after an epoch without a checkpoint."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        be_patient(patch)
        reload_in_this_process(patch)
        for name, value in {"CARCLF_KAGGLE_ENDPOINT": cars[1].url, "KAGGLE_API_TOKEN": "demo-key",
                            "CARCLF_CACHE": str(tmp_path_factory.getbasetemp() / "cache"),
                            "MLFLOW_TRACKING_URI": server, "CARCLF_AIRFLOW_RUN_URL": AIRFLOW_RUN_URL}.items():
            patch.setenv(name, value)
        config = load_config("demo", SMALL | {"fine_tune.epochs": 3, "audit.enabled": True})
        for stage in stages_of({}):
            run = Run.start_or_resume("chain", LossyStore(folder), "demo", config)  # as the process of each stage does
            if stage == "fine_tune":
                with pytest.raises(ConfigError, match="the disk is full"):
                    run.run_stage(stage)
                (failed,) = runs_of(MlflowClient(server), "cars")
                run = Run.load("chain", open_store(str(folder)))
            if run.run_stage(stage).skip_reason:
                break
    return open_store(str(folder)), failed


@pytest.mark.timeout(600)
def test_all_stages_of_a_run_share_one_mlflow_run(
    chain: tuple[Store, MlflowEntity], client: MlflowClient
) -> None:
    (run,) = runs_of(client, "cars")
    record = Run.load("chain", chain[0]).record
    assert (run.info.run_name, run.info.status) == ("chain", "FINISHED")
    assert set(run.data.params) == {"recipe", *(name for name, _ in iter_settings())}
    assert (run.data.params["fine_tune.epochs"], run.data.params["data.source"]) == ("3", "cars")
    tags = run.data.tags
    assert {name: tags[name] for name in ("carclf.run", "carclf.created", "carclf.store", "airflow_run_url")} == {
        "carclf.run": "chain", "carclf.created": record["created"], "carclf.store": chain[0].url,
        "airflow_run_url": AIRFLOW_RUN_URL}
    assert tags["promote.decision"] == "promoted"
    assert {stage: tags[f"carclf.{stage}"] for stage in record["stages"]} == {
        stage: result["key"] for stage, result in record["stages"].items()}
    assert run.data.metrics["evaluate.val_accuracy"] == record["stages"]["evaluate"]["metrics"]["val_accuracy"]


def test_a_resumed_training_has_one_point_per_epoch(
    chain: tuple[Store, MlflowEntity], client: MlflowClient
) -> None:
    failed, (run,) = chain[1], runs_of(client, "cars")
    assert (failed.info.run_id, failed.info.status) == (run.info.run_id, "FAILED")
    assert failed.data.tags["error"] == "fine_tune: ConfigError: the disk is full"
    assert steps(client, failed, "fine_tune/val_accuracy")[:2] == [1, 2]  # the second epoch had no checkpoint
    for column in ("loss", "val_loss", "val_accuracy", "learning_rate", "images_per_second"):
        assert steps(client, run, f"fine_tune/{column}") == [1, 2, 3]
    assert steps(client, run, "train_head/val_loss") == [1, 2, 3]
    assert steps(client, run, "evaluate.val_accuracy") == [0]
    assert "error" not in {name for name, value in run.data.tags.items() if value}


def test_reports_are_uploaded_and_the_model_is_not(
    chain: tuple[Store, MlflowEntity], client: MlflowClient
) -> None:
    store, (run,) = chain[0], runs_of(client, "cars")
    assert files_of(client, run) == {
        "validate": ["report.html", "report.json"], "split": ["leaks.json"],
        "train_head": ["curves.png", "history.csv", "report.html"], "fine_tune": ["curves.png", "history.csv"],
        "evaluate": ["evaluation.json", "report.html"], "promote": ["decision.json", "report.html"],
        "model": ["manifest.json"],
    }
    manifest = json.loads(Path(client.download_artifacts(run.info.run_id, "model/manifest.json")).read_text())
    champion = client.get_model_version_by_alias("cars", "champion")
    assert (champion.run_id, champion.source) == (run.info.run_id, f"runs:/{run.info.run_id}/model")
    assert champion.tags == {"carclf.model": manifest["key"], "carclf.run": "chain",
                             "carclf.url": f"{store.url}/models/{manifest['key']}"}
    assert champion.description.startswith("promoted: accuracy")


def test_repeating_a_stage_changes_nothing_in_mlflow(
    chain: tuple[Store, MlflowEntity], client: MlflowClient, kaggle_environment: None
) -> None:
    (before,) = runs_of(client, "cars")
    for stage in ("fine_tune", "promote"):
        assert Run.load("chain", chain[0]).run_stage(stage).reused
    (after,) = runs_of(client, "cars")
    assert (after.data.params, after.data.metrics, after.data.tags, after.info.status) == (
        before.data.params, before.data.metrics, before.data.tags, before.info.status)
    num_points = {name: len(steps(client, after, name)) for name in after.data.metrics}
    assert num_points == {name: 3 if "/" in name else 1 for name in after.data.metrics}
    assert [version.version for version in client.search_model_versions("name = 'cars'")] == ["1"]


def save_evaluated_run(store: Store, name: str, wrong: Any, competition: str) -> Candidate:
    """Save a run up to evaluate, without MLflow."""
    config = load_config("demo", {"data.source": competition, "gate.champion_rule": "off"})
    candidate = build_candidate(store, name, wrong, config=config)
    run = Run.start_or_resume(name, store, "demo", config)
    run.record["stages"] = {stage: {"key": artifact.key, "metrics": artifact.metrics, "seconds": 1.0, "reused": False}
                            for stage, artifact in (("download", candidate.archive), ("split", candidate.split),
                                                    ("fine_tune", candidate.model),
                                                    ("evaluate", candidate.evaluation))}
    store.write(f"runs/{name}.json", json.dumps(run.record).encode())
    return candidate


def champion_key(client: MlflowClient, name: str) -> str:
    return str(client.get_model_version_by_alias(name, "champion").tags["carclf.model"])


def test_the_alias_follows_promotions_and_rollbacks(client: MlflowClient, tmp_path: Path) -> None:
    store = init_store(str(tmp_path / "store"))
    first = save_evaluated_run(store, "first", [0, 1], "rolled")
    second = save_evaluated_run(store, "second", [1], "rolled")
    seen = []
    for name in ("first", "second"):
        Run.load(name, store).run_stage("promote")
        seen.append(champion_key(client, "rolled"))
    done = CliRunner().invoke(app, ["champion", "rollback", "--store", store.url, "--by", "ada"])
    assert done.exit_code == 0, done.output
    assert [*seen, champion_key(client, "rolled")] == [first.model.key, second.model.key, first.model.key]
    assert len(client.search_model_versions("name = 'rolled'")) == 2


def test_a_champion_promoted_without_mlflow_is_registered_later(
    client: MlflowClient, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = init_store(str(tmp_path / "store"))
    first = save_evaluated_run(store, "first", [0, 1], "late")
    save_evaluated_run(store, "second", [1], "late")
    with monkeypatch.context() as off:
        off.delenv("MLFLOW_TRACKING_URI")
        for name in ("first", "second"):
            Run.load(name, store).run_stage("promote")
    assert client.get_experiment_by_name("late") is None
    assert CliRunner().invoke(app, ["champion", "rollback", "--store", store.url]).exit_code == 0
    (run,) = runs_of(client, "late")
    assert champion_key(client, "late") == first.model.key
    assert (run.info.run_name, run.data.metrics["evaluate.val_accuracy"]) == (
        "first", first.evaluation.metrics["val_accuracy"])


def test_a_store_in_s3_is_the_source_of_the_registered_model(client: MlflowClient, aws: None) -> None:
    import boto3

    boto3.client("s3").create_bucket(Bucket="cars")
    store = open_store("s3://cars/store")
    candidate = save_evaluated_run(store, "first", [0], "in-s3")
    Run.load("first", store).run_stage("promote")
    assert client.get_model_version_by_alias("in-s3", "champion").source == f"s3://cars/store/models/{candidate.model.key}"


def test_simultaneous_workers_end_with_one_mlflow_run(client: MlflowClient) -> None:
    description = RunDescription("at-once", "r", "2026-01-01T00:00:00+00:00", {"seed": 1}, {})
    MlflowRun(RunDescription("at-once", "other", "", {}, {}))  # creates the experiment
    with ThreadPoolExecutor(4) as pool:
        created = list(pool.map(MlflowRun, [description] * 4))
        remaining = list(pool.map(MlflowRun.deduplicated, created))
    run_ids = [run.info.run_id for run in runs_of(client, "at-once") if run.info.run_name == "r"]
    assert run_ids == [remaining[0].id]
    assert {run.id for run in remaining} == set(run_ids)


def test_the_earlier_of_two_simultaneously_created_runs_remains(client: MlflowClient) -> None:
    later = MlflowRun(RunDescription("moment", "r", "2026-01-01T00:00:00+00:00", {"seed": 1}, {}))
    started = client.get_run(later.id).info
    other = client.create_run(  # started before, but visible only now
        started.experiment_id, started.start_time - 5,
        {"carclf.run": "r", "carclf.created": "2026-01-01T00:00:00+00:00"}).info.run_id
    assert later.deduplicated().id == other
    (run,) = runs_of(client, "moment")
    assert (run.info.run_id, run.data.params) == (other, {"seed": "1"})


def test_the_same_run_id_in_two_stores_creates_two_mlflow_runs(client: MlflowClient) -> None:
    for number, created in enumerate(("2026-01-01T00:00:00+00:00", "2026-01-08T00:00:00+00:00")):
        MlflowRun(RunDescription("two-stores", "scheduled__1", created, {"seed": number}, {}))
    assert sorted(run.data.params["seed"] for run in runs_of(client, "two-stores")) == ["0", "1"]


def promote(store: Store) -> str:
    """Promote a saved run, and return the decision."""
    return str(Run.load("r", store).run_stage("promote").metrics["decision"])


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_an_unreachable_server_logs_one_warning_without_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:secret@127.0.0.1:9")
    store = open_store(str(tmp_path / "store"))
    save_evaluated_run(store, "r", [0], "cars")
    assert promote(store) == "promoted"
    promote(store)
    (warning,) = warnings(caplog)
    assert warning.startswith("MLflow at http://127.0.0.1:9: ")
    assert "secret" not in caplog.text


@pytest.mark.timeout(300)
def test_a_server_that_never_responds_does_not_delay_a_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The stages end while the requests are still open, and the second stage makes none."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "100")
    monkeypatch.setattr(background, "WAIT_SECONDS", 1.0)
    store = open_store(str(tmp_path / "store"))
    save_evaluated_run(store, "r", [0], "cars")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        assert promote(store) == "promoted"
        waiting = [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]
        promote(store)
        assert [thread.is_alive() for thread in waiting] == [True]
    for thread in waiting:  # the thread ends when its requests have failed
        thread.join()
    (warning,) = warnings(caplog)
    assert warning.startswith(f"MLflow at {url}: ")


def test_a_server_gets_the_data_that_it_missed_during_an_outage(
    client: MlflowClient, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = open_store(str(tmp_path / "store"))
    save_evaluated_run(store, "r", [0], "missed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    Run.load("r", store).run_stage("promote")
    monkeypatch.setattr(background, "outage", Outage())  # as if two minutes had passed
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    Run.load("r", store).run_stage("promote")
    (run,) = runs_of(client, "missed")
    assert run.data.tags["promote.decision"] == "promoted"
    assert run.data.metrics["evaluate.val_accuracy"] > 0.9
    assert files_of(client, run)["evaluate"] == ["evaluation.json"]
    assert len(warnings(caplog)) == 1


def test_mlflow_is_not_imported_without_its_variable(tmp_path: Path) -> None:
    code = ("import sys\nfrom carclf.runs.mlflow_mirror import mirror_to_mlflow\n"
            "from carclf.services.storage import open_store\n"
            f"with mirror_to_mlflow(dict, open_store({str(tmp_path)!r}), 'download'): pass\n"
            "assert not [name for name in sys.modules if name.startswith('mlflow')]")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_a_missing_mlflow_package_logs_one_warning(tmp_path: Path) -> None:
    code = ("import sys\nsys.modules['mlflow'] = None  # as if it were not installed\n"
            "from carclf.runs.mlflow_mirror import mirror_to_mlflow\nfrom carclf.services.storage import open_store\n"
            f"for _ in 'ab':\n with mirror_to_mlflow(dict, open_store({str(tmp_path)!r}), 'download'): print('ran')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True,
                          env={"PATH": "", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
                               "PYTHONPATH": ":".join(sys.path)})
    assert done.stdout.split() == ["ran", "ran"] and done.stderr.count("MLflow at http://127.0.0.1:9: ") == 1
