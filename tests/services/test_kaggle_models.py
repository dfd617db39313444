"""The client of models on Kaggle, against the demo server."""

from pathlib import Path

import pytest

from carclf.demo.server import DemoServer, Fault
from carclf.errors import ConfigError, ServiceError
from carclf.services.kaggle import calls
from carclf.services.kaggle.calls import UnknownOutcomeError
from carclf.services.kaggle.models import ModelClient, VariationName, VariationText

NAME = "demo/cars/keras/champion"
TEXT = VariationText("a line", "# A page")
VARIATION = "MODEL_FRAMEWORK_KERAS/champion"


def connect(name: str = NAME) -> ModelClient:
    variation = VariationName.parse(name, "SETTING")
    return ModelClient(variation, max_attempts=2, backoff_seconds=0.01, read_timeout_seconds=0.5)


def upload(client: ModelClient, folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).write_bytes(name.encode())
    return [client.upload(folder / name) for name in names]


@pytest.fixture
def client(kaggle_server: DemoServer, tmp_path: Path) -> ModelClient:
    """The client of a variation with one version."""
    client = connect()
    client.create_model()
    client.create_variation(upload(client, tmp_path, "a.keras", "card.md"), TEXT, "Apache 2.0")
    return client


def test_only_the_owner_and_the_model_have_to_be_named() -> None:
    assert str(VariationName.parse("me/cars", "SETTING")) == "me/cars/keras/champion"
    assert str(VariationName.parse("me/cars/tfLite/small", "SETTING")) == "me/cars/tfLite/small"


@pytest.mark.parametrize(("name", "problem"), [
    ("cars", "no owner"), ("me/cars/keras", "3 parts"), ("me/cars/torch/x", "'torch'"), ("me/c/../x", "'..'"),
    ("a/b/keras/c/d", "5 parts"), ("me/ca rs", "characters"), ("/cars", "empty")])
def test_an_invalid_name_names_the_setting_and_the_problem(name: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"SETTING='{name}': .*{problem}.*owner/model"):
        VariationName.parse(name, "SETTING")


def test_a_model_and_a_variation_are_created_once(client: ModelClient, kaggle_server: DemoServer) -> None:
    client.create_model()
    assert kaggle_server.calls["CreateModel"] == 1
    variation = kaggle_server.models.models["cars"][VARIATION]
    assert (variation.license_name, variation.overview, variation.usage) == ("Apache 2.0", "a line", "# A page")
    assert variation.versions[0].files == {"a.keras": b"a.keras", "card.md": b"card.md"}
    assert client.find_text() == TEXT


def test_a_missing_model_or_variation_has_no_text(kaggle_server: DemoServer) -> None:
    assert connect().find_text() is None
    connect().create_model()
    assert connect().find_text() is None


def test_another_owners_model_raises_config_error(kaggle_server: DemoServer) -> None:
    with pytest.raises(ConfigError, match="use a token of ford"):
        connect("ford/cars").create_model()


@pytest.mark.parametrize("kind", ["drop_after", "status_after"])
def test_a_model_is_created_once_if_the_response_is_lost(kind: str, kaggle_server: DemoServer) -> None:
    kaggle_server.faults = [Fault("CreateModel", kind)]  # type: ignore[arg-type]
    connect().create_model()
    assert list(kaggle_server.models.models) == ["cars"]


def test_a_version_is_found_by_the_name_of_a_file_on_any_page(
    client: ModelClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "PAGE_SIZE", 2)
    for number in range(4):
        client.create_version(upload(client, tmp_path, "m", "n", f"key-{number}"), f"notes {number}")
    assert client.list_versions() == [5, 4, 3, 2, 1]
    assert client.list_files(3) == ["m", "n", "key-1"]
    assert [client.find_version(name) for name in ("key-1", "key-3", "card.md", "key-9")] == [3, 5, 1, 0]


@pytest.mark.parametrize(("kind", "num_versions"), [
    ("drop", 1), ("status", 1), ("html", 1), ("empty", 1), ("drop_after", 2), ("status_after", 2)])
def test_a_lost_response_to_a_new_version_leaves_its_outcome_unknown(
    kind: str, num_versions: int, client: ModelClient, kaggle_server: DemoServer, tmp_path: Path
) -> None:
    tokens = upload(client, tmp_path, "b")
    kaggle_server.faults = [Fault("CreateModelInstanceVersion", kind)]  # type: ignore[arg-type]
    with pytest.raises(UnknownOutcomeError):
        client.create_version(tokens, "notes")
    assert kaggle_server.calls["CreateModelInstanceVersion"] == 1
    assert len(client.list_versions()) == num_versions


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_rejected_version_raises_config_error(
    status: int, client: ModelClient, kaggle_server: DemoServer, tmp_path: Path
) -> None:
    kaggle_server.faults = [Fault("CreateModelInstanceVersion", "status", status=status)]
    with pytest.raises(ConfigError, match=str(status)):
        client.create_version(upload(client, tmp_path, "b"), "notes")


def test_uploads_and_texts_are_repeated_after_transient_errors(
    client: ModelClient, kaggle_server: DemoServer, tmp_path: Path
) -> None:
    kaggle_server.faults = [Fault("Upload", "status"), Fault("UpdateModelInstance", "drop_after")]
    assert upload(client, tmp_path, "b")[0]
    client.update_text(VariationText("b", "c"))
    assert client.find_text() == VariationText("b", "c")
    kaggle_server.faults = [Fault("StartBlobUpload", "drop", times=2)]
    with pytest.raises(ServiceError, match="upload b"):
        upload(client, tmp_path, "b")
