"""What is known of each stage of a run, and the command that repeats it."""

import json
import shlex
from datetime import UTC, datetime
from typing import Any

from carclf.config import flatten, load_config
from carclf.dashboard.run_sources import RunReader
from carclf.runs.live import STALE_SECONDS, LiveProgress
from carclf.stages.chain import STAGES

Setting = dict[str, Any]


def changed_settings(source: RunReader) -> list[Setting]:
    """The run's settings that are not its recipe's: name, value, default (None: not known in this version)."""
    defaults, own = flatten(load_config(source.record["recipe"]).model_dump()), flatten(source.record["config"])
    return [{"name": name, "value": value, "default": defaults.get(name)} for name, value in own.items()
            if name not in defaults or value != defaults[name]]


def stage_facts(source: RunReader, settings: list[Setting], live: dict[str, LiveProgress]) -> list[dict[str, Any]]:
    """All stages in their order, as ``facts`` describes them."""
    found, skip = [], ""
    for stage in STAGES:
        found.append(_stage(source, stage, live.get(stage)) | {"command": _command(source, stage, settings)})
        if found[-1]["state"] == "pending" and skip:
            found[-1] |= {"state": "skipped", "text": skip}
        skip = source.result(stage).get("skip_reason") or skip
    return found


def _stage(source: RunReader, stage: str, live: LiveProgress | None) -> dict[str, Any]:
    done, attempt = source.result(stage), source.attempt(stage)
    artifact = source.part(stage, lambda: source.artifact(stage), None)
    files = artifact.files.items() if artifact else ()
    return {
        "name": stage, "state": stage_state(done, attempt, live), "text": attempt.get("text") or done.get("skip_reason") or "",
        "since": attempt.get("since", ""), "ended": attempt.get("ended") or done.get("ended") or "",
        "seconds": done.get("seconds"), "reused": bool(done.get("reused")), "gpu": done.get("gpu", ""),
        "summary": done.get("summary", ""), "metrics": done.get("metrics") or attempt.get("metrics") or {},
        "folder": STAGES[stage].artifact.folder, "key": artifact.key if artifact else done.get("key", ""),
        "files": [{"name": name, "key": file.key, "num_bytes": file.num_bytes} for name, file in files],
    }


def stage_state(done: dict[str, Any], attempt: dict[str, Any], live: LiveProgress | None) -> str:
    """The state of a stage, by what its record says of its end and of its latest try, and by its live points."""
    state = str(attempt.get("state") or ("done" if done else "pending"))
    if state != "running":
        return state
    if live is None or live["started"][:19] < attempt["since"][:19]:  # of an earlier attempt, or of none
        age = (datetime.now(UTC) - datetime.fromisoformat(attempt["since"])).total_seconds()
        return "stale" if age > STALE_SECONDS else "running"
    return "stale" if live["state"] == "stale" else "running"


def _command(source: RunReader, stage: str, settings: list[Setting]) -> str:
    place, members = ["--store", source.store.url], source.record.get("members", [])
    if members and stage == "fine_tune":
        return shlex.join(["carclf", "ensemble", *(part for member in members for part in ("--run", member)),
                           "--name", source.run_id, *place])
    command = ["carclf", stage, "--run", source.run_id, *place]
    if stage == "download":
        changes = (f"{one['name']}={_value(one['value'])}" for one in settings)
        command += ["--recipe", str(source.record.get("recipe", "")),
                    *(part for change in changes for part in ("--set", change))]
    if stage == "promote" and source.attempt(stage).get("state") == "waiting":
        command += ["--approved-by", "NAME"]
    return shlex.join(command)


def _value(value: Any) -> str:
    """As ``--set`` reads it: JSON, or else a string."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        json.loads(value)
    except ValueError:
        return value
    return json.dumps(value)  # a string that looks like a number
