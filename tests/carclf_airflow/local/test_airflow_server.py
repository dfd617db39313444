"""The local Airflow's database and port."""

import socket
import sqlite3
import threading
from pathlib import Path

import pytest
import sqlalchemy

from carclf.errors import ConfigError
from carclf_airflow.local.airflow_server import Airflow, airflow_environment, free_port
from carclf_airflow.local.processes import ProcessGroup


def test_a_component_waits_longer_for_a_locked_database_than_sqlite3(tmp_path: Path) -> None:
    (tmp_path / "airflow").mkdir()
    url = airflow_environment(tmp_path / "airflow", 1, 1)["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    other = sqlite3.connect(tmp_path / "airflow" / "airflow.db", check_same_thread=False, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    threading.Timer(6.5, other.rollback).start()  # sqlite3 gives up after 5 s by default
    with sqlalchemy.create_engine(url).begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE seen (id INTEGER)"))


def test_a_port_is_free_as_soon_as_a_server_with_connections_has_ended() -> None:
    port = free_port(0)
    for _ in range(2):
        with socket.create_server(("127.0.0.1", port)) as server:
            assert free_port(port) != port
            with socket.create_connection(("127.0.0.1", port)):
                accepted, _ = server.accept()
                accepted.close()  # first, so that the port stays in TIME_WAIT
        assert free_port(port) == port


@pytest.mark.parametrize("text", ["abc", "-5", "99999", "80.5"])
def test_an_invalid_port_is_reported_with_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("CARCLF_PORT", text)
    with ProcessGroup(tmp_path) as processes, pytest.raises(ConfigError, match=f"CARCLF_PORT={text}"):
        Airflow(tmp_path, processes, {})
