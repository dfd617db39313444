"""A stage as a child process of an Airflow task: its lines in the log, its exit status as the task's end."""

import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from airflow.sdk import PokeReturnValue
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowRescheduleException,
    DownstreamTasksSkipped,
)

from carclf.runs.record import run_id_from_dag_run
from carclf_airflow.oom import count_oom_kills, explain_kill, find_cgroup, raise_oom_score, set_parent_death_signal

log = logging.getLogger("airflow.task")

EXIT_DATA, EXIT_RETRY, EXIT_CONFIG, EXIT_SKIP = 65, 75, 78, 99
# The child gets what it needs and none of Airflow's secrets; Kaggle's key goes to three stages only.
ALLOWED = re.compile(
    r"PATH|HOME|LANG|LC_.*|TZ|TMPDIR|XDG_.*|PYTHONPATH|LD_LIBRARY_PATH|CARCLF_(?!KAGGLE).*|AWS_.*|KERAS_.*|TF_.*|XLA_.*|CUDA_.*"
    r"|NVIDIA_.*|OPENBLAS_.*|OMP_.*|SSL_CERT_.*|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|(?i:https?_proxy|no_proxy)"
    r"|OTEL_.*|MLFLOW_.*"
)
ALLOWED_WITH_KAGGLE = re.compile(rf"{ALLOWED.pattern}|KAGGLE_.*|CARCLF_KAGGLE_.*")
KAGGLE_STAGES = ("download", "submit", "score")
GRACE_SECONDS = 10.0
# XCom holds what a person reads: the rest is in the store's record of the run.
MAX_FIGURES, MAX_FIGURE, MAX_TEXT = 40, 200, 1000  # metrics; characters of one, and of a reason or a summary
DIGITS = 6  # of a figure: enough for a public score
UNREAD, REASONS = {"class_names", "weights"}, {"reason", "rejection", "override"}


def download_arguments(params: Mapping[str, Any]) -> list[str]:
    """``download``'s arguments from the trigger form; carclf adds CARCLF_SETTINGS and refuses what it does not know."""
    chosen = {key: json.dumps(value) for key, value in params.items() if value is not None and key != "recipe"}
    pairs = [f"{key}={value}" for key, value in chosen.items()]
    return ["--recipe", str(params["recipe"]), *(part for pair in pairs for part in ("--set", pair))]


def run_stage(stage: str, context: Mapping[str, Any], *arguments: str) -> dict[str, Any]:
    """Run a stage in a child process and return its result, small enough for XCom."""
    run_id = run_id_from_dag_run(context["dag_run"].run_id)
    settings = download_arguments(context["params"]) if stage == "download" else []
    environment = child_environment(stage) | airflow_run_environment(context)
    status, reason, left = run_command(stage, ["--run", run_id, *arguments, *settings], environment)
    result = truncate_result(left or {})
    if status == EXIT_SKIP:
        log.info("What follows is skipped: %s", result["skip_reason"])
        skip_tasks(context, sorted(context["task"].get_flat_relative_ids(upstream=False)), result)
    if status == EXIT_RETRY and result.get("waiting"):  # a passing fault ends with 75 too, but leaves no result
        return result
    if status != 0:
        context["ti"].xcom_push(key="error", value=_cut(reason, MAX_TEXT) or f"{stage} ended with status {status}")
    raise_for_status(stage, status, reason)
    return result


def run_command(command: str, options: list[str], environment: dict[str, str]) -> tuple[int, str, Any]:
    """A command of carclf as a child: its exit status, what it said is wrong, and its result (None: it left none)."""
    # What a killed child leaves there goes with the folder.
    with tempfile.TemporaryDirectory(prefix="carclf-") as folder:
        path = Path(folder) / "result.json"
        arguments = [*command.split(), "--store", os.environ.get("CARCLF_STORE", "store"), *options]
        child = [sys.executable, "-u", "-m", "carclf", *arguments, "--result", str(path)]
        status, reason = run_child(child, environment | {"TMPDIR": folder})
        return status, reason, json.loads(path.read_text(), parse_float=_rounded) if path.exists() else None


