"""``make backup`` and ``make restore``: their Docker commands, and what they leave behind after a failure."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAKE_DOCKER = """#!/bin/sh
echo "docker $*" >> "$CALLS"
case "$*" in
  *" pg_dump "*) echo dump;;
  *" config --services"*) printf 'postgres\\nstore\\nscheduler\\nworker\\nworker-1\\n';;
  *":/backup worker "*) arguments="$*"; folder="${arguments#*--volume }"; : > "${folder%%:/backup worker*}/$MARKER";;
esac
case "$*" in *"${FAILS:-nothing}"*) exit "$STATUS";; esac
"""
Calls = Callable[[], list[str]]


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Replace ``docker`` by a script that records its arguments; tests/compose/ tests the real stack."""
    path = tmp_path / "bin" / "docker"
    path.parent.mkdir()
    path.write_text(FAKE_DOCKER)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return lambda: (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []


def make(
    *arguments: str, fails: str = "nothing", status: int = 0, marker: str = "store.json"
) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("M")}  # MAKEFLAGS
    environment = inherited | {"FAILS": fails, "STATUS": str(status), "MARKER": marker}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def error_message(done: subprocess.CompletedProcess[str], status: int) -> str:
    """Check the exit status of a script, and return what it printed to stderr."""
    message, _, make_error = done.stderr.rstrip().rpartition("\nmake: *** ")
    assert make_error.endswith(f"Error {status}"), done.stderr
    return message


def test_a_damaged_backup_replaces_nothing(tmp_path: Path, calls: Calls) -> None:
    folder = tmp_path / "a backup"
    assert make("backup", f"TO={folder}").returncode == 0
    assert (folder / "database.dump").stat().st_mode & 0o077 == 0
    before = calls()
    (folder / "database.dump").write_text("damp")
    assert str(folder) in error_message(make("restore", f"FROM={folder}"), 65)
    assert calls() == before


@pytest.mark.parametrize(("command", "usage"), [
    (["backup"], "Usage: make backup TO=folder, or docker/backup.sh FOLDER"),
    (["backup", "TO="], "Usage: make backup TO=folder, or docker/backup.sh FOLDER"),
    (["restore"], "Usage: make restore FROM=folder, or docker/restore.sh FOLDER"),
])
def test_without_a_folder_docker_is_not_called(calls: Calls, command: list[str], usage: str) -> None:
    assert error_message(make(*command), 64) == usage
    assert calls() == []


def test_a_folder_without_a_backup_is_not_restored(tmp_path: Path, calls: Calls) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert str(folder) in error_message(make("restore", f"FROM={folder}"), 66)
    assert calls() == []


def test_no_folder_is_created_if_the_stack_cannot_be_read(tmp_path: Path, calls: Calls) -> None:
    error_message(make("backup", f"TO={tmp_path / 'backup'}", fails="config -q", status=15), 15)
    assert not (tmp_path / "backup").exists()


def test_a_failed_dump_leaves_the_folder_unchanged(tmp_path: Path, calls: Calls) -> None:
    make("backup", f"TO={tmp_path / 'backup'}")
    before = {path: path.read_bytes() for path in (tmp_path / "backup").rglob("*") if path.is_file()}
    error_message(make("backup", f"TO={tmp_path / 'backup'}", fails=" pg_dump ", status=1), 1)
    assert {path: path.read_bytes() for path in (tmp_path / "backup").rglob("*") if path.is_file()} == before


def test_a_backup_without_a_damaged_file_can_be_restored(tmp_path: Path, calls: Calls) -> None:
    folder = tmp_path / "backup"
    error_message(make("backup", f"TO={folder}", fails="store copy", status=65), 65)
    subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=folder, check=True, capture_output=True)
    done = make("restore", f"FROM={folder}", fails="store copy", status=65)
    error_message(done, 65)
    assert calls()[-1] == "docker compose up -d --wait"
    assert str(folder) in done.stdout


def test_a_copy_that_has_not_ended_is_not_a_backup(tmp_path: Path, calls: Calls) -> None:
    folder = tmp_path / "backup"
    for _ in range(2):  # also if the folder contains an earlier backup
        message = error_message(make("backup", f"TO={folder}", fails="store copy", status=65, marker="other"), 65)
        assert str(folder) in message
        before = calls()
        error_message(make("restore", f"FROM={folder}"), 66)
        assert calls() == before
        make("backup", f"TO={folder}")


def test_a_backup_without_the_stores_marker_is_not_restored(tmp_path: Path, calls: Calls) -> None:
    make("backup", f"TO={tmp_path}")
    (tmp_path / "store" / "store.json").unlink()
    before = calls()
    assert "store.json" in error_message(make("restore", f"FROM={tmp_path}"), 66)
    assert calls() == before


def test_an_unreadable_dump_changes_nothing(tmp_path: Path, calls: Calls) -> None:
    make("backup", f"TO={tmp_path / 'backup'}")
    done = make("restore", f"FROM={tmp_path / 'backup'}", fails=" pg_restore -U", status=1)
    error_message(done, 1)
    commands = calls()
    assert not [call for call in commands if " stop " in call or (call.endswith(" airflow") and " dropdb " in call)]
    assert commands[-1] == "docker compose exec -T postgres dropdb -U airflow --if-exists restored"


def test_all_workers_are_stopped_while_the_store_is_restored(tmp_path: Path, calls: Calls) -> None:
    make("backup", f"TO={tmp_path / 'backup'}")
    done = make("restore", f"FROM={tmp_path / 'backup'}", fails="store copy", status=75)
    error_message(done, 75)
    assert "docker compose stop scheduler worker worker-1" in calls()
    assert calls()[-1] != "docker compose up -d --wait"
