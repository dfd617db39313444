"""The local Airflow where it meets the machine: a locked database, a part that ends, ports, folders."""

import os
import socket
import sqlite3
import sys
import threading

import pytest
import sqlalchemy

from carclf.errors import ConfigError
from carclf_airflow.local.__main__ import _exclusive_lock, _wait_until_interrupted
from carclf_airflow.local.processes import ProcessGroup
from carclf_airflow.local.server import Airflow, AirflowError, airflow_environment, free_port


def test_a_part_waits_while_another_keeps_the_database_locked_for_longer_than_sqlite_would(tmp_path):
    (tmp_path / "airflow").mkdir()
    url = airflow_environment(tmp_path / "airflow", 1, 1)["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    other = sqlite3.connect(tmp_path / "airflow" / "airflow.db", check_same_thread=False, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    threading.Timer(6.5, other.rollback).start()  # sqlite3 gives up after 5 s
    with sqlalchemy.create_engine(url).begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE seen (id INTEGER)"))


def test_the_wanted_port_is_had_again_right_after_a_server_with_connections_has_ended():
    port = free_port(0)
    for _ in range(2):
        with socket.create_server(("127.0.0.1", port)) as server:
            assert free_port(port) != port
            with socket.create_connection(("127.0.0.1", port)):
                accepted, _ = server.accept()
                accepted.close()  # first, so that the port stays in TIME_WAIT
        assert free_port(port) == port


@pytest.mark.parametrize("text", ["abc", "-5", "99999", "80.5"])
def test_what_is_no_port_is_told_with_the_variable(tmp_path, monkeypatch, text):
    monkeypatch.setenv("CARCLF_PORT", text)
    with ProcessGroup(tmp_path) as processes, pytest.raises(ConfigError, match=f"CARCLF_PORT={text} is no port"):
        Airflow(tmp_path, processes, {})


def test_a_state_that_is_no_folder_is_told_with_the_variable(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/demo cannot be made .*Set CARCLF_LOCAL_FOLDER to a folder"), _exclusive_lock(
        tmp_path / "file" / "demo"
    ):
        pass


def test_who_stays_up_is_told_when_a_part_has_ended(tmp_path):
    with ProcessGroup(tmp_path) as processes:
        processes.start("scheduler", [sys.executable, "-c", "pass"], dict(os.environ))
        with pytest.raises(AirflowError, match=f"scheduler has ended; look into {tmp_path}/scheduler.log"):
            _wait_until_interrupted(processes)
