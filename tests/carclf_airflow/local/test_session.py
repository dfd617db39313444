"""Parts shared by the local commands: the lock of their folder, and waiting for Ctrl-C."""

import os
import sys
from pathlib import Path

import pytest

from carclf.errors import ConfigError
from carclf_airflow.local.airflow_server import AirflowError
from carclf_airflow.local.processes import ProcessGroup
from carclf_airflow.local.session import lock_folder, state_folder, wait_until_interrupted


def test_a_folder_that_cannot_be_created_names_its_variable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "demo"
    with pytest.raises(ConfigError, match=r"file/demo.*CARCLF_LOCAL_FOLDER"), lock_folder(folder):
        pass


def test_an_unknown_home_names_the_variable_of_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARCLF_LOCAL_FOLDER", "~unknown-user/carclf")
    with pytest.raises(ConfigError, match="CARCLF_LOCAL_FOLDER"):
        state_folder()


def test_a_locked_folder_cannot_be_locked_again(tmp_path: Path) -> None:
    with lock_folder(tmp_path), pytest.raises(ConfigError, match="CARCLF_LOCAL_FOLDER"), lock_folder(tmp_path):
        pass


def test_waiting_ends_with_an_error_when_a_component_exits(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path) as processes:
        processes.start("scheduler", [sys.executable, "-c", "pass"], dict(os.environ))
        with pytest.raises(AirflowError, match=rf"scheduler .*{tmp_path}/scheduler\.log"):
            wait_until_interrupted(processes)
