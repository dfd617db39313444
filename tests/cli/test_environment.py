"""Odd machines: another user without a home, folders that cannot be written to, few open files, other locales."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from carclf.services.storage import init_store

pytestmark = pytest.mark.usefixtures("kaggle_server")
CARCLF = [sys.executable, "-m", "carclf"]
UID = "54321"  # without an entry in /etc/passwd, as in a container
Process = subprocess.CompletedProcess[str]
RunAsUser = Callable[..., Process]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store whose path has a space and other letters, with a run that has downloaded the archive."""
    folder = Path(init_store(tmp_path / "the störe").url)
    for name, value in {"STORE": str(folder), "RECIPE": "demo", "SETTINGS": "data.source=demo-cars"}.items():
        monkeypatch.setenv(f"CARCLF_{name}", value)
    monkeypatch.setenv("CARCLF_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def run_as_user(tmp_path: Path) -> RunAsUser:
    """Run shell commands as a user other than root, whose name, group and home are unknown."""
    user = [shutil.which("unshare") or "false", "-U", f"--map-user={UID}", f"--map-group={UID}"]
    if subprocess.run([*user, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system has no user namespaces")

    def run(script: str, **variables: str) -> Process:
        environment = {name: value for name, value in (os.environ | variables).items() if value}
        return subprocess.run([*user, "sh", "-c", script, *CARCLF], env=environment, cwd=tmp_path, capture_output=True,
                              text=True, check=False)

    return run


def doctor_lines(process: Process) -> dict[str, str]:
    return {line.split()[0]: line for line in process.stdout.splitlines()}


def test_another_user_with_a_bare_environment_can_run_a_stage(store: Path, run_as_user: RunAsUser) -> None:
    script = 'umask 077; "$0" "$@" download --run r && "$0" "$@" runs show r'
    process = run_as_user(script, HOME="", LANG="C", LC_ALL="C")
    assert process.returncode == 0, process.stderr
    assert "the störe" in process.stderr
    assert (store / "runs/r.json").stat().st_mode & 0o777 == 0o600


def test_a_read_only_cache_is_reported_by_doctor_and_by_the_stage(
    store: Path, tmp_path: Path, run_as_user: RunAsUser
) -> None:
    (tmp_path / "cache").mkdir(mode=0o555)
    doctor = run_as_user('"$0" "$@" doctor')
    assert doctor.returncode == 78
    assert "MISSING" in doctor_lines(doctor)["disk"] and str(tmp_path / "cache") in doctor_lines(doctor)["disk"]
    stage = run_as_user('"$0" "$@" download --run r && "$0" "$@" validate --run r')
    assert stage.returncode == 78
    assert str(tmp_path / "cache") in stage.stderr.splitlines()[-1] and "Traceback" not in stage.stderr


def test_a_folder_of_another_user_in_the_cache_is_named(store: Path, tmp_path: Path, run_as_user: RunAsUser) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/files").mkdir(mode=0o555)
    stage = run_as_user('"$0" "$@" download --run r && "$0" "$@" validate --run r')
    assert stage.returncode == 78
    assert str(tmp_path / "cache/files") in stage.stderr.splitlines()[-1] and "Traceback" not in stage.stderr


def test_a_user_without_a_home_is_asked_for_a_cache_folder(store: Path, tmp_path: Path, run_as_user: RunAsUser) -> None:
    doctor = run_as_user('"$0" "$@" doctor', HOME="", CARCLF_CACHE="")
    assert "MISSING" in doctor_lines(doctor)["disk"] and "CARCLF_CACHE" in doctor_lines(doctor)["disk"]
    assert not (tmp_path / "~").exists()


def test_doctor_reports_low_limits_and_keys_that_others_can_read(store: Path, tmp_path: Path) -> None:
    key = tmp_path / "home/.kaggle/kaggle.json"
    key.parent.mkdir(parents=True)
    key.write_text('{"username": "ada", "key": "k"}')
    key.chmod(0o644)
    script = 'ulimit -n 60; exec "$0" "$@" doctor'
    doctor = subprocess.run(["sh", "-c", script, *CARCLF], capture_output=True, text=True, check=False)
    lines = doctor_lines(doctor)
    assert "MISSING" in lines["system"] and "60" in lines["system"]
    assert "warning" in lines["secrets"] and f"chmod 600 {key}" in lines["secrets"]
    assert " ok " in lines["Kaggle"] and " ok " in lines["store"]


def test_doctor_reports_that_worker_processes_cannot_share_memory(store: Path) -> None:
    script = 'mount -t tmpfs -o ro none /dev/shm && exec "$0" "$@"'
    mount = [shutil.which("unshare") or "false", "-rm", "sh", "-c", script]
    if subprocess.run([*mount, "true"], capture_output=True, check=False).returncode:
        pytest.skip("users cannot mount disks on this system")
    command = [*mount, *CARCLF, "doctor", "--set", "fine_tune.num_workers=1"]
    doctor = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "MISSING" in doctor_lines(doctor)["system"] and "fine_tune.num_workers" in doctor_lines(doctor)["system"]
