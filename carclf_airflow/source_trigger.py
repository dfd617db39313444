"""The triggers that watch a source: they run ``carclf source status`` or the like and announce a change to a DAG.

Their state is in Airflow's state store of the asset that they watch, so that a restarted triggerer continues with it.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from typing import Any, ClassVar

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from carclf.redaction import redact
from carclf.temporary import temporary_folder
from carclf_airflow.ids import PREDICT_DAG, RETRAIN_DAG
from carclf_airflow.source_watch import Observation, WatchRules, announce_if_due
from carclf_airflow.stage_process import ERROR_PREFIX, GRACE_SECONDS, child_environment

TIMEOUT_SECONDS = 1800.0
SHUTDOWN_SECONDS = 2.0  # in which a triggerer that got SIGTERM together with its child processes cancels its triggers
# carclf, ended by the kernel with its parent, whose process id is the first argument.
CARCLF = ("import sys; from carclf_airflow.oom import set_parent_death_signal; "
          "set_parent_death_signal(int(sys.argv.pop(1))); from carclf.cli.app import main; main()")
ACTIVE_STATES = ["queued", "running"]
MAX_PROBLEM_CHARS = 1000


class SourceUnavailableError(Exception):
    """The source cannot be listed at present; the message is the reason."""


class SourceTrigger(BaseEventTrigger):  # type: ignore[misc]  # Airflow is not type-checked here
    """Announce to car_retrain the source's contents once they are new and complete."""

    command: ClassVar[Sequence[str]] = ("source", "status")
    stage: ClassVar[str] = "download"  # whose environment the command has
    dag_id: ClassVar[str] = RETRAIN_DAG

    def __init__(
        self, poll_seconds: float, quiet_minutes: float, min_new_images: float, min_hours_between_runs: float
    ) -> None:
        super().__init__()
        self.poll_seconds = poll_seconds
        self.quiet_minutes = quiet_minutes
        self.min_new_images = min_new_images
        self.min_hours_between_runs = min_hours_between_runs

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the path of the class and its arguments. Other arguments make Airflow replace the trigger."""
        names = ("poll_seconds", "quiet_minutes", "min_new_images", "min_hours_between_runs")
        return f"{__name__}.{type(self).__name__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll for ever. A source that is unavailable is logged once, and again when it is available.

        An error of any kind is one of these: it would end the trigger, and Airflow would start it again at once.
        """
        is_available = True
        while True:
            event = None
            try:
                event = await self._poll()
            except Exception as error:
                if is_available:
                    await asyncio.sleep(SHUTDOWN_SECONDS)
                    self.log.warning("source: unavailable, nothing is started: %s", error,
                                     exc_info=not isinstance(error, SourceUnavailableError))
                is_available = False
            else:
                if not is_available:
                    self.log.info("source: available again")
                is_available = True
            if event:
                yield TriggerEvent(event)
            await asyncio.sleep(self.poll_seconds)

    async def _poll(self) -> dict[str, Any] | None:
        """Observe the source once; return an event's payload if its contents have to be announced."""
        was_active = await _has_active_run(self.dag_id)
        status = await read_status(self.command, self.stage)
        observation = Observation(
            status["fingerprint"], status["changed"], status["num_new_images"],
            was_active or await _has_active_run(self.dag_id),
        )
        rules = WatchRules(self.poll_seconds, 60 * self.quiet_minutes, int(self.min_new_images),
                           3600 * self.min_hours_between_runs)
        if not await announce_if_due(self._store, observation, rules, time.time(), asyncio.sleep):
            return None
        self.log.info("source: changed, a run starts: %s", json.dumps(asdict(observation)))
        return status

    @property
    def _store(self) -> Any:
        """The state store of the only asset that this trigger watches."""
        if self.asset_state_store is None:
            raise RuntimeError(f"{type(self).__name__} watches an asset; it cannot be the trigger of a task.")
        return self.asset_state_store


class PredictionTrigger(SourceTrigger):
    """Announce to car_predict that the source has images that the champion has not predicted."""

    command = ("predictions", "status")
    stage = "evaluate"
    dag_id = PREDICT_DAG


async def _has_active_run(dag_id: str) -> bool:
    from airflow.sdk.execution_time.comms import GetDRCount
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    response = await SUPERVISOR_COMMS.asend(GetDRCount(dag_id=dag_id, states=ACTIVE_STATES))
    return bool(response.count)


async def read_status(command: Sequence[str], stage: str) -> dict[str, Any]:
    """Return the result of a command of carclf as a child process, which has the environment of a stage.

    Raises:
        SourceUnavailableError: The command failed, or took longer than half an hour.
    """
    environment = await asyncio.to_thread(child_environment, stage)
    arguments = [*command, "--json", "--store", os.environ.get("CARCLF_STORE", "store")]
    # Without this folder, the listing of each earlier archive would stay in the triggerer's cache. A thread enters and
    # leaves it, because both may wait for locks and remove many files, and the event loop serves all triggers.
    folder = ExitStack()
    try:
        path = await asyncio.to_thread(folder.enter_context, temporary_folder())
        status, output, errors = await _run_carclf(
            arguments, environment | {"TMPDIR": str(path), "CARCLF_CACHE": str(path)})
    finally:
        await asyncio.to_thread(folder.close)
    if status:
        raise SourceUnavailableError(_last_error(errors) or f"carclf {' '.join(command)} exited with {status}")
    result: dict[str, Any] = json.loads(output)
    return result


async def _run_carclf(arguments: list[str], environment: dict[str, str]) -> tuple[int | None, bytes, bytes]:
    """Return the exit status and the output of a child process. However this ends, its process group ends with it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CARCLF, str(os.getpid()), *arguments, env=environment, start_new_session=True,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), TIMEOUT_SECONDS)
    except TimeoutError:
        raise SourceUnavailableError(f"carclf {arguments[0]} status took longer than {TIMEOUT_SECONDS:.0f} s") from None
    finally:
        with suppress(ProcessLookupError, TimeoutError):
            os.killpg(process.pid, signal.SIGKILL)
            await asyncio.wait_for(process.wait(), GRACE_SECONDS)
    return process.returncode, output, errors


def _last_error(errors: bytes) -> str:
    """Return the error that carclf reported, or the last line of its output."""
    lines = redact(errors.decode(errors="replace")).splitlines()
    reported = [line.removeprefix(ERROR_PREFIX) for line in lines if line.startswith(ERROR_PREFIX)]
    return "".join((reported or lines)[-1:])[:MAX_PROBLEM_CHARS]
