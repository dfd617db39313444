"""The local Airflow on a busy machine: its database is locked for a while, a part of it ends."""

import os
import sqlite3
import sys
import threading

import pytest
import sqlalchemy

from local.__main__ import _stay
from local.airflow import AirflowFailed, settings
from local.processes import Processes


def test_a_part_waits_while_another_keeps_the_database_locked_for_longer_than_sqlite_would(tmp_path):
    (tmp_path / "airflow").mkdir()
    url = settings(tmp_path / "airflow", 1, 1)["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    other = sqlite3.connect(tmp_path / "airflow" / "airflow.db", check_same_thread=False, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    threading.Timer(6.5, other.rollback).start()  # sqlite3 gives up after 5 s
    with sqlalchemy.create_engine(url).begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE seen (id INTEGER)"))


def test_who_stays_up_is_told_when_a_part_has_ended(tmp_path):
    with Processes(tmp_path) as processes:
        processes.start("scheduler", [sys.executable, "-c", "pass"], dict(os.environ))
        with pytest.raises(AirflowFailed, match=f"scheduler has ended; look into {tmp_path}/scheduler.log"):
            _stay(processes)
