"""Runs that a schedule or a changed source starts, and the first task of each run."""

from collections.abc import Mapping
from typing import Any

from carclf_airflow.assets import SOURCE
from carclf_airflow.deployment import asset_or_time, deployment_schedule, watches_source
from carclf_airflow.stage_process import run_stage

AUTOMATIC_RUNS = ("scheduled", "asset_triggered")


def retrain_schedule() -> Any:
    """Return the schedule of car_retrain: CARCLF_SCHEDULE, and with CARCLF_WATCH_SOURCE also a changed source."""
    return asset_or_time(SOURCE, deployment_schedule()) if watches_source() else deployment_schedule()


def run_download(context: Mapping[str, Any]) -> dict[str, Any]:
    """Run the stage download. A run that nobody started by hand ends with it if nothing is new."""
    is_automatic = context["dag_run"].run_type in AUTOMATIC_RUNS
    return run_stage("download", context, *(["--skip-unchanged"] if is_automatic else []))
