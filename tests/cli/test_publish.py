"""``carclf publish``: to a folder, a bucket, the demo server's models and a real MLflow server; each of them once."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow_test_server import mlflow_server
from typer.testing import CliRunner

from carclf.artifacts import Model, Provenance, RefittedModel
from carclf.champion import champion_model, ensure_state, record_promotion, record_refit, roll_back
from carclf.cli.app import app
from carclf.demo.kaggle_models import VariationEntry
from carclf.demo.server import DemoServer, Fault
from carclf.errors import ConfigError, ServiceError
from carclf.inference.runtimes import LOADERS
from carclf.publishing import folder as folder_publishing
from carclf.publishing import kaggle as kaggle_publishing
from carclf.publishing import publish as publish_module
from carclf.publishing.publish import Published, publish
from carclf.runs.run import Run
from carclf.services.mlflow import background
from carclf.services.mlflow.background import DEFAULT_ENVIRONMENT, Outage
from carclf.services.storage import FolderStore, Store, open_store

pytestmark = pytest.mark.integration

KAGGLE_MODEL = "demo/cars"


class Killed(BaseException):
    """Ends the process at a step of the publication, like SIGKILL: no handler of errors sees it."""


@pytest.fixture(autouse=True)
def keras_format_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARCLF_PUBLISH_FORMATS", "keras")


@pytest.fixture(scope="module")
def exports_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(autouse=True)
def export_counter(exports_folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that were exported. Each is exported once per choice of formats, and checked in this process."""
    from carclf.export import bundle, formats

    original = bundle.export_model
    exported: list[str] = []

    def export(folder: Path, selected: Any, names: Any, store: Store) -> dict[str, float]:
        kept = exports_folder / "-".join([selected.model.key, *sorted(names)])
        formats.require_formats(names)
        if not kept.exists():
            original(kept, selected, names, store)
        shutil.copytree(kept, folder)
        exported.append(selected.model.key)
        return {}

    monkeypatch.setattr(
        formats, "predict_logits", lambda name, path, images: LOADERS[name](path)(images.astype("float32")))
    monkeypatch.setattr(bundle, "export_model", export)
    return exported


