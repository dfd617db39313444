"""Modes of the files that the local Airflow leaves."""

import os
import subprocess
import sys
from pathlib import Path

from airflow_process import airflow_environment

CODE = """
import sys
from pathlib import Path
from carclf.services.storage import open_store
from carclf_airflow.local import __main__ as launcher
from carclf_airflow.local.airflow_server import airflow_environment
from carclf_airflow.local.processes import ProcessGroup
from carclf_airflow.local.session import lock_folder

def run_demo(options):
    home = Path(options.data)
    with lock_folder(home), ProcessGroup(home / "logs") as processes:
        environment = airflow_environment(home / "airflow", 1, 1)
        processes.start("child", [sys.executable, "-c", f"open({str(home / 'child')!r}, 'w')"], environment)
        processes.running["child"].wait()
        open_store(str(home / "store")).write("a/b.json", b"{}")
    return 0

launcher.run_demo = run_demo
sys.exit(launcher.main())
"""


def modes(folder: Path) -> set[tuple[bool, str]]:
    """Return whether a path is a folder, and its mode, for the folder and everything in it."""
    paths = [folder, *(path for path in folder.rglob("*") if not path.is_symlink())]
    return {(path.is_dir(), oct(path.stat().st_mode & 0o777)) for path in paths}


def test_only_the_user_may_read_the_state_of_the_local_airflow(tmp_path: Path) -> None:
    home = tmp_path / "demo"
    home.mkdir(mode=0o755)
    command = [sys.executable, "-c", CODE, "demo", "--data", str(home)]
    subprocess.run(command, env=airflow_environment(tmp_path / "home"), check=True, umask=0o022)
    assert {path.name for path in home.iterdir()} == {"airflow", "child", "lock", "logs", "store"}
    assert modes(home) == {(True, "0o700"), (False, "0o600")}
    assert os.access(home / "airflow" / "passwords.json", os.R_OK)
