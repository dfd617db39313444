"""The tasks of car_publish: each runs ``carclf publish`` for a target as a child process."""

from collections.abc import Mapping
from typing import Any

from airflow.sdk import PokeReturnValue
from airflow.sdk.exceptions import AirflowSkipException

from carclf_airflow.lineage import emit_publication
from carclf_airflow.stage_process import (
    airflow_run_environment,
    child_environment,
    poke_value,
    raise_for_status,
    run_command,
    truncate_result,
)


def poke_target(target: str, context: Mapping[str, Any]) -> PokeReturnValue:
    """Publish the champion to a target; skip the task if the target is not configured, reschedule it while it waits."""
    # Only Kaggle's target gets Kaggle's credentials, as the stage submit does.
    environment = child_environment("submit" if target == "kaggle" else "promote") | airflow_run_environment(context)
    ended = run_command("publish", ["--target", target], environment)
    result = truncate_result(ended.result[0]) if ended.result else {}
    if result.get("skip_reason"):
        raise AirflowSkipException(f"{target} is skipped: {result['skip_reason']}")
    if not result.get("waiting"):
        raise_for_status("publish", ended.status, ended.error)
        emit_publication(result)
    return poke_value(result)
