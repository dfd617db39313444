"""The DAG car_predict: its schedule, its chain, and complete runs in an Airflow."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from airflow_process import airflow_environment, printed_json
from color_champion import CLASS_NAMES, color_image, noisy_image, promote_color_champion

from carclf.batch_prediction.shard_files import BatchFolder
from carclf.batch_prediction.table import read_predictions
from carclf.services.storage import open_store

pytestmark = pytest.mark.integration

DESCRIBE = """
    import json, sys
    import car_predict

    def names(condition):
        objects = getattr(condition, "objects", [])
        return [condition.name] if hasattr(condition, "name") else [name for each in objects for name in names(each)]

    dag = car_predict.car_predict()
    timetable = dag.timetable
    print(json.dumps({
        "chain": {task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks},
        "heavy": [name for name in ("tensorflow", "keras", "pandas") if name in sys.modules],
        "mapped": [task.task_id for task in dag.tasks if task.is_mapped],
        "pods": [task.task_id for task in dag.tasks if task.executor_config],
        "queues": sorted({task.queue for task in dag.tasks}), "timeouts": all(t.execution_timeout for t in dag.tasks),
        "timetable": type(timetable).__name__, "assets": names(getattr(timetable, "asset_condition", None)),
        "active": dag.max_active_runs,
    }))
"""
RUN = """
    import json, sys
    import car_predict
    run = car_predict.car_predict().test(run_conf=json.loads(sys.argv[1]))
    print(json.dumps({"state": run.state, "tasks": sorted([ti.task_id, ti.map_index, ti.state]
                                                          for ti in run.get_task_instances())}))
"""


@pytest.mark.parametrize(
    ("settings", "timetable", "assets"),
    [
        ({"CARCLF_WATCH_PREDICT_SOURCE": "true"}, "NullTimetable", []),
        ({"CARCLF_PREDICT_SOURCE": "s3://b/inbox"}, "AssetTriggeredTimetable", ["car_champion"]),
        ({"CARCLF_PREDICT_SOURCE": "s3://b/inbox", "CARCLF_PREDICT_SCHEDULE": "0 * * * *"}, "AssetOrTimeSchedule",
         ["car_champion"]),
        ({"CARCLF_PREDICT_SOURCE": "s3://b/inbox", "CARCLF_WATCH_PREDICT_SOURCE": "true"}, "AssetTriggeredTimetable",
         ["car_champion", "car_images"]),
    ],
)
def test_a_new_champion_new_images_and_a_cron_expression_start_it(
    tmp_path: Path, settings: dict[str, str], timetable: str, assets: list[str]
) -> None:
    environment = airflow_environment(tmp_path, CARCLF_GPU_POD_TEMPLATE="/gpu.yaml", **settings)
    described = printed_json(DESCRIBE, environment)
    assert (described["timetable"], described["assets"]) == (timetable, assets)
    assert described["chain"] == {"plan": ["predict"], "predict": ["drift"], "drift": []}
    assert described["mapped"] == described["pods"] == ["predict"]
    assert described["heavy"] == []
    assert (described["queues"], described["timeouts"], described["active"]) == (["gpu"], True, 1)


def test_new_images_are_announced_until_they_are_predicted(tmp_path: Path) -> None:
    images = tmp_path / "inbox"
    images.mkdir()
    (images / "0.png").write_bytes(color_image("red"))
    environment = airflow_environment(
        tmp_path, CARCLF_PREDICT_SOURCE=str(images), CARCLF_CACHE=str(tmp_path / "cache"))
    promote_color_champion(open_store(environment["CARCLF_STORE"]))
    code = """
        import asyncio, json
        from carclf_airflow import source_trigger

        class States(dict):
            async def aget(self, key): return self.get(key)
            async def aset(self, key, value): self[key] = value

        async def has_active_run(dag_id):
            assert dag_id == "car_predict"
            return False

        source_trigger._has_active_run = has_active_run
        trigger = source_trigger.PredictionTrigger(1, 0, 0, 0)
        trigger.asset_state_store = States()
        print(json.dumps(asyncio.run(trigger._poll())))
    """
    event = printed_json(code, environment)
    assert (event["changed"], event["num_images"], event["num_new_images"]) == (True, 1, 1)
    subprocess.run([sys.executable, "-m", "carclf", "predictions", "run"], env=environment, check=True)
    assert printed_json(code, environment) is None


@pytest.mark.dags
def test_a_run_predicts_each_image_once_and_the_next_run_nothing(tmp_path: Path) -> None:
    images = tmp_path / "inbox"
    images.mkdir()
    for number in range(10):
        (images / f"{number}.png").write_bytes(color_image(CLASS_NAMES[number % 3]))
    environment = airflow_environment(
        tmp_path, CARCLF_PREDICT_SHARD_SIZE="2", CARCLF_PREDICT_TASKS="2", CARCLF_CACHE=str(tmp_path / "cache"),
        CARCLF_RETRY_DELAY_SECONDS="1")
    store = open_store(environment["CARCLF_STORE"])
    model = promote_color_champion(store)
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=environment, check=True)
    conf = json.dumps({"source": str(images)})
    first = printed_json(RUN, environment, conf)
    assert first == {"state": "success", "tasks": [
        ["drift", -1, "success"], ["plan", -1, "success"], ["predict", 0, "success"], ["predict", 1, "success"]]}
    folder = BatchFolder(store, model.key, str(images))
    assert len(folder.list_objects()[1]) == 5
    rows = read_predictions(folder)
    assert dict(zip(rows["id"], rows["class"], strict=True)) == {
        f"{number}.png": CLASS_NAMES[number % 3] for number in range(10)}
    second = printed_json(RUN, environment, conf)
    assert second == {"state": "success", "tasks": [
        ["drift", -1, "success"], ["plan", -1, "success"], ["predict", -1, "skipped"]]}


@pytest.mark.dags
def test_a_run_of_car_reevaluate_returns_a_row_per_champion(tmp_path: Path) -> None:
    for number in range(12):
        path = tmp_path / "labeled" / CLASS_NAMES[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noisy_image(CLASS_NAMES[number % 3], number))
    environment = airflow_environment(tmp_path, CARCLF_RECIPE="demo", CARCLF_CACHE=str(tmp_path / "cache"))
    model = promote_color_champion(open_store(environment["CARCLF_STORE"]))
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=environment, check=True)
    code = """
        import json, sys
        import car_reevaluate
        results = []
        for source in sys.argv[1:]:
            run = car_reevaluate.car_reevaluate().test(run_conf={"source": source})
            [task] = run.get_task_instances()
            results.append([run.state, task.xcom_pull(task_ids="reevaluate")])
        print(json.dumps(results))
    """
    (state, rows), option = printed_json(code, environment, str(tmp_path / "labeled"), "--help")
    assert state == "success"
    assert option == ["failed", None]
    assert [(row["model"], row["value"], row["num_images"]) for row in rows] == [(model.key, 1.0, 12)]
