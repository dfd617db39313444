"""The plugin as Airflow loads it by its entry point, in a process without a plugins folder."""

from pathlib import Path

from airflow_process import airflow_environment, printed_json

CODE = """
    import json, sys
    from types import SimpleNamespace
    from airflow import plugins_manager
    plugin, = (info for info in plugins_manager.get_plugin_info() if info["name"] == "carclf")
    heavy = ("carclf_airflow.routes", "carclf.dashboard", "carclf", "numpy", "tensorflow")
    imported = [name for name in heavy if name in sys.modules]
    from carclf_airflow.plugin import ReportLink
    def link(dag, task, run="manual__2026-11-25T06:54:51+00:00"):
        return ReportLink().get_link(None, ti_key=SimpleNamespace(dag_id=dag, task_id=task, run_id=run))
    print(json.dumps({
        "errors": plugins_manager.get_import_errors(), "imported": imported, "source": str(plugin["source"]),
        "apps": plugin["fastapi_apps"], "views": plugin["external_views"],
        "links": [link("car_retrain", "evaluate"), link("car_retrain", "promote"),
                  link("car_experiments", "finish"), link("other", "evaluate")],
    }))
"""


def test_airflow_loads_the_plugin_by_its_entry_point_and_imports_no_page(tmp_path: Path) -> None:
    environment = airflow_environment(tmp_path, AIRFLOW__API__BASE_URL="https://host/airflow/")
    plugin = printed_json(CODE, environment)
    assert plugin["errors"] == {}
    assert plugin["imported"] == []
    assert "carclf_airflow.plugin:CarclfPlugin" in plugin["source"]
    assert [(app["url_prefix"], app["name"]) for app in plugin["apps"]] == [("/carclf", "Car runs")]
    assert [(view["name"], view["destination"], view["href"]) for view in plugin["views"]] == [
        ("Car runs", "nav", "/airflow/carclf/"),
        ("Report", "dag_run", "/airflow/carclf/dag-run?dag_id={DAG_ID}&run_id={RUN_ID}")]
    run = "manual__2026-11-25T06%3A54%3A51%2B00%3A00"
    page = f"/airflow/plugin/car-classifier/carclf/dag-run?dag_id=car_retrain&run_id={run}"
    assert plugin["links"] == [
        f"{page}#evaluation", f"{page}#gate", page.replace("car_retrain", "car_experiments"), ""]
