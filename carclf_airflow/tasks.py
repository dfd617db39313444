"""Tasks that several DAGs have: stages, and the announcement of the champion."""

import logging
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow.sdk import get_current_context, task
from airflow.sdk.exceptions import AirflowRuntimeError, AirflowSkipException

from carclf.runs.record import run_id_from_dag_run
from carclf_airflow.assets import CHAMPION, DATASET, SUBMISSION
from carclf_airflow.deployment import poke_seconds
from carclf_airflow.events import IDENTITY, champion_event, dataset_event, is_outdated, submission_event
from carclf_airflow.ids import ANNOUNCE_TASK
from carclf_airflow.lineage import emit_champion
from carclf_airflow.pods import gpu_task_options
from carclf_airflow.stage_process import child_environment, poke_stage, run_for_result, run_stage

log = logging.getLogger("airflow.task")

LAST = "last_announcement"  # in the asset's state store


def stage_task(name: str, *, hours: float, run: Any = "", **options: Any) -> Any:
    """Add a task that runs a stage of a run, by default that of the DAG run."""

    @task(  # type: ignore[untyped-decorator]  # Airflow is not type-checked here
        task_id=name, execution_timeout=timedelta(hours=hours), **gpu_task_options(name), **options
    )
    def stage(run: str) -> dict[str, Any]:
        context = get_current_context()
        result = run_stage(name, context, run=run)
        if name == "split":
            validated = context["ti"].xcom_pull(task_ids="validate")
            event = dataset_event(run_id_from_dag_run(context["run_id"]), validated, result)
            context["outlet_events"][DATASET].extra = event
        return result

    return stage(run)


def sensor_task(name: str, *, hours: float, timeout: timedelta, run: Any = "", **options: Any) -> Any:
    """Add a task that runs a stage which may have to wait: submit for tomorrow's quota, score for the score.

    Between two pokes it holds no slot.
    """

    @task.sensor(  # type: ignore[untyped-decorator]  # as above
        task_id=name, execution_timeout=timedelta(hours=hours), timeout=timeout.total_seconds(),
        poke_interval=poke_seconds(), mode="reschedule", **gpu_task_options(name), **options,
    )
    def stage(run: str) -> Any:
        context = get_current_context()
        poked = poke_stage(name, context, run=run)
        if name == "submit" and poked.is_done:
            event = submission_event(run or run_id_from_dag_run(context["run_id"]), poked.xcom_value)
            context["outlet_events"][SUBMISSION].extra = event
        return poked

    return stage(run)


def announce_champion_task() -> Any:
    """Add the task that emits the asset event of a new champion. It is skipped if the last event is of this champion.

    It runs whatever happened before it: a task may have failed after it changed the champion.
    """

    @task(  # type: ignore[untyped-decorator]  # as above
        task_id=ANNOUNCE_TASK, execution_timeout=timedelta(minutes=10), trigger_rule="all_done", inlets=[CHAMPION],
        outlets=[CHAMPION],
    )
    def announce_champion() -> dict[str, Any]:
        context = get_current_context()
        store, champion = os.environ.get("CARCLF_STORE", "store"), _read_champion()
        # The events are read last, since the child takes seconds in which another task may announce the champion.
        last = _last_announcement(context)
        if is_outdated(champion, last, store):
            champion = _read_champion()
        event = champion_event(champion, last, store)
        if event is None:
            raise AirflowSkipException("The champion has not changed since the asset's last event")
        context["outlet_events"][CHAMPION].extra = event
        context["asset_state_store"][CHAMPION].set(LAST, {name: event[name] for name in IDENTITY})
        emit_champion(event)
        return event

    return announce_champion()


def _read_champion() -> Any:
    return run_for_result("champion current", [], child_environment(ANNOUNCE_TASK))


def _last_announcement(context: Mapping[str, Any]) -> Any:
    """Return the extra of the asset's last event.

    Airflow 3.3.2 responds with status 500 while a DAG run that this event created is queued, which can take hours. Then
    return what the last announcement noted before its event was registered: if it was killed in between, the champion
    is announced when the events can be read again.
    """
    last = context["inlet_events"][CHAMPION].ascending(False).limit(1)
    try:
        return last[0].extra if len(last) else None
    except AirflowRuntimeError as error:
        log.warning("announce_champion: the asset's last event cannot be read: %s", error)
        return context["asset_state_store"][CHAMPION].get(LAST)
