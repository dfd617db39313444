"""The commands as a user types them: exit status and the line that names the mend."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from carclf.services.storage import open_store


def carclf(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "CARCLF_CACHE": str(home / "cache")}
    command = [sys.executable, "-m", "carclf", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["download", "--recipe", "nope"], 78, "Unknown recipe 'nope'"),
        (["download", "--set", "fine_tune.epoch=1"], 78, "Unknown setting 'fine_tune.epoch'"),
        (["download", "--set", "epochs"], 78, "the form key=value"),
        (["download", "--run", "../x"], 78, "is no run id"),
        (["download"], 78, "kaggle.json"),
        (["split"], 78, "There is no run 'r' in"),
    ],
)
def test_a_users_mistake_ends_with_78_and_one_line(
    tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    run = [] if "--run" in arguments else ["--run", "r"]
    done = carclf(*arguments, *run, "--store", str(tmp_path / "store"), home=tmp_path)
    assert (done.returncode, done.stdout) == (status, "")
    assert message in done.stderr and "Traceback" not in done.stderr


def test_a_store_that_cannot_be_written_is_named_before_anything_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = carclf("download", "--run", "r", "--store", str(tmp_path / "file" / "store"), home=tmp_path)
    assert done.returncode == 78 and f"{tmp_path}/file" in done.stderr


@pytest.mark.usefixtures("kaggle_server")
def test_a_full_disk_ends_a_stage_with_78_and_its_name_and_leaves_nothing_on_it(
    tmp_path: Path, run_on_small_disk: Callable[..., subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, small = tmp_path / "store", tmp_path / "small"
    carclf, run = [sys.executable, "-m", "carclf"], ["--run", "r", "--store", str(store)]
    subprocess.run([*carclf, "download", *run, "--set", "competition=demo-cars"], check=True)

    def kept() -> list[str]:
        return sorted(key for key in open_store(store).list_keys() if not key.startswith("live/"))

    before = kept()
    monkeypatch.setenv("CARCLF_CACHE", str(small))
    # Room for the archive's copy, but not for the pictures in it. What is left is asked where the disk is seen.
    left = ["sh", "-c", '"$@"; echo "$?"; find "$CARCLF_CACHE" -type f', "sh"]
    done = run_on_small_disk(small, 6, [*left, *carclf, "validate", *run])
    assert [line.rpartition("/")[2] for line in done.stdout.splitlines()] == ["78", "archive.zip"]
    assert re.search(rf"^carclf: ConfigError: The disk is full: a file in {small} could not be written; \d of 6 MB "
                     rf"are free on {small}\. Free some, or set CARCLF_CACHE", done.stderr, re.MULTILINE), done.stderr
    assert "Traceback" not in done.stderr
    assert kept() == before


def test_the_doctor_names_each_mend_and_ends_with_78(tmp_path: Path) -> None:
    done = carclf("doctor", "--recipe", "demo", "--store", str(tmp_path / "store"), home=tmp_path)
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert done.returncode == 78
    assert "MISSING" in lines["Kaggle"] and "kaggle.json" in lines["Kaggle"]
    assert " ok " in lines["store"] and " ok " in lines["weights"] and " ok " in lines["disk"]
