"""The DAG car_retrain: its chain, its form, its assets, and a complete run."""

import dataclasses
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from airflow_process import airflow_environment, printed_json

from carclf.config import iter_settings
from carclf.demo.competition import open_competition
from carclf.demo.rendering import render_competition
from carclf.demo.server import DemoServer
from carclf.runs.index import list_runs
from carclf.services.storage import open_store
from carclf.stages.chain import STAGES


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    home = tmp_path_factory.mktemp("airflow")
    return airflow_environment(
        home, CARCLF_SCHEDULE="none", CARCLF_CACHE=str(home / "cache"), CARCLF_POKE_INTERVAL_SECONDS="1",
        CARCLF_RETRY_DELAY_SECONDS="1")


@pytest.fixture(scope="module")
def described(environment: dict[str, str]) -> dict[str, Any]:
    """The DAG as JSON."""
    return printed_json(
        """
        import json, sys
        import car_retrain
        dag = car_retrain.car_retrain()
        heavy = ("tensorflow", "keras", "pandas", "scipy", "cv2")
        print(json.dumps({
            "heavy": [name for name in heavy if name in sys.modules],
            "chain": {task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks},
            "queues": sorted({task.queue for task in dag.tasks}),
            "timeouts": all(task.execution_timeout for task in dag.tasks),
            "params": {name: param.schema | {"description": param.description}
                       for name, param in dag.params._ParamsDict__dict.items()},
            "active": dag.max_active_runs, "catchup": dag.catchup,
            "sensors": {name: [dag.get_task(name).mode, dag.get_task(name).timeout, dag.get_task(name).trigger_rule]
                        for name in ("submit", "score")},
            "refit": dag.get_task("refit").trigger_rule,
            "callbacks": [dag.on_success_callback, dag.on_failure_callback],
            "announce": dag.get_task("announce_champion").trigger_rule,
            "assets": {task.task_id: [[asset.name for asset in task.inlets], [asset.name for asset in task.outlets]]
                       for task in dag.tasks if task.inlets or task.outlets},
        }))
        """,
        environment,
    )


def test_the_chain_has_ten_stages_on_the_gpu_queue(described: dict[str, Any]) -> None:
    chain = {name: [after] for name, after in itertools.pairwise(STAGES)}
    chain |= {"promote": ["refit", "request_approval"], "refit": ["announce_champion", "submit"]}
    assert described["chain"] == chain | {name: [] for name in ("score", "request_approval", "announce_champion")}
    assert described["queues"] == ["gpu"]
    assert described["timeouts"]
    assert (described["active"], described["catchup"]) == (1, False)


def test_waiting_tasks_hold_no_slot_and_wait_longer_than_a_night(described: dict[str, Any]) -> None:
    assert described["sensors"] == {"submit": ["reschedule", 3 * 24 * 3600, "none_failed"],
                                    "score": ["reschedule", 6 * 3600, "all_success"]}
    assert described["refit"] == "all_success"


def test_tasks_name_the_assets_that_they_read_and_produce(described: dict[str, Any]) -> None:
    assert described["assets"] == {
        "download": [["car_source"], []], "split": [[], ["car_dataset"]], "submit": [[], ["car_submission"]],
        "request_approval": [[], ["car_candidate"]], "announce_champion": [["car_champion"], ["car_champion"]]}
    assert described["announce"] == "all_done"  # a task may fail after it changed the champion


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"CARCLF_SCHEDULE": "0 6 * * *"}, ["0 6 * * *", None]),
     ({"CARCLF_SCHEDULE": "@weekly", "CARCLF_WATCH_SOURCE": "true"}, ["0 0 * * 0", ["car_source"]]),
     ({"CARCLF_WATCH_SOURCE": "true"}, [None, ["car_source"]])],
)
def test_a_watched_source_is_added_to_the_schedule(
    environment: dict[str, str], settings: dict[str, str], expected: list[Any]
) -> None:
    code = """
        import json, car_retrain
        from carclf_airflow.assets import SOURCE
        timetable = car_retrain.car_retrain().timetable
        assets = getattr(timetable, "asset_condition", None)
        cron = getattr(getattr(timetable, "timetable", timetable), "expression", None)
        print(json.dumps([cron, [asset.name for asset in assets.objects] if assets else None, len(SOURCE.watchers)]))
    """
    watched = "CARCLF_WATCH_SOURCE" in settings
    assert printed_json(code, environment | settings) == [*expected, int(watched)]


