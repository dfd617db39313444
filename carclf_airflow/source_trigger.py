"""The trigger that watches the source: it runs ``carclf source status`` and announces a change to car_retrain.

Its state is in Airflow's state store of the asset ``SOURCE``, so that a restarted triggerer continues with it.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from functools import partial
from typing import Any

from airflow.sdk.exceptions import AirflowRuntimeError
from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from carclf.redaction import redact
from carclf.temporary import temporary_folder
from carclf_airflow.ids import RETRAIN_DAG
from carclf_airflow.oom import set_parent_death_signal
from carclf_airflow.source_watch import Observation, WatchRules, announce_if_due
from carclf_airflow.stage_process import ERROR_PREFIX, child_environment

TIMEOUT_SECONDS = 1800.0
ACTIVE_STATES = ["queued", "running"]
MAX_PROBLEM_CHARS = 1000


class SourceUnavailableError(Exception):
    """The source cannot be listed at present; the message is the reason."""


class SourceTrigger(BaseEventTrigger):  # type: ignore[misc]  # Airflow is not type-checked here
    """Announce the source's contents once they are new and complete."""

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
        """Poll for ever. A source that is unavailable is logged once, and again when it is available."""
        is_available = True
        while True:
            event = None
            try:
                event = await self._poll()
            except (SourceUnavailableError, AirflowRuntimeError) as error:  # the second is of Airflow's database
                if is_available:
                    self.log.warning("source: unavailable, nothing is started: %s", error)
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
        was_active = await _has_active_run()
        status = await read_source_status()
        observation = Observation(
            status["fingerprint"], status["changed"], status["num_new_images"], was_active or await _has_active_run(),
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


async def _has_active_run() -> bool:
    from airflow.sdk.execution_time.comms import GetDRCount
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    response = await SUPERVISOR_COMMS.asend(GetDRCount(dag_id=RETRAIN_DAG, states=ACTIVE_STATES))
    return bool(response.count)


async def read_source_status() -> dict[str, Any]:
    """Return the result of ``carclf source status`` as a child process.

    Raises:
        SourceUnavailableError: The command failed, or took longer than half an hour.
    """
    environment = await asyncio.to_thread(child_environment, "download")
    command = [sys.executable, "-m", "carclf", "source", "status", "--json", "--store",
               os.environ.get("CARCLF_STORE", "store")]
    # Otherwise the listing of each earlier archive would stay in the triggerer's cache.
    with temporary_folder() as folder:
        process = await asyncio.create_subprocess_exec(
            *command, env=environment | {"TMPDIR": str(folder), "CARCLF_CACHE": str(folder)}, start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            preexec_fn=partial(set_parent_death_signal, os.getpid()),
        )
        try:
            output, errors = await asyncio.wait_for(process.communicate(), TIMEOUT_SECONDS)
        except TimeoutError:
            raise SourceUnavailableError(f"carclf source status took longer than {TIMEOUT_SECONDS:.0f} s") from None
        finally:
            if process.returncode is None:
                process.kill()
    if process.returncode:
        raise SourceUnavailableError(_last_error(errors) or f"carclf source status exited with {process.returncode}")
    status: dict[str, Any] = json.loads(output)
    return status


def _last_error(errors: bytes) -> str:
    """Return the error that carclf reported, or the last line of its output."""
    lines = redact(errors.decode(errors="replace")).splitlines()
    reported = [line.removeprefix(ERROR_PREFIX) for line in lines if line.startswith(ERROR_PREFIX)]
    return "".join((reported or lines)[-1:])[:MAX_PROBLEM_CHARS]
