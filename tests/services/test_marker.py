"""The marker of a store: a store that has vanished is an error, and never a new store without a champion."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from carclf.champion import set_threshold
from carclf.cli.app import app
from carclf.config import load_config
from carclf.errors import CarclfError, ConfigError, DataError, NotFoundError
from carclf.runs.run import Run
from carclf.services.storage import FolderStore, copy_store, init_store, require_store

RUN = ["--recipe", "demo", "--set", "data.source=demo-cars"]
COMMANDS = {
    "champion list": [], "champion set-threshold": ["0.5"], "champion rollback": [], "runs list": [],
    "runs reindex": [], "label-fixes": ["--run", "r", "--show"], "store copy": ["--to", "copy"],
    "experiment plan": ["--name", "e"], "experiment table": ["--name", "e"], "download": ["--run", "r"],
    "promote": ["--run", "r"], "run": RUN,
}


@pytest.fixture(autouse=True)
def no_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CARCLF_CREATE_STORE")


def error_of(command: list[str]) -> CarclfError:
    error = CliRunner().invoke(app, command).exception
    assert isinstance(error, CarclfError), error
    return error


def test_a_store_is_created_once(store_url: str) -> None:
    with pytest.raises(ConfigError, match="store init"):
        require_store(store_url)
    runner = CliRunner()
    assert runner.invoke(app, ["store", "init", "--store", store_url]).exit_code == 0
    first = require_store(store_url).read("store.json")
    set_threshold(require_store(store_url), 0.9)
    assert runner.invoke(app, ["store", "init", "--store", store_url]).exit_code == 0
    assert require_store(store_url).read("store.json") == first
    assert list(require_store(store_url).list_keys()) == ["champion.json", "store.json"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_fails_if_the_store_has_vanished(tmp_path: Path, command: str) -> None:
    store = init_store(tmp_path / "store")
    set_threshold(store, 0.9)
    shutil.rmtree(store.url)
    (tmp_path / "store").mkdir()  # the mount point of the missing disk
    error = error_of([*command.split(), *COMMANDS[command], "--store", store.url])
    assert isinstance(error, NotFoundError) and f"carclf store init --store {store.url}" in str(error)
    assert list((tmp_path / "store").iterdir()) == []


@pytest.mark.parametrize("command", ["champion list", "runs list", "store init"])
def test_a_file_is_not_a_store(tmp_path: Path, command: str) -> None:
    (tmp_path / "file").write_text("")
    error = error_of([*command.split(), "--store", str(tmp_path / "file")])
    assert isinstance(error, ConfigError) and f"{tmp_path}/file is a file" in str(error)


@pytest.mark.usefixtures("kaggle_server")
def test_the_first_run_creates_the_store_only_with_consent(tmp_path: Path) -> None:
    command = ["download", "--run", "r", "--store", str(tmp_path / "store"), *RUN]
    assert isinstance(error_of(command), ConfigError) and not (tmp_path / "store").exists()
    done = CliRunner().invoke(app, [*command, "--create-store"])
    assert done.exit_code == 0, done.output
    assert "runs/r.json" in list(require_store(tmp_path / "store").list_keys())


@pytest.mark.parametrize("content", [b"", b"\0" * 40, b"[]", b'{"version": 2, "created": ""}', b'{"version": 1}'])
def test_a_damaged_marker_is_reported_with_its_path(tmp_path: Path, content: bytes) -> None:
    init_store(tmp_path).write("store.json", content)
    with pytest.raises(DataError, match=rf"store\.json in {tmp_path}"):
        require_store(tmp_path)


def test_an_interrupted_copy_is_not_a_store(tmp_path: Path) -> None:
    source = init_store(tmp_path / "source")
    set_threshold(source, 0.9)
    Run.start_or_resume("r", source, "demo", load_config("demo"))
    written: list[str] = []

    class FullStore(FolderStore):
        def write(self, key: str, data: bytes) -> None:
            written.append(key)
            super().write(key, data)

    copy_store(source, FullStore(tmp_path / "target"))
    assert written[-1] == "store.json"
    assert json.loads(Path(require_store(tmp_path / "target").url, "champion.json").read_text())["threshold"] == 0.9
