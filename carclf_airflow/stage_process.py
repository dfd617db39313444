"""Run a stage as a child process of an Airflow task: stream its output to the log, end the task by its exit status."""

import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import quote

from airflow.sdk import PokeReturnValue, Variable
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSkipException,
    DownstreamTasksSkipped,
)

from carclf.config import iter_settings
from carclf.formatting import truncate
from carclf.progress import TASK_LOG_VARIABLE
from carclf.redaction import redact
from carclf.runs.record import STARTED_BY_VARIABLE, run_id_from_dag_run
from carclf.temporary import temporary_folder
from carclf_airflow.ids import ANNOUNCE_TASK
from carclf_airflow.lineage import emit_stage
from carclf_airflow.oom import count_oom_kills, explain_kill, find_cgroup, raise_oom_score, set_parent_death_signal

log = logging.getLogger("airflow.task")

RESULT_OPTION = "--result"
EXIT_DATA = 65
EXIT_NOT_FOUND = 66
EXIT_RETRY = 75
EXIT_CONFIG = 78
EXIT_SKIP = 99
SIGNAL_STATUS = 128  # a shell adds it to the number of the signal that ended a process
# The child gets the variables that it needs and none of Airflow's secrets; only three stages get Kaggle's credentials.
# A worker or pod has no variable or file with them, which all of its processes could read: a task of these stages gets
# them from Airflow's variables.
ALLOWED = re.compile(
    r"PATH|HOME|LANG|LC_.*|TZ|TMPDIR|XDG_.*|PYTHONPATH|PYTHONUTF8|LD_LIBRARY_PATH|NETRC|CARCLF_(?!KAGGLE|AIRFLOW_(?:URL|TOKEN)$).*|AWS_.*"
    r"|KERAS_.*|TF_.*|XLA_.*|CUDA_.*|NVIDIA_.*|OPENBLAS_.*|OMP_.*|SSL_CERT_.*|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE"
    r"|(?i:https?_proxy|no_proxy)|OTEL_.*|MLFLOW_.*|HF_ENDPOINT"
)
ALLOWED_WITH_KAGGLE = re.compile(rf"{ALLOWED.pattern}|KAGGLE_.*|CARCLF_KAGGLE_.*")
KAGGLE_STAGES = ("download", "submit", "score")
# Airflow's variables by the child's variable; Airflow masks values whose name contains token or api_key.
KAGGLE_CREDENTIALS = {"KAGGLE_API_TOKEN": "kaggle_api_token", "KAGGLE_USERNAME": "kaggle_username",
                      "KAGGLE_KEY": "kaggle_api_key"}
ERROR_PREFIX = "carclf: "  # of the line in which carclf reports an error
LOG_LINE = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL) (.*)")
GRACE_SECONDS = 10.0
# XCom holds what a person reads; the run's record in the store holds everything.
MAX_METRICS = 40
MAX_METRIC_CHARS = 200
MAX_TEXT_CHARS = 1000  # of a reason or a summary
MAX_ARGUMENT_CHARS = 20_000  # Linux limits an argument to 128 KiB; carclf rejects settings of this length
SIGNIFICANT_DIGITS = 6  # enough for a public score
HIDDEN_METRICS = {"class_names", "weights"}
LONG_METRICS = {"reason", "rejection", "override"}


@dataclass(frozen=True)
class EndedCommand:
    """A command that has exited: its status, the error that it reported, and its result (None if missing)."""

    status: int
    error: str
    result: Any


def download_arguments(params: Mapping[str, Any]) -> list[str]:
    """Return the arguments of ``download`` for the trigger form's values.

    Unknown names are among them, even without a value, so that carclf rejects and records them.
    """
    settings = {name for name, _ in iter_settings()}
    chosen = [(name, json.dumps(value)) for name, value in params.items() if value is not None or name not in settings]
    # A quoted name stays unknown to carclf, even if it contains an equals sign.
    names = {name: name if re.fullmatch(r"[\w.]+", name) else json.dumps(name) for name, _ in chosen}
    pairs = [f"{names[name]}={value}"[:MAX_ARGUMENT_CHARS] for name, value in chosen if name != "recipe"]
    return ["--recipe", str(params["recipe"]), *(part for pair in pairs for part in ("--set", pair))]


