"""The plugin as Airflow finds it, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import json, sys
from types import SimpleNamespace
from airflow import plugins_manager
from carclf_airflow.plugin import ReportLink
told = plugins_manager.get_plugin_info()
plugin, = (one for one in told if one["name"] == "carclf")
def link(dag, task, run="manual__2026-11-25T06:54:51+00:00"):
    return ReportLink().get_link(None, ti_key=SimpleNamespace(dag_id=dag, task_id=task, run_id=run))
print(json.dumps({
    "errors": plugins_manager.get_import_errors(),
    "apps": plugin["fastapi_apps"], "views": plugin["external_views"],
    "links": [link("car_retrain", "evaluate"), link("car_retrain", "approval.promote"),
              link("car_experiments", "finish"), link("other", "evaluate")],
    "imported": sorted(name for name in ("routes", "carclf", "fastapi", "tensorflow") if name in sys.modules),
}))
"""


def test_every_process_of_airflow_finds_the_plugin_and_none_imports_the_site_with_it(tmp_path: Path) -> None:
    environment = os.environ | {
        "AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "AIRFLOW__API__BASE_URL": "https://host/airflow/",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/a.db", "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["errors"] == {}
    assert [(app["url_prefix"], app["name"]) for app in found["apps"]] == [("/carclf", "Car classifier")]
    assert [(view["name"], view["destination"], view["href"]) for view in found["views"]] == [
        ("Car classifier", "nav", "/airflow/carclf/"),
        ("Report", "dag_run", "/airflow/carclf/dag-run?dag_id={DAG_ID}&run_id={RUN_ID}")]
    run = "manual__2026-11-25T06%3A54%3A51%2B00%3A00"
    page = f"/airflow/plugin/car-classifier/carclf/dag-run?dag_id=car_retrain&run_id={run}"
    assert found["links"] == [
        f"{page}#evaluation", f"{page}#gate", page.replace("car_retrain", "car_experiments"), ""]
    assert "routes" not in found["imported"] and "tensorflow" not in found["imported"]
