"""The record of a run, ``runs/<run id>.json``, changed only by compare-and-swap."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, FiniteFloat, with_config
from typing_extensions import TypedDict  # pydantic needs it on Python 3.11

from carclf.errors import ConfigError, NotFoundError
from carclf.services.storage import Store, format_command, parse_object, update_object

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
MAX_DAG_RUN_ID = 100  # characters; an experiment appends the recipe and the seed for the ids of its runs
DAG_RUN_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_DAG_RUN_ID - 1}}}")
HASH_LENGTH = 8
NOTHING_NEW = "nothing new"  # starts the reason of a run that ended because it would have repeated an earlier one
CLAIM_FIELDS = ("claimed_by", "claimed_at")  # of an attempt that waits for approval
STARTED_BY_VARIABLE = "CARCLF_STARTED_BY"  # of a stage's process: the person who triggered the DAG run


@with_config(extra="allow")
class StageRecord(TypedDict, total=False):
    """The result of a finished stage; ``machine`` describes where it ran, ``gpu`` is the GPU's name or empty."""

    stage: str
    key: str
    reused: bool
    seconds: FiniteFloat
    metrics: dict[str, Any]  # untyped: pages show a run with odd metrics
    summary: str
    skip_reason: str
    waiting: bool
    until: str
    ended: str
    gpu: str
    machine: dict[str, Any]


@with_config(extra="allow")
class Attempt(TypedDict, total=False):
    """The latest unfinished attempt at a stage; ``text`` is the reason of its state.

    The states are running, waiting, failed, skipped (there is nothing to do), declined (by a person) and expired
    (nobody responded). ``claimed_by`` names who asks a person, since ``claimed_at``, for the approval that the attempt
    waits for.
    """

    stage: str
    state: str
    since: str
    ended: str
    text: str
    until: str
    claimed_by: str
    claimed_at: str
    metrics: dict[str, Any]


def _require_key(result: StageRecord) -> StageRecord:
    if "key" not in result:
        raise ValueError("the key of the artifact is missing")
    return result


@with_config(extra="allow")
class Record(TypedDict):
    """The contents of a run's record; times are ISO 8601 in UTC. ``code`` is a fingerprint of carclf's modules.

    ``members`` are the runs that an ensemble combines. ``spent_seconds`` is the training time of a run that belongs
    to an experiment, over all attempts. ``tightened`` are the recipe's own values of settings that the policy made
    stricter, ``started_by`` is the person who started the run; it is empty for a schedule or an event. If the settings
    were ``rejected``, ``config`` is what was given.
    """

    run: str
    recipe: str
    config: dict[str, Any]
    stages: dict[str, Annotated[StageRecord, AfterValidator(_require_key)]]
    attempts: dict[str, Attempt]
    created: str
    updated: NotRequired[str]
    versions: NotRequired[dict[str, str]]
    code: NotRequired[str]
    machine: NotRequired[str]
    members: NotRequired[list[str]]
    spent_seconds: NotRequired[FiniteFloat]
    rejected: NotRequired[bool]
    tightened: NotRequired[dict[str, Any]]
    started_by: NotRequired[str]


def record_key(run_id: str) -> str:
    """Return the key of a run's record in the store; raise ConfigError if the run id is invalid."""
    if not RUN_ID.fullmatch(run_id):
        raise ConfigError(f"Invalid run id {run_id!r}. Use at most 200 letters, digits and ._- and start with a letter "
                          "or digit.")
    return f"runs/{run_id}.json"


def missing_run_error(store: Store, name: str, hint: str = "") -> NotFoundError:
    """Return the error about a run that the store does not have. ``hint`` is a sentence with a space at the end."""
    return NotFoundError(f"There is no run {name!r} in {store.url}. {hint}List the runs: "
                         f"{format_command(store, 'runs list')}")


def read_record(store: Store, run_id: str) -> Record | None:
    """Return the record, or None if the run does not exist; raise DataError if the record is damaged."""
    stored = store.read(record_key(run_id))
    return None if stored is None else parse_record(stored.data, run_id, store)


def change_record(store: Store, run_id: str, change: Callable[[Record], Record]) -> Record:
    """Replace the record by ``change(record)`` and return it; concurrent changes are not lost.

    Raise ConfigError if the record was removed, DataError if it is damaged.
    """
    changed: Record | None = None

    def replace(data: bytes | None) -> bytes:
        nonlocal changed
        if data is None:
            raise ConfigError(f"{record_key(run_id)} was removed from {store.url}. Restore it from a backup, or start "
                              "a new run: it reuses the artifacts of this one.")
        changed = change(parse_record(data, run_id, store))
        return json.dumps(changed, indent=1).encode()

    update_object(store, record_key(run_id), replace)
    assert changed is not None
    return changed


def parse_record(data: bytes, run_id: str, store: Store) -> Record:
    """Parse the bytes of a record; raise DataError if they are invalid."""
    fix = "Restore it from a backup, or start a new run with another --run: it reuses the artifacts of this one."
    return parse_object(Record, data, f"{record_key(run_id)} in {store.url}", fix)


def training_machine(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of the machine that trained the run's model; empty if unknown."""
    stages = record.get("stages", {})
    machine = (stages.get("fine_tune") or stages.get("train_head") or {}).get("machine")
    return machine if isinstance(machine, dict) else {}


def run_id_from_dag_run(dag_run_id: str) -> str:
    """Return the run id for a DAG run: Airflow's id, or a similar valid one that ends with a hash of Airflow's id.

    The hash keeps ids apart that differ only in unsupported characters.
    """
    if DAG_RUN_ID.fullmatch(dag_run_id):
        return dag_run_id
    name = re.sub(r"[^A-Za-z0-9._-]", "-", dag_run_id).lstrip("._-") or "run"
    return f"{name[:MAX_DAG_RUN_ID - HASH_LENGTH - 1]}-{hashlib.sha256(dag_run_id.encode()).hexdigest()[:HASH_LENGTH]}"
