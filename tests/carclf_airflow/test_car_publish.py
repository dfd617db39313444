"""The DAG car_publish: its schedule, its tasks, and a run with a target that fails."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from airflow_process import airflow_environment, printed_json

TARGETS = ["folder", "kaggle", "mlflow"]
RUN = """
    import json, sys
    import car_publish
    run = car_publish.car_publish().test()
    print(json.dumps({"state": run.state, "tasks": {ti.task_id: ti.state for ti in run.get_task_instances()}}))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    home = tmp_path_factory.mktemp("airflow")
    return airflow_environment(home, CARCLF_CACHE=str(home / "cache"), CARCLF_RETRY_DELAY_SECONDS="1",
                               CARCLF_POKE_INTERVAL_SECONDS="1")


def test_a_new_champion_or_the_day_starts_one_task_per_target(environment: dict[str, str]) -> None:
    described = printed_json(
        """
        import json, os, sys
        import car_publish
        dag = car_publish.car_publish()
        os.environ["CARCLF_PUBLISH_SCHEDULE"] = "none"
        print(json.dumps({
            "heavy": [name for name in ("tensorflow", "keras", "pandas") if name in sys.modules],
            "chain": {task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks},
            "modes": sorted({task.mode for task in dag.tasks}), "active": dag.max_active_runs,
            "inlets": sorted({asset.name for task in dag.tasks for asset in task.inlets}),
            "timetable": type(dag.timetable).__name__,
            "assets": [asset.name for asset in dag.timetable.asset_condition.objects],
            "without time": [asset.name for asset in car_publish.publish_schedule(car_publish.CHAMPION)],
        }))
        """, environment)
    assert described == {
        "heavy": [], "chain": {name: [] for name in TARGETS}, "modes": ["reschedule"], "active": 1,
        "inlets": ["car_champion"], "timetable": "AssetOrTimeSchedule", "assets": ["car_champion"],
        "without time": ["car_champion"],
    }


@pytest.mark.dags
def test_a_failing_target_does_not_stop_the_others(environment: dict[str, str], tmp_path: Path) -> None:
    """The champion is missing, so the target folder fails without a retry. The others are not configured."""
    champion = {"action": "promoted", "model": "ab" * 8, "decision": "d", "time": "2026-01-01T00:00:00+00:00"}
    state = {"champion": champion, "threshold": 0.5, "metric": "accuracy", "history": [champion]}
    Path(environment["CARCLF_STORE"], "champion.json").write_text(json.dumps(state))
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=environment, check=True)
    done = printed_json(RUN, environment | {"CARCLF_PUBLISH_FOLDER": str(tmp_path / "published")})
    assert done == {"state": "failed", "tasks": {"folder": "failed", "kaggle": "skipped", "mlflow": "skipped"}}