def run_stage(stage: str, context: Mapping[str, Any], *arguments: str, run: str = "") -> dict[str, Any]:
    """Run a stage in a child process and return its result, small enough for XCom.

    ``run`` is the run's id, by default the one for this DAG run.
    """
    run_id = run or run_id_from_dag_run(context["dag_run"].run_id)
    settings = download_arguments(context["params"]) if stage == "download" else []
    environment = child_environment(stage) | airflow_run_environment(context)
    ended = run_command(stage, ["--run", run_id, *arguments, *settings], environment)
    result = truncate_result(ended.result or {})
    if result.get("key"):
        emit_stage(run_id, result)
    if ended.status == EXIT_SKIP and not result["key"]:
        context["ti"].xcom_push(key="return_value", value=result)
        raise AirflowSkipException(f"{stage} is skipped, and the tasks after it: {result['skip_reason']}")
    if ended.status == EXIT_SKIP:
        log.info("%s: skipping downstream tasks reason=%s", stage, result["skip_reason"])
        downstream = sorted(context["task"].get_flat_relative_ids(upstream=False))
        skip_tasks(context, [name for name in downstream if not name.endswith(ANNOUNCE_TASK)], result)
    # A transient error has status 75 too, but leaves no result.
    if ended.status == EXIT_RETRY and result.get("waiting"):
        return result
    if ended.status != 0:
        error = truncate(ended.error, MAX_TEXT_CHARS) or f"{stage} exited with status {ended.status}"
        context["ti"].xcom_push(key="error", value=error)
    raise_for_status(stage, ended.status, ended.error)
    return result


def run_command(command: str, options: list[str], environment: dict[str, str]) -> EndedCommand:
    """Run a command of carclf in a child process."""
    # Files that a killed child leaves behind are removed with the temporary folder.
    with temporary_folder() as folder:
        path = folder / "result.json"
        arguments = [*command.split(), "--store", os.environ.get("CARCLF_STORE", "store"), *options]
        child = [sys.executable, "-u", "-m", "carclf", *arguments, RESULT_OPTION, str(path)]
        status, error = run_child(child, environment | {"TMPDIR": str(folder)})
        result = json.loads(path.read_text(), parse_float=_round_float) if path.exists() else None
        return EndedCommand(status, error, result)


def run_for_result(command: str, options: list[str], environment: dict[str, str]) -> Any:
    """Run a command of carclf that must succeed; return its result."""
    ended = run_command(command, options, environment)
    raise_for_status(command.rsplit(maxsplit=1)[-1], ended.status, ended.error)
    return ended.result


def raise_for_status(command: str, status: int, error: str = "") -> None:
    """Raise unless a command exited with 0; AirflowFailException if a retry cannot help."""
    if status in (EXIT_DATA, EXIT_NOT_FOUND, EXIT_CONFIG):
        new_run = ", or if a setting of the run is wrong, trigger a new run" if status == EXIT_CONFIG else ""
        raise AirflowFailException(f"{command} exited with status {status}: fix the error reported above, then clear "
                                   f"this task{new_run}. Retrying would not help, so it is not retried")
    if status != 0:
        killed = status < 0 or status > SIGNAL_STATUS
        raise AirflowException(f"{command} exited with status {status}{f' ({error})' if error and killed else ''}; "
                               "Airflow retries it if retries are left")


def truncate_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stage's result for XCom, with a limited size."""
    shown = [item for item in list(result.get("metrics", {}).items())[:MAX_METRICS] if item[0] not in HIDDEN_METRICS]
    metrics = {
        str(name)[:MAX_METRIC_CHARS]: _truncate(value, MAX_TEXT_CHARS if name in LONG_METRICS else MAX_METRIC_CHARS)
        for name, value in shown
    }
    return {name: metrics if name == "metrics" else _truncate(value, MAX_TEXT_CHARS) for name, value in result.items()}


def _round_float(text: str) -> float:
    """Round a number for XCom; decisions use the exact numbers in the store."""
    return float(f"{float(text):.{SIGNIFICANT_DIGITS}g}")


def _truncate(value: Any, max_length: int) -> Any:
    return truncate(value, max_length) if isinstance(value, str) else value


def poke_stage(stage: str, context: Mapping[str, Any], run: str = "") -> PokeReturnValue:
    """Run a stage that may have to wait; reschedule it for the time that it returns, or for the next poke."""
    return poke_value(run_stage(stage, context, run=run))


