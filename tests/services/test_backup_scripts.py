"""``make backup`` and ``make restore``: what they ask of Docker, and what they leave where something is wrong."""

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
esac
case "$*" in *"${FAILS:-nothing}"*) exit "$STATUS";; esac
"""
Calls = Callable[[], list[str]]


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """A ``docker`` that only writes down what it is asked: the stack itself is in tests/compose/."""
    path = tmp_path / "bin" / "docker"
    path.parent.mkdir()
    path.write_text(FAKE_DOCKER)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return lambda: (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []


def make(*arguments: str, fails: str = "nothing", status: int = 0) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("M")}  # make's own, from make test
    environment = kept | {"FAILS": fails, "STATUS": str(status)}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


def wrong(done: subprocess.CompletedProcess[str], status: int) -> str:
    """What a script that ended with this status said is wrong."""
    said, _, mine = done.stderr.rstrip().rpartition("\nmake: *** ")
    assert mine.endswith(f"Error {status}"), done.stderr
    return said


def test_a_damaged_backup_replaces_nothing(tmp_path: Path, calls: Calls) -> None:
    folder = tmp_path / "a backup"
    assert make("backup", f"TO={folder}").returncode == 0
    assert (folder / "database.dump").stat().st_mode & 0o077 == 0
    before = calls()
    (folder / "database.dump").write_text("damp")
    assert wrong(make("restore", f"FROM={folder}"), 65).endswith(f"{folder} is damaged: nothing was changed.")
    assert calls() == before


@pytest.mark.parametrize(("command", "said"), [
    (["backup"], "Usage: make backup TO=folder, or docker/backup.sh FOLDER"),
    (["backup", "TO="], "Usage: make backup TO=folder, or docker/backup.sh FOLDER"),
    (["restore"], "Usage: make restore FROM=folder, or docker/restore.sh FOLDER"),
])
def test_without_a_folder_nothing_is_asked_of_docker(calls: Calls, command: list[str], said: str) -> None:
    assert wrong(make(*command), 64) == said
    assert calls() == []


def test_a_folder_that_is_no_backup_is_told_in_words(tmp_path: Path, calls: Calls) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        said = f"{folder} is no whole backup: it has no SHA256SUMS. Nothing was changed."
        assert wrong(make("restore", f"FROM={folder}"), 66) == said
    assert calls() == []


def test_a_stack_that_cannot_be_read_gets_no_folder(tmp_path: Path, calls: Calls) -> None:
    wrong(make("backup", f"TO={tmp_path / 'backup'}", fails="config -q", status=15), 15)
    assert not (tmp_path / "backup").exists()


def test_a_dump_that_breaks_off_leaves_the_folder_as_it_was(tmp_path: Path, calls: Calls) -> None:
    make("backup", f"TO={tmp_path / 'backup'}")
    before = {path: path.read_bytes() for path in (tmp_path / "backup").rglob("*") if path.is_file()}
    wrong(make("backup", f"TO={tmp_path / 'backup'}", fails=" pg_dump ", status=1), 1)
    assert {path: path.read_bytes() for path in (tmp_path / "backup").rglob("*") if path.is_file()} == before


def test_a_damaged_file_in_the_store_is_left_out_of_a_backup_that_can_be_restored(tmp_path: Path, calls: Calls) -> None:
    folder = tmp_path / "backup"
    wrong(make("backup", f"TO={folder}", fails="store copy", status=65), 65)
    subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=folder, check=True, capture_output=True)
    done = make("restore", f"FROM={folder}", fails="store copy", status=65)
    wrong(done, 65)
    assert calls()[-1] == "docker compose up -d --wait"
    assert f"{folder} is restored." in done.stdout


def test_a_dump_that_cannot_be_read_costs_nothing(tmp_path: Path, calls: Calls) -> None:
    make("backup", f"TO={tmp_path / 'backup'}")
    done = make("restore", f"FROM={tmp_path / 'backup'}", fails=" pg_restore -U", status=1)
    assert wrong(done, 1) == "Nothing was changed: the reason is above."
    asked = calls()
    assert not [call for call in asked if " stop " in call or (call.endswith(" airflow") and " dropdb " in call)]
    assert asked[-1] == "docker compose exec -T postgres dropdb -U airflow --if-exists restored"


def test_all_workers_stand_still_while_the_store_is_brought_back(tmp_path: Path, calls: Calls) -> None:
    make("backup", f"TO={tmp_path / 'backup'}")
    done = make("restore", f"FROM={tmp_path / 'backup'}", fails="store copy", status=75)
    assert wrong(done, 75).startswith("The restore broke off, and the stack stands still")
    assert "docker compose stop scheduler worker worker-1" in calls()
    assert calls()[-1] != "docker compose up -d --wait"