@pytest.fixture
def target(store_url: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A folder and a bucket to publish to."""
    monkeypatch.setenv("CARCLF_PUBLISH_FOLDER", store_url)
    return open_store(store_url)


def content(target: Store) -> dict[str, bytes]:
    return {key: stored.data for key in target.list_keys() if (stored := target.read(key))}


def latest(target: Store) -> dict[str, Any]:
    stored = target.read("latest.json")
    assert stored
    return dict(json.loads(stored.data))


def assert_complete(target: Store) -> str:
    """Assert that the files which ``latest.json`` names exist with their checksums; return the model."""
    manifest = latest(target)
    for file in manifest["files"]:
        stored = target.read(f"{manifest['folder']}/{file['path']}")
        assert stored and hashlib.sha256(stored.data).hexdigest() == file["sha256"]
        assert len(stored.data) == file["num_bytes"]
    return str(manifest["model"])


def champion_key(store: Store) -> str:
    model = champion_model(store)
    assert model
    return model.key


def promote_run(store: Store, run: str) -> str:
    """Make the model of another run the champion; return its key."""
    model = Run.load(run, store).artifact(Model, "fine_tune")
    event = {"model": model.key, "decision": "d", "run": run}
    assert record_promotion(store, event, ensure_state(store, 0.5))
    return model.key


def test_a_target_that_is_not_configured_is_skipped_with_the_reason(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done = CliRunner().invoke(app, ["publish", "--store", store.url, "--result", str(tmp_path / "r.json")])
    assert done.exit_code == 99, done.output
    reasons = {outcome["target"]: outcome["skip_reason"] for outcome in json.loads((tmp_path / "r.json").read_text())}
    assert reasons == {"folder": "CARCLF_PUBLISH_FOLDER is not set", "kaggle": "CARCLF_PUBLISH_KAGGLE_MODEL is not set",
                       "mlflow": "MLFLOW_TRACKING_URI is not set"}
    assert [done.stdout.count(reason) for reason in reasons.values()] == [1, 1, 1]
    assert not [record for record in caplog.records if "skipped" in record.message]  # printed once


def test_a_store_without_a_champion_publishes_nothing(tmp_path: Path, target: Store) -> None:
    outcome = publish(open_store(tmp_path / "empty"), "folder")
    assert "no champion" in outcome.skip_reason and list(target.list_keys()) == []


def test_an_unknown_target_raises_config_error(store: Store) -> None:
    done = CliRunner().invoke(app, ["publish", "--store", store.url, "--target", "torrent"])
    assert isinstance(done.exception, ConfigError)


class TestFolder:
    """Publishing to a folder or bucket."""

    def test_the_latest_champion_has_its_files_a_card_and_checksums(self, store: Store, target: Store) -> None:
        outcome = publish(store, "folder")
        manifest = latest(target)
        assert assert_complete(target) == champion_key(store) == manifest["measured"] == outcome.model
        assert (outcome.location, outcome.reused) == (f"{target.url}/{manifest['folder']}", False)
        assert [file["path"] for file in manifest["files"]] == ["export.json", "model.keras", "model_card.md"]
        sums = target.read(f"{manifest['folder']}/SHA256SUMS")
        assert sums and sums.data.decode().splitlines()[1] == f"{manifest['files'][1]['sha256']}  model.keras"

    def test_the_documented_reader_accepts_the_files(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CARCLF_PUBLISH_FOLDER", str(tmp_path))
        publish(store, "folder")
        text = (Path(__file__).parents[2] / "docs/publishing.md").read_text()
        (code,) = re.findall(r"```python\n(import hashlib.*?)```", text, re.DOTALL)
        variables: dict[str, Any] = {}
        exec(code.replace("/models/cars", str(tmp_path)), variables)
        assert variables["latest"]["model"] == champion_key(store)

    def test_publishing_again_changes_nothing(self, store: Store, target: Store, export_counter: list[str]) -> None:
        publish(store, "folder")
        before = content(target)
        assert publish(store, "folder").reused
        assert content(target) == before and len(export_counter) == 1

    def test_a_rollback_moves_the_pointer_only(
        self, store_copy: Store, target: Store, export_counter: list[str]
    ) -> None:
        first = champion_key(store_copy)
        publish(store_copy, "folder")
        second = promote_run(store_copy, "seed-1")
        publish(store_copy, "folder")
        assert assert_complete(target) == second
        before = content(target)
        roll_back(store_copy)
        assert not publish(store_copy, "folder").reused
        assert assert_complete(target) == first and len(export_counter) == 2
        assert {key for key, data in content(target).items() if data != before[key]} == {"latest.json"}

    def test_a_process_killed_at_any_write_leaves_the_pointer_on_a_complete_model(
        self, store_copy: Store, target: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = champion_key(store_copy)
        publish(store_copy, "folder")
        second = promote_run(store_copy, "seed-1")
        kind = type(target)
        for step in range(1, 20):
            writes = WritesUntilKilled(step)
            with monkeypatch.context() as patch:
                for name in ("upload", "write_if"):
                    patch.setattr(kind, name, writes.wrap(getattr(kind, name)))
                try:
                    publish(store_copy, "folder")
                except Killed:
                    assert assert_complete(target) == first
                    continue
            break
        assert step == 7  # after the check, three files, the checksums and the manifest; the pointer was left
        assert assert_complete(target) == second
        assert publish(store_copy, "folder").reused
        assert len([key for key in target.list_keys() if key.endswith("manifest.json")]) == 2

    @pytest.mark.parametrize(("module", "name"), [
        (publish_module, "publish_settings"), (folder_publishing, "_upload_model")], ids=["before", "during"])
    def test_a_champion_that_changes_before_or_during_the_export_is_not_announced(
        self, module: Any, name: str, store_copy: Store, target: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = getattr(module, name)

        def change_champion(*arguments: Any) -> Any:
            result = original(*arguments)
            promote_run(store_copy, "seed-1")
            return result

        monkeypatch.setattr(module, name, change_champion)
        with pytest.raises(ServiceError, match="champion changed"):
            publish(store_copy, "folder")
        assert target.read("latest.json") is None

    def test_a_slower_process_uses_the_files_of_the_faster_one(
        self, store: Store, target: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two exports of a model may differ, as SavedModels do."""
        read_manifest = folder_publishing._read_manifest
        read: list[int] = []

        def miss_once(*arguments: Any) -> Any:
            read.append(1)
            return None if len(read) == 1 else read_manifest(*arguments)

        publish(store, "folder")
        before = latest(target)
        monkeypatch.setattr(folder_publishing, "_read_manifest", miss_once)
        monkeypatch.setattr(folder_publishing, "fingerprint", lambda **_: "0123456789abcdef")
        assert publish(store, "folder").location == f"{target.url}/{before['folder']}"
        assert latest(target) == before

    def test_a_refitted_model_is_published_for_its_champion(
        self, store_copy: Store, target: Store, export_counter: list[str]
    ) -> None:
        measured = champion_model(store_copy)
        assert measured
        publish(store_copy, "folder")
        refitted = refit_copy(store_copy, measured)
        assert not publish(store_copy, "folder").reused
        manifest = latest(target)
        assert (manifest["model"], manifest["measured"]) == (refitted.key, measured.key)
        card = target.read(f"{manifest['folder']}/model_card.md")
        assert card and b"cannot be measured" in card.data and measured.key.encode() in card.data

    def test_other_formats_are_published_again(
        self, store: Store, target: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish(store, "folder")
        before = latest(target)
        monkeypatch.setenv("CARCLF_PUBLISH_FORMATS", "litert, keras")
        assert not publish(store, "folder").reused
        assert assert_complete(target) == champion_key(store)
        assert {file["path"] for file in latest(target)["files"]} - {file["path"] for file in before["files"]} == {
            "model.tflite"}
        monkeypatch.setenv("CARCLF_PUBLISH_FORMATS", "keras,litert")
        assert publish(store, "folder").reused

    @pytest.mark.parametrize("path", ["", "/models"])
    def test_a_folder_in_the_store_raises_config_error(
        self, store: Store, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CARCLF_PUBLISH_FOLDER", store.url + path)
        with pytest.raises(ConfigError, match=r"CARCLF_PUBLISH_FOLDER.*in the store"):
            publish(store, "folder")

    @pytest.mark.parametrize("folder", ["s3:/models", "https://bucket/models", "S3://models"])
    def test_a_mistyped_url_is_not_a_folder(self, store: Store, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CARCLF_PUBLISH_FOLDER", folder)
        with pytest.raises(ConfigError, match=r"CARCLF_PUBLISH_FOLDER.*s3://bucket/prefix"):
            publish(store, "folder")

    def test_an_unknown_format_names_the_variable(
        self, store: Store, target: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CARCLF_PUBLISH_FORMATS", "keras,pickle")
        with pytest.raises(ConfigError, match=r"'pickle'.*CARCLF_PUBLISH_FORMATS") as raised:
            publish(store, "folder")
        assert "--format" not in str(raised.value)
        assert list(target.list_keys()) == []

    @pytest.mark.parametrize("folder", ["/proc/missing/models", "s3://missing-bucket/models"])
    def test_a_folder_that_cannot_be_written_is_found_before_the_export(
        self, folder: str, store: Store, target: Store, export_counter: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CARCLF_PUBLISH_FOLDER", folder)
        with pytest.raises(ConfigError, match="CARCLF_PUBLISH_FOLDER") as raised:
            publish(store, "folder")
        assert "--store" not in str(raised.value)
        assert export_counter == []


@pytest.mark.acceptance
def test_a_killed_process_is_completed_by_the_next(store: Store, tmp_path: Path) -> None:
    """SIGKILL to a real process when the first of its files appears."""
    published = tmp_path / "published"
    environment = os.environ | {"CARCLF_PUBLISH_FOLDER": str(published), "CARCLF_PUBLISH_FORMATS": "keras"}
    command = [sys.executable, "-m", "carclf", "publish", "--store", store.url, "--target", "folder"]
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    while not any(path.is_file() and path.parent.parent.parent == published for path in published.rglob("*")):
        assert process.poll() is None
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (published / "latest.json").exists()
    subprocess.run(command, env=environment, check=True)
    target = open_store(published)
    assert assert_complete(target) == champion_key(store)
    folder = published / latest(target)["folder"]
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)


class WritesUntilKilled:
    """Lets writes to a store happen until the given number, and kills the process before or after that one."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.num_done = 0

    def wrap(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def count(*arguments: Any, **options: Any) -> Any:
            result = write(*arguments, **options)
            self.num_done += 1
            if self.num_done == self.step:
                raise Killed
            return result

        return count


def refit_copy(store: Store, measured: Model) -> RefittedModel:
    """Record a refitted model with the files of the measured one."""
    inputs = {**measured.inputs, "measured": measured.key}
    refitted = RefittedModel(key=Provenance(1, inputs, {}).key(RefittedModel), inputs=inputs,
                             settings=measured.settings, files=measured.files, metrics=measured.metrics, seconds=1.0)
    assert store.write_if(RefittedModel.manifest_path(refitted.key), refitted.to_manifest(), None)
    record_refit(store, refitted)
    return refitted


@pytest.fixture
def kaggle(
    kaggle_server: DemoServer, monkeypatch: pytest.MonkeyPatch
) -> DemoServer:
    """A Kaggle server without models, to which the champion is published."""
    monkeypatch.setenv("CARCLF_PUBLISH_KAGGLE_MODEL", KAGGLE_MODEL)
    monkeypatch.setenv("CARCLF_PUBLISH_KAGGLE_LICENSE", "Apache 2.0")
    return kaggle_server


def variation(server: DemoServer) -> VariationEntry:
    (entry,) = server.models.models["cars"].values()
    return entry


def published_models(server: DemoServer) -> list[str]:
    """The models of the versions, oldest first."""
    if not server.models.models.get("cars"):
        return []
    markers = [next(name for name in version.files if name.startswith("carclf-"))
               for version in variation(server).versions]
    return [name.removeprefix("carclf-").removesuffix(".json") for name in markers]


class TestKaggle:
    """Publishing to Kaggle Models."""

    def test_the_first_champion_creates_a_private_model_with_its_card(
        self, store_copy: Store, kaggle: DemoServer
    ) -> None:
        key = champion_key(store_copy)
        outcome = publish(store_copy, "kaggle")
        assert outcome == Published("kaggle", key, "https://www.kaggle.com/models/demo/cars/keras/champion")
        entry = variation(kaggle)
        assert sorted(entry.versions[0].files) == [f"carclf-{key}.json", "export.json", "model.keras", "model_card.md"]
        assert entry.overview == f"The champion is version 1, model {key}."
        assert entry.usage.startswith("# Image classifier") and entry.license_name == "Apache 2.0"

    def test_the_next_champion_is_a_version_and_a_rollback_is_not(
        self, store_copy: Store, kaggle: DemoServer, export_counter: list[str]
    ) -> None:
        first = champion_key(store_copy)
        publish(store_copy, "kaggle")
        second = promote_run(store_copy, "seed-1")
        publish(store_copy, "kaggle")
        assert published_models(kaggle) == [first, second]
        assert variation(kaggle).overview == f"The champion is version 2, model {second}."
        roll_back(store_copy)
        assert publish(store_copy, "kaggle").reused
        assert published_models(kaggle) == [first, second] == export_counter
        assert variation(kaggle).overview == f"The champion is version 1, model {first}."
        assert first in variation(kaggle).usage

    def test_a_new_variation_needs_a_license(
        self, store_copy: Store, kaggle: DemoServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("CARCLF_PUBLISH_KAGGLE_LICENSE")
        with pytest.raises(ConfigError, match="CARCLF_PUBLISH_KAGGLE_LICENSE"):
            publish(store_copy, "kaggle")
        assert kaggle.calls["CreateModel"] == 0

    @pytest.mark.parametrize(("method", "kind"), [
        ("CreateModelInstance", "drop"), ("CreateModelInstance", "drop_after"),
        ("CreateModelInstanceVersion", "status"), ("CreateModelInstanceVersion", "status_after"),
        ("CreateModelInstanceVersion", "html")])
    def test_a_lost_response_publishes_one_version(
        self, method: str, kind: Any, store_copy: Store, kaggle: DemoServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:  # fmt: skip
        expected = [champion_key(store_copy)]
        if method == "CreateModelInstanceVersion":
            publish(store_copy, "kaggle")
            expected.append(promote_run(store_copy, "seed-1"))
        kaggle.faults = [Fault(method, kind)]
        arrived = kind.endswith("_after")
        outcome = publish(store_copy, "kaggle")
        assert bool(outcome.waiting) != arrived
        assert published_models(kaggle) == (expected if arrived else expected[:-1])
        assert bool(publish(store_copy, "kaggle").waiting) != arrived
        now = time.time() + timedelta(minutes=16).total_seconds()
        monkeypatch.setattr(kaggle_publishing.time, "time", lambda: now)
        assert publish(store_copy, "kaggle").model == expected[-1]
        assert publish(store_copy, "kaggle").reused
        assert published_models(kaggle) == expected

    def test_a_version_that_is_listed_late_is_not_created_again(
        self, store_copy: Store, kaggle: DemoServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish(store_copy, "kaggle")
        first, second = champion_key(store_copy), promote_run(store_copy, "seed-1")
        kaggle.models.list_lag_seconds = 3600.0
        kaggle.faults = [Fault("CreateModelInstanceVersion", "drop_after")]
        outcome = publish(store_copy, "kaggle")
        assert "unknown" in outcome.waiting and outcome.until
        assert publish(store_copy, "kaggle").waiting
        variation(kaggle).versions[1].listed_at = 0.0
        assert publish(store_copy, "kaggle").reused
        assert published_models(kaggle) == [first, second]

    def test_a_confirmed_version_is_not_created_again_before_it_is_listed(
        self, store_copy: Store, kaggle: DemoServer
    ) -> None:
        publish(store_copy, "kaggle")
        second = promote_run(store_copy, "seed-1")
        kaggle.models.list_lag_seconds = 3600.0
        publish(store_copy, "kaggle")
        assert publish(store_copy, "kaggle").reused
        assert variation(kaggle).overview == f"The champion is model {second}."
        variation(kaggle).versions[1].listed_at = 0.0
        publish(store_copy, "kaggle")
        assert variation(kaggle).overview == f"The champion is version 2, model {second}."

    def test_a_process_killed_at_any_call_publishes_one_version(
        self, store_copy: Store, kaggle: DemoServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Killed after each call of Kaggle and each write to the store; in between, 16 minutes pass."""
        from carclf.services.kaggle.calls import ApiCalls

        first = champion_key(store_copy)
        clock = time.time()
        monkeypatch.setattr(kaggle_publishing.time, "time", lambda: clock)
        for step in range(1, 60):
            calls = WritesUntilKilled(step)
            with monkeypatch.context() as patch:
                patch.setattr(ApiCalls, "invoke", calls.wrap(ApiCalls.invoke))
                patch.setattr(FolderStore, "write_if", calls.wrap(FolderStore.write_if))
                try:
                    publish(store_copy, "kaggle")
                except Killed:
                    clock += timedelta(minutes=16).total_seconds()
                    continue
            break
        assert 5 < step < 59
        assert published_models(kaggle) == [first]
        assert publish(store_copy, "kaggle").reused
        assert variation(kaggle).overview == f"The champion is version 1, model {first}."

    def test_another_process_that_publishes_the_model_is_awaited(
        self, store_copy: Store, kaggle: DemoServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = kaggle_publishing._Record.replace

        def lose(record: Any, attempt: Any) -> bool:
            monkeypatch.setattr(kaggle_publishing._Record, "replace", original)
            other = kaggle_publishing._Record(record._store, record._key)
            assert other.replace(attempt)
            return original(record, attempt)

        monkeypatch.setattr(kaggle_publishing._Record, "replace", lose)
        assert "another process" in publish(store_copy, "kaggle").waiting
        assert published_models(kaggle) == []

    def test_a_rejected_version_can_be_published_at_once(self, store_copy: Store, kaggle: DemoServer) -> None:
        kaggle.faults = [Fault("CreateModelInstance", "status", status=403)]
        with pytest.raises(ConfigError, match="use a token of demo"):
            publish(store_copy, "kaggle")
        assert publish(store_copy, "kaggle").model == champion_key(store_copy)

    def test_an_unavailable_target_does_not_stop_the_others(
        self, store_copy: Store, kaggle: DemoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("no folder")
        monkeypatch.setenv("CARCLF_PUBLISH_FOLDER", str(tmp_path / "file"))
        result = tmp_path / "r.json"
        done = CliRunner().invoke(app, ["publish", "--store", store_copy.url, "--result", str(result)])
        assert isinstance(done.exception, ConfigError) and "CARCLF_PUBLISH_FOLDER" in str(done.exception)
        assert [outcome["target"] for outcome in json.loads(result.read_text())] == ["kaggle", "mlflow"]
        assert "kaggle   https://www.kaggle.com/models/demo/cars" in done.stdout
        assert published_models(kaggle) == [champion_key(store_copy)]


@pytest.fixture(scope="module")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as url:
        yield url


@pytest.fixture
def mlflow(mlflow_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MlflowClient:
    """MLflow with an experiment for this test."""
    for name in DEFAULT_ENVIRONMENT:
        monkeypatch.setenv(name, "")  # so that monkeypatch restores what carclf sets
        monkeypatch.delenv(name)
    monkeypatch.setattr(background, "outage", Outage())
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_url)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", tmp_path.name)
    return MlflowClient(mlflow_url)


class TestMlflow:
    """Publishing to MLflow's registry."""

    def test_the_alias_follows_the_champion_and_nothing_is_registered_twice(
        self, store_copy: Store, mlflow: MlflowClient, tmp_path: Path
    ) -> None:
        first = champion_key(store_copy)
        outcome = publish(store_copy, "mlflow")
        assert outcome == Published("mlflow", first, f"models:/{tmp_path.name}@champion")
        assert publish(store_copy, "mlflow").reused
        promote_run(store_copy, "seed-1")
        publish(store_copy, "mlflow")
        assert mlflow.get_model_version_by_alias(tmp_path.name, "champion").version == "2"
        roll_back(store_copy)
        assert publish(store_copy, "mlflow").reused
        assert mlflow.get_model_version_by_alias(tmp_path.name, "champion").version == "1"
        assert len(mlflow.search_model_versions(f"name = '{tmp_path.name}'")) == 2

    def test_a_process_killed_at_any_call_registers_one_version(
        self, store_copy: Store, mlflow: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writes = ("create_registered_model", "create_model_version", "set_registered_model_alias")
        num_killed = 0
        while num_killed < 9:
            calls = WritesUntilKilled(1)
            with monkeypatch.context() as patch:
                for name in writes:
                    patch.setattr(MlflowClient, name, calls.wrap(getattr(MlflowClient, name)))
                try:
                    publish(store_copy, "mlflow")
                except Killed:
                    num_killed += 1
                    continue
            break
        assert num_killed == len(writes)
        assert mlflow.get_model_version_by_alias(tmp_path.name, "champion").version == "1"
        assert len(mlflow.search_model_versions(f"name = '{tmp_path.name}'")) == 1

    def test_of_versions_registered_at_once_the_first_stays(
        self, store_copy: Store, mlflow: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = MlflowClient.create_model_version

        def create_twice(client: MlflowClient, *arguments: Any, **options: Any) -> Any:
            original(client, *arguments, **options)
            return original(client, *arguments, **options)

        monkeypatch.setattr(MlflowClient, "create_model_version", create_twice)
        publish(store_copy, "mlflow")
        assert [entry.version for entry in mlflow.search_model_versions(f"name = '{tmp_path.name}'")] == ["1"]

    def test_a_version_that_another_worker_has_deleted_is_no_error(
        self, store_copy: Store, mlflow: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        create, delete = MlflowClient.create_model_version, MlflowClient.delete_model_version

        def create_twice(client: MlflowClient, *arguments: Any, **options: Any) -> Any:
            create(client, *arguments, **options)
            return create(client, *arguments, **options)

        def delete_twice(client: MlflowClient, name: str, version: str) -> None:
            delete(client, name, version)
            delete(client, name, version)

        monkeypatch.setattr(MlflowClient, "create_model_version", create_twice)
        monkeypatch.setattr(MlflowClient, "delete_model_version", delete_twice)
        assert publish(store_copy, "mlflow").location == f"models:/{tmp_path.name}@champion"
        assert [entry.version for entry in mlflow.search_model_versions(f"name = '{tmp_path.name}'")] == ["1"]

    def test_a_missing_package_raises_config_error(
        self, store: Store, mlflow: MlflowClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "mlflow", None)  # as if it were not installed
        with pytest.raises(ConfigError, match="mlflow-skinny"):
            publish(store, "mlflow")

    def test_an_unavailable_server_raises_service_error(
        self, store: Store, mlflow: MlflowClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
        with pytest.raises(ServiceError, match="MLFLOW_TRACKING_URI") as raised:
            publish(store, "mlflow")
        assert "secret" not in str(raised.value)