@pytest.mark.parametrize("setting", ["CARCLF_QUIET_MINUTES=half an hour", "CARCLF_POLL_SECONDS=0"])
def test_an_invalid_watch_setting_names_its_variable(environment: dict[str, str], setting: str) -> None:
    settings = {"CARCLF_WATCH_SOURCE": "true", **dict([setting.split("=")])}
    done = subprocess.run([sys.executable, "-c", "import car_retrain"], env=environment | settings, text=True,
                          capture_output=True, check=False)
    assert done.returncode == 1
    assert f"ValueError: Invalid {setting}: expected a number, at least" in done.stderr


def test_there_are_no_callbacks_without_a_notification_url(described: dict[str, Any]) -> None:
    assert described["callbacks"] == [None, None]


def test_parsing_imports_no_heavy_package(described: dict[str, Any]) -> None:
    assert described["heavy"] == []


def test_the_form_has_each_setting_with_its_type_limits_and_description(described: dict[str, Any]) -> None:
    params = described["params"]
    assert set(params) == {"recipe", *(name for name, _ in iter_settings() if not name.startswith("score."))}
    common = {name: params[name]["title"] for name in list(params)[:6]}
    assert common == {"recipe": "Recipe", "data.source": "Source", "seed": "Seed", "gate.approval": "Approval",
                      "submit.enabled": "Submit", "force": "Force"}
    assert {name for name in params if "section" not in params[name]} == set(common)
    epochs = params["fine_tune.epochs"]
    assert (epochs["type"], epochs["allOf"]) == (["integer", "null"], [{"minimum": 0, "maximum": 500}])
    assert epochs["section"] == "Fine tune"
    assert params["fine_tune.schedule"]["enum"] == [None, "cosine", "plateau"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoServer]:
    folder = tmp_path_factory.mktemp("cars")
    render_competition(folder, num_train=120, num_test=20)
    competition = open_competition(folder, slug="demo-cars", work=folder / "work", truth=folder / "truth.csv")
    with DemoServer(competition) as running:
        yield running


RUN = """
    import json, sys
    import car_retrain
    run = car_retrain.car_retrain().test(run_conf=json.loads(sys.argv[1]))
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    with create_session() as session:
        rows = session.query(AssetModel.name, AssetEvent.extra).filter(AssetModel.id == AssetEvent.asset_id).all()
    print(json.dumps({"state": run.state, "tasks": {ti.task_id: ti.state for ti in run.get_task_instances()},
                      "events": {name: extra for name, extra in rows}}))
"""
CONF = {"recipe": "demo", "data.source": "demo-cars", "validation.min_images_per_class": 5,
        "validation.max_unusable_fraction": 0.2, "fine_tune.epochs": 1, "head.epochs": 2, "gate.threshold": 0.0,
        "gate.min_recall": 0.0, "gate.max_calibration_error": 1.0}


@pytest.mark.dags
def test_a_complete_run_skips_submit_if_the_competition_accepts_no_files(
    environment: dict[str, str], server: DemoServer
) -> None:
    kaggle = {"CARCLF_KAGGLE_ENDPOINT": server.url, "AIRFLOW_VAR_KAGGLE_USERNAME": "demo",
              "AIRFLOW_VAR_KAGGLE_API_KEY": server.token, "KAGGLE_CONFIG_DIR": environment["AIRFLOW_HOME"]}
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=environment | kaggle, check=True)
    server.competition = dataclasses.replace(server.competition, is_notebooks_only=True)
    skipped = dict.fromkeys(["request_approval", "refit", "submit", "score"], "skipped")
    tasks = dict.fromkeys([*STAGES, "announce_champion"], "success") | skipped
    run = printed_json(RUN, environment | kaggle, json.dumps(CONF))
    assert (run["state"], run["tasks"]) == ("success", tasks)
    dataset, champion = run["events"]["car_dataset"], run["events"]["car_champion"]
    assert (dataset["num_classes"], dataset["reused"], dataset["num_val"] > 0) == (10, False, True)
    assert (champion["sequence"], champion["action"], champion["by"]) == (1, "promoted", "")
    assert champion["run"] == dataset["run"]
    assert set(run["events"]) == {"car_dataset", "car_champion"}  # nothing was submitted
    assert server.submissions == []
    row = list_runs(open_store(environment["CARCLF_STORE"]))[0]
    assert (row["state"], row["stage"], row["decision"]) == ("done", "submit", "promoted")
    assert "notebooks" in row["text"]
