"""The end of a candidate's tasks in a run of car_promote that has several candidates."""

from pathlib import Path
from typing import Any

import pytest

from carclf_airflow.local.airflow_server import Airflow
from carclf_airflow.local.dag_run import DagRun
from carclf_airflow.local.processes import ProcessGroup
from carclf_airflow.local.retrain_run import CandidateTasks

OTHER = {"task_id": "candidate.ask", "map_index": 1, "state": "awaiting_input"}


@pytest.mark.parametrize(("states", "has_ended"), [
    ({"ask": "success", "promote": "success", "score": "success"}, True),
    ({"ask": "success", "promote": "failed", "score": "upstream_failed"}, True),
    ({"ask": "success", "promote": "success", "score": None}, False),
    ({"ask": "success"}, False), ({}, False),
])
def test_the_tasks_of_a_candidate_end_while_another_candidate_waits(
    tmp_path: Path, states: dict[str, Any], has_ended: bool
) -> None:
    with ProcessGroup(tmp_path / "logs") as processes:
        run = DagRun(Airflow(tmp_path, processes, {}), "car_promote", "r")
        tasks = [{"task_id": f"candidate.{name}", "map_index": 0, "state": state} for name, state in states.items()]
        assert CandidateTasks(run, "candidate.", 0).has_ended([*tasks, OTHER]) == has_ended
