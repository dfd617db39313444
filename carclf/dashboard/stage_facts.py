"""The state and the result of each stage of a run, and the command that repeats it."""

import json
import shlex
from datetime import UTC, datetime
from typing import Any

from carclf.artifacts import File
from carclf.config import build_config, flatten, parse_override
from carclf.dashboard.run_reader import Facts, RunReader
from carclf.runs.live import STALE_SECONDS, LiveProgress
from carclf.stages.chain import STAGES, stages_of


class ChangedSetting(Facts):
    """A setting that differs from the run's recipe; ``default`` is None if the recipe does not have it."""

    name: str
    value: Any
    default: Any


class StageFacts(Facts):
    """A stage of a run. Times are in ISO 8601; texts are "" and ``seconds`` is None where unknown."""

    name: str
    state: str  # not started, running, stale (probably killed), waiting, failed, declined, expired, done or skipped
    text: str  # the error, or why the stage waits or is skipped
    since: str
    ended: str
    seconds: float | None = None
    reused: bool
    gpu: str = ""
    summary: str = ""
    metrics: dict[str, Any]
    folder: str
    key: str
    files: dict[str, File]  # of the artifact, by name
    command: str


def changed_settings(reader: RunReader) -> tuple[ChangedSetting, ...]:
    """Return the run's settings that differ from its recipe; settings that come with its source do not."""
    recipe, settings = reader.record["recipe"], flatten(reader.record["config"])
    source = {name: value for name, value in settings.items() if name == "data.source"}
    default_source = build_config(recipe, {}).data.source
    defaults = flatten(build_config(recipe, source).model_dump()) | {"data.source": default_source}
    changed = [name for name, value in settings.items() if name not in defaults or value != defaults[name]]
    return tuple(ChangedSetting(name=name, value=settings[name], default=defaults.get(name)) for name in changed)


def all_stage_facts(
    reader: RunReader, settings: tuple[ChangedSetting, ...], live: dict[str, LiveProgress]
) -> tuple[StageFacts, ...]:
    """Return the facts of all stages in their order."""
    stages: list[StageFacts] = []
    skip_reason = ""
    for name in stages_of(reader.record["config"]):
        stage = _stage_facts(reader, name, live.get(name), _command(reader, name, settings))
        if stage.state == "not started" and skip_reason:
            stage = stage.model_copy(update={"state": "skipped", "text": skip_reason})
        stages.append(stage)
        ended = stage.text if stage.state in ("declined", "expired", "skipped") else ""
        skip_reason = reader.result(name).get("skip_reason") or ended or skip_reason
    return tuple(stages)


def _stage_facts(reader: RunReader, stage: str, live: LiveProgress | None, command: str) -> StageFacts:
    result = reader.result(stage)
    attempt = reader.attempt(stage)
    artifact = reader.try_section(stage, lambda: reader.artifact(stage), None)
    known = {name: result[name] for name in ("seconds", "gpu", "summary") if name in result}
    return StageFacts(
        name=stage, command=command, state=stage_state(result, attempt, live), **known,
        text=attempt.get("text") or result.get("metrics", {}).get("reason") or result.get("skip_reason") or "",
        since=attempt.get("since", ""), ended=attempt.get("ended") or result.get("ended") or "",
        reused=bool(result.get("reused")), metrics=result.get("metrics") or attempt.get("metrics") or {},
        folder=STAGES[stage].artifact.folder, key=artifact.key if artifact else result.get("key", ""),
        files=artifact.files if artifact else {},
    )


def stage_state(result: dict[str, Any], attempt: dict[str, Any], live: LiveProgress | None) -> str:
    """Return the state of a stage from its result, its latest attempt and its live progress."""
    state = str(attempt.get("state") or ("done" if result else "not started"))
    if state != "running":
        return state
    if live is None or live["started"][:19] < attempt["since"][:19]:  # no progress of this attempt
        age = (datetime.now(UTC) - datetime.fromisoformat(attempt["since"])).total_seconds()
        return "stale" if age > STALE_SECONDS else "running"
    return "stale" if live["state"] == "stale" else "running"


def _command(reader: RunReader, stage: str, settings: tuple[ChangedSetting, ...]) -> str:
    store = ["--store", reader.store.url]
    members = reader.record.get("members", [])
    if members and stage == "fine_tune":
        runs = [part for member in members for part in ("--run", member)]
        return shlex.join(["carclf", "ensemble", *runs, "--name", reader.run_id, *store])
    state = reader.attempt(stage).get("state") if stage == "promote" else ""
    if state == "declined":
        return shlex.join(["carclf", "champion", stage, "--run", reader.run_id, *store, "--override", "REASON"])
    command = ["carclf", stage, "--run", reader.run_id, *store]
    if stage == "download":
        command += _options(reader, settings)
    if state in ("waiting", "expired"):
        command += ["--approved-by", "NAME"]
    return shlex.join(command)


def new_run_command(reader: RunReader, settings: tuple[ChangedSetting, ...]) -> str:
    """Return the command that starts another run with the same recipe and settings; "" for an ensemble."""
    if reader.record.get("members"):
        return ""
    return shlex.join(["carclf", "run", "--store", reader.store.url, *_options(reader, settings)])


def _options(reader: RunReader, settings: tuple[ChangedSetting, ...]) -> list[str]:
    changes = [part for text in as_overrides(settings) for part in ("--set", text)]
    return ["--recipe", str(reader.record.get("recipe", "")), *changes]


def as_overrides(settings: tuple[ChangedSetting, ...]) -> tuple[str, ...]:
    """Return the settings as ``--set`` accepts them."""
    return tuple(f"{setting.name}={_override(setting.value)}" for setting in settings)


def _override(value: Any) -> str:
    """Return a value as ``--set`` parses it: JSON, and everything else as a string."""
    is_plain = isinstance(value, str) and parse_override(f"={value}")[1] == value
    return value if is_plain else json.dumps(value)
