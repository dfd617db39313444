"""Temporary files and folders of killed processes are removed; those in use are kept."""

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from typer.testing import CliRunner

from carclf.artifacts import atomic_folder
from carclf.cli.app import app
from carclf.config import load_config
from carclf.runs.run import Run
from carclf.services.storage import init_store, open_store
from carclf.temporary import MIN_AGE, hold, temporary_folder

WRITE = """
import io, sys, time
from pathlib import Path
from carclf.artifacts import atomic_folder, cache_folder
from carclf.services.storage import open_store
from carclf.temporary import temporary_folder

class Stuck(io.BytesIO):
    def read(self, size):
        print(flush=True)
        time.sleep(600)

store = open_store(sys.argv[1])
with temporary_folder(), atomic_folder(cache_folder() / "images" / "hash") as work:
    (work / "image").write_bytes(bytes(1000))
    store._write(sys.argv[2], Stuck())
"""


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache and a TMPDIR of the test's own."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("CARCLF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


@pytest.fixture(params=["champion.json", "runs/r.json", "models/ab/12345678/model.keras"])
def writer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of writing to the store, to the image cache and to TMPDIR."""
    command = [sys.executable, "-c", WRITE, str(tmp_path / "store"), request.param]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        yield process
        process.kill()


def temporary_paths(tmp_path: Path) -> list[Path]:
    store = (path for path in (tmp_path / "store").rglob("~*") if path.name != "~lock")
    return [*store, *(tmp_path / "cache/images").glob(".carclf-partial-*"), *(tmp_path / "tmp").iterdir()]


def make_old(paths: list[Path], seconds: float = MIN_AGE + 1) -> None:
    for path in paths:
        os.utime(path, (time.time() - seconds, time.time() - seconds))


def gc(tmp_path: Path) -> str:
    init_store(tmp_path / "store")
    result = CliRunner().invoke(app, ["store", "gc", "--store", str(tmp_path / "store")])
    assert result.exit_code == 0, result.output
    return result.output


def test_gc_keeps_what_a_running_process_uses_and_removes_what_a_killed_process_left(
    tmp_path: Path, writer: subprocess.Popen[str]
) -> None:
    paths = temporary_paths(tmp_path)
    make_old(paths, 1e6)
    assert len(paths) == 3 and "removed 0 " in gc(tmp_path)
    assert temporary_paths(tmp_path) == paths
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert "removed 3 " in gc(tmp_path)
    assert temporary_paths(tmp_path) == []


def test_a_new_run_removes_what_a_killed_process_left(tmp_path: Path, writer: subprocess.Popen[str]) -> None:
    writer.kill()
    writer.wait()
    make_old(temporary_paths(tmp_path))
    Run.start_or_resume("new", open_store(tmp_path / "store"), "demo", load_config("demo"))
    assert temporary_paths(tmp_path) == []


@pytest.mark.parametrize("name", [".partial-notes", ".carclf-partial-notes"])
def test_nothing_is_removed_from_a_folder_of_the_user(tmp_path: Path, name: str) -> None:
    """Such as the parent of the folder for ``carclf export``."""
    (tmp_path / "user" / name).mkdir(parents=True)
    (tmp_path / "user" / f"{name}.txt").write_text("")
    paths = sorted((tmp_path / "user").iterdir())
    make_old(paths, 1e7)
    with atomic_folder(tmp_path / "user" / "export"):
        pass
    gc(tmp_path)
    assert sorted(path for path in (tmp_path / "user").iterdir() if path.name != "export") == paths


@pytest.mark.parametrize("name", ["cache/images/.carclf-partial-file", "tmp/carclf-temporary-file"])
def test_files_are_kept_in_the_cache_and_in_tmpdir(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    make_old([path], 1e7)
    gc(tmp_path)
    assert path.exists()


def test_a_new_folder_is_held_although_another_process_just_checks_it(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    owner, checker = os.open(folder, os.O_RDONLY), os.open(folder, os.O_RDONLY)
    fcntl.flock(checker, fcntl.LOCK_EX)
    holding = threading.Thread(target=hold, args=[owner])
    holding.start()
    holding.join(0.2)
    fcntl.flock(checker, fcntl.LOCK_UN)
    holding.join()
    with pytest.raises(BlockingIOError):
        fcntl.flock(checker, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(owner)
    os.close(checker)


def test_a_file_that_was_just_created_is_kept(tmp_path: Path) -> None:
    """Its owner may not have locked it yet."""
    path = tmp_path / "store" / f"~{'0' * 32}"
    path.parent.mkdir()
    path.write_bytes(b"")
    assert "removed 0 " in gc(tmp_path)
    assert path.exists()


def test_a_folder_whose_child_process_is_still_writing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = tmp_path / "tmp" / "carclf-temporary-parent"
    parent.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(parent))
        child = temporary_folder()
        folder = child.__enter__()
    make_old([parent, folder])
    gc(tmp_path)
    assert folder.exists()
    child.__exit__(None, None, None)
    make_old([parent])
    gc(tmp_path)
    assert not parent.exists()


@pytest.mark.parametrize("name", ["carclf-store", "carclf-demo-12345678", "other"])
def test_other_folders_in_tmpdir_are_kept(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "tmp" / name
    folder.mkdir()
    make_old([folder], 1e7)
    gc(tmp_path)
    assert folder.exists()


def test_links_are_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "documents"
    target.mkdir()
    make_old([target], 1e7)
    (tmp_path / "tmp" / "carclf-temporary-x").symlink_to(target)
    with temporary_folder():
        assert target.exists()


@pytest.mark.usefixtures("aws")
def test_gc_aborts_only_old_uploads_in_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    """In moto, every upload started in 2010."""
    client = boto3.client("s3")
    client.create_bucket(Bucket="leftovers")
    client.create_multipart_upload(Bucket="leftovers", Key="store/models/ab/model.keras")
    store = open_store("s3://leftovers/store")
    with monkeypatch.context() as patch:
        patch.setattr("carclf.services.storage.s3.MAX_UPLOAD_DAYS", 36500)
        assert store.remove_leftovers() == 0
    assert (store.remove_leftovers(), store.remove_leftovers()) == (1, 0)