def raise_for_status(what: str, status: int, reason: str | None = None) -> None:
    """Raise unless a child ended well; AirflowFailException where a retry cannot help."""
    if status in (EXIT_DATA, EXIT_CONFIG):
        raise AirflowFailException(f"{what} ended with status {status}: the reason is in the line above; a retry "
                                   "cannot help before that is mended")
    if status != 0:
        why = f" ({reason})" if reason and (status < 0 or status > 128) else ""
        raise AirflowException(f"{what} ended with status {status}{why}; it is tried again")


def truncate_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's result as XCom holds it: small, whatever the run."""
    metrics = {str(name)[:MAX_FIGURE]: _cut(value, MAX_TEXT if name in REASONS else MAX_FIGURE)
               for name, value in list(result.get("metrics", {}).items())[:MAX_FIGURES] if name not in UNREAD}
    return {name: metrics if name == "metrics" else _cut(value, MAX_TEXT) for name, value in result.items()}


def _rounded(text: str) -> float:
    """A figure as a person reads it in XCom; decisions are made by the children, from what the store has."""
    return float(f"{float(text):.{DIGITS}g}")


def _cut(value: Any, length: int) -> Any:
    return f"{value[:length - 1]}…" if isinstance(value, str) and len(value) > length else value


def poke_stage(stage: str, context: Mapping[str, Any]) -> PokeReturnValue:
    """Run a stage that may have to wait; it comes back at the time that the stage names, or soon."""
    result = run_stage(stage, context)
    if result["waiting"] and result["until"]:
        raise AirflowRescheduleException(datetime.fromisoformat(result["until"]))
    return PokeReturnValue(is_done=not result["waiting"], xcom_value=result)


def skip_tasks(context: Mapping[str, Any], tasks: list[str], result: dict[str, Any]) -> None:
    """End this task with its result and skip these tasks."""
    context["ti"].xcom_push(key="return_value", value=result)
    raise DownstreamTasksSkipped(tasks=tasks)


def child_environment(stage: str) -> dict[str, str]:
    """What of this process's environment the child of a stage gets."""
    allowed = ALLOWED_WITH_KAGGLE if stage in KAGGLE_STAGES else ALLOWED
    return {name: value for name, value in os.environ.items() if allowed.fullmatch(name)}


def airflow_run_environment(context: Mapping[str, Any]) -> dict[str, str]:
    """Where this DAG run is seen, for what the child tells to MLflow; nothing where no [api] base_url says so."""
    if not (base := conf.get("api", "base_url", fallback="").rstrip("/")):
        return {}
    run = context["dag_run"]
    return {"CARCLF_AIRFLOW_RUN_URL": f"{base}/dags/{run.dag_id}/runs/{quote(run.run_id)}"}


def run_child(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """The exit status, and what carclf said is wrong; the child's lines are streamed into the task's log.

    Whatever ends this, the child's whole group ends with it.
    """
    log.info("$ %s", shlex.join(command))
    reason, cgroup = "", find_cgroup()
    kills = count_oom_kills(cgroup)
    colours = {} if "NO_COLOR" in os.environ else {"FORCE_COLOR": "1"}  # Airflow's log shows them
    child = subprocess.Popen(
        command, env=environment | colours, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        text=True, errors="replace", start_new_session=True, preexec_fn=partial(set_parent_death_signal, os.getpid()),
    )
    with _ending_group(child):
        raise_oom_score(child.pid)
        assert child.stdout is not None
        for line in child.stdout:
            wrong = line.startswith("carclf: ")
            log.log(logging.ERROR if wrong else logging.INFO, "%s", line.rstrip())
            reason = line.strip().removeprefix("carclf: ") if wrong else reason
        status = child.wait()
    if status and (killed := explain_kill(status, kills, cgroup)):
        log.error("%s", killed)
        reason = killed
    return status, reason


@contextmanager
def _ending_group(child: subprocess.Popen[str]) -> Iterator[None]:
    def stop(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)  # Airflow clears a task by SIGTERM
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _signal_group(child, signal.SIGTERM)
        try:
            child.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("The child did not end within %.0f s", GRACE_SECONDS)
        _signal_group(child, signal.SIGKILL)
        child.wait()


def _signal_group(child: subprocess.Popen[str], number: signal.Signals) -> None:
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        log.debug("The child's group has ended")