def poke_value(result: Mapping[str, Any]) -> PokeReturnValue:
    """Return a sensor's value for a command's result; reschedule the task if the result has the time for that."""
    if result["waiting"] and result["until"]:
        raise AirflowRescheduleException(datetime.fromisoformat(result["until"]))
    return PokeReturnValue(is_done=not result["waiting"], xcom_value=result)


def skip_tasks(context: Mapping[str, Any], tasks: list[str], result: dict[str, Any]) -> None:
    """End this task with its result and skip the given tasks; in a mapped group, those of the same map index."""
    context["ti"].xcom_push(key="return_value", value=result)
    map_index = context["ti"].map_index
    raise DownstreamTasksSkipped(tasks=[(name, map_index) for name in tasks] if map_index >= 0 else tasks)


def child_environment(stage: str) -> dict[str, str]:
    """Return the part of this process's environment that the child of a stage gets."""
    if stage not in KAGGLE_STAGES:
        return {name: value for name, value in os.environ.items() if ALLOWED.fullmatch(name)}
    environment = {name: value for name, value in os.environ.items() if ALLOWED_WITH_KAGGLE.fullmatch(name)}
    return environment if any(environment.get(name) for name in KAGGLE_CREDENTIALS) else environment | _credentials()


def _credentials() -> dict[str, str]:
    values = {name: Variable.get(variable, default="") for name, variable in KAGGLE_CREDENTIALS.items()}
    return {name: value for name, value in values.items() if value}


def airflow_run_environment(context: Mapping[str, Any]) -> dict[str, str]:
    """Return variables about this DAG run: who triggered it, and with [api] base_url its URL, for MLflow."""
    run = context["dag_run"]
    environment = {STARTED_BY_VARIABLE: run.triggering_user_name or ""}
    if base := conf.get("api", "base_url", fallback="").rstrip("/"):
        environment["CARCLF_AIRFLOW_RUN_URL"] = f"{base}/dags/{run.dag_id}/runs/{quote(run.run_id)}"
    return environment


def run_child(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run a command, stream its output into the task's log, and return its exit status and the error it reported.

    However this function ends, the child's process group ends with it.
    """
    end = command.index(RESULT_OPTION) if RESULT_OPTION in command else None
    log.info("$ %s", redact(shlex.join(command[:end])))  # without --result, so that it can be pasted into a terminal
    cgroup = find_cgroup()
    kills = count_oom_kills(cgroup)
    output = {TASK_LOG_VARIABLE: "1"}
    if "NO_COLOR" not in os.environ:
        output["FORCE_COLOR"] = "1"  # Airflow's log viewer shows colors
    child = subprocess.Popen(
        command, env=environment | output, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        text=True, errors="replace", start_new_session=True,
        preexec_fn=partial(set_parent_death_signal, os.getpid()),  # noqa: PLW1509 (runs nothing but prctl)
    )
    with _ending_group(child):
        raise_oom_score(child.pid)
        error = _stream(child)
        status = child.wait()
    if status and (killed := explain_kill(status, kills, cgroup)):
        log.error("%s", killed)
        error = killed
    return status, error


def _stream(child: subprocess.Popen[str]) -> str:
    """Log the child's lines at their levels as they come; return the last error that it reported."""
    error = ""
    assert child.stdout is not None
    for output in child.stdout:
        line = redact(output).rstrip()  # native code and grandchildren write to it too
        if line.startswith(ERROR_PREFIX):
            error = line.removeprefix(ERROR_PREFIX)
            log.error("%s", line)
        elif record := LOG_LINE.fullmatch(line):
            log.log(logging.getLevelNamesMapping()[record[1]], "%s", record[2])
        else:
            log.info("%s", line)
    return error


@contextmanager
def _ending_group(child: subprocess.Popen[str]) -> Iterator[None]:
    def stop(number: int, _: Any) -> None:
        raise SystemExit(SIGNAL_STATUS + number)

    previous = signal.signal(signal.SIGTERM, stop)  # Airflow sends SIGTERM when a task is cleared
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
        _signal_group(child, signal.SIGTERM)
        try:
            child.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("the child did not exit within %.0f s after SIGTERM; sending SIGKILL", GRACE_SECONDS)
        _signal_group(child, signal.SIGKILL)
        child.wait()


def _signal_group(child: subprocess.Popen[str], number: signal.Signals) -> None:
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        log.debug("the child's process group has exited")
