"""The ids of runs."""

import pytest

from carclf.experiments.plan import EXPERIMENT_NAME
from carclf.runs.record import record_key, run_id_from_dag_run


def test_each_dag_run_has_a_run_of_its_own() -> None:
    names = ["_nightly", "~again", "a:b", "a-b", "a+b", "b", "..", ".b", "Ä", "x" * 250, "x" * 249, "x" * 100]
    run_ids = [run_id_from_dag_run(name) for name in names]
    assert len({record_key(run_id) for run_id in run_ids}) == len(names)
    assert all(EXPERIMENT_NAME.fullmatch(run_id) for run_id in run_ids)


@pytest.mark.parametrize("name", ["nightly", "manual__2026-11-25", "x" * 100])
def test_a_valid_id_is_kept(name: str) -> None:
    assert run_id_from_dag_run(name) == name


def test_the_time_in_an_id_stays_readable() -> None:
    run_id = run_id_from_dag_run("manual__2026-11-25T06:54:51+00:00")
    assert run_id.startswith("manual__2026-11-25T06-54-51-00-00-")
