"""Where facts come from: a run's record, and the artifacts that it names; a part that cannot be read is told."""

import csv
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from carclf.artifacts import Artifact, Audit, Drift
from carclf.errors import CarclfError, ConfigError, DataError
from carclf.runs.index import NUM_READERS
from carclf.runs.record import Record, read_record
from carclf.services.storage import Store, format_command
from carclf.stages.chain import STAGES

T = TypeVar("T")
PAGE = re.compile(r"(?P<folder>[a-z]+)/(?P<key>[0-9a-f]+)/")
AUDIT = "audit"  # beside the stages: train_head's page of label errors, or of these and drift
# What a file that is whole, and of another version or written by somebody else, may lead to.
MALFORMED_DATA_ERRORS = (ValueError, KeyError, TypeError, AttributeError, IndexError, csv.Error)


@dataclass
class RunReader:
    """A run's record and its artifacts; ``problems`` are those parts that could not be read."""

    store: Store
    run_id: str
    record: Record
    problems: list[dict[str, str]] = field(default_factory=list)
    found: dict[str, Artifact | None] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)  # files by their keys

    def fetch(self, files: Mapping[str, Sequence[str]]) -> None:
        """Read what the stages left and these files of it at once; what cannot be read is told by who asks for it."""
        with ThreadPoolExecutor(NUM_READERS) as pool:
            list(pool.map(lambda stage: self._fetch(stage, files.get(stage, ())), (*STAGES, AUDIT)))

    def _fetch(self, stage: str, names: Sequence[str]) -> None:
        with suppress(CarclfError, *MALFORMED_DATA_ERRORS):
            self.artifact(stage)
            for name in names:
                self.content(stage, name)

    def part(self, name: str, make: Callable[[], T], otherwise: T) -> T:
        """What ``make`` makes; where it cannot, that is noted among the problems, and ``otherwise`` stands for it."""
        try:
            return make()
        except CarclfError as error:
            self.problems.append({"part": name, "text": str(error)})
        except MALFORMED_DATA_ERRORS as error:
            text = f"What the store has is damaged, or of another version of carclf: {error!r}. Run the stage again."
            self.problems.append({"part": name, "text": text})
        return otherwise

    def result(self, stage: str) -> dict[str, Any]:
        """What the record says of a stage's end; empty where it has not ended."""
        told: dict[str, Any] = self.record["stages"].get(stage) or {}
        return told

    def attempt(self, stage: str) -> dict[str, Any]:
        """What the record says of a try that is under way, failed or waits; empty where the last one ended well."""
        told: dict[str, Any] = (self.record.get("attempts") or {}).get(stage) or {}
        return told

    def artifact(self, stage: str) -> Artifact | None:
        """What a stage, or the audit, left; None where it has not ended, DataError where it is gone or damaged."""
        if stage not in self.found:
            kind, key = self._named(stage)
            self.found[stage] = _artifact(self.store, kind, key) if key else None
        return self.found[stage]

    def _named(self, stage: str) -> tuple[type[Artifact], str]:
        if stage == AUDIT:
            return _of_page(self.result("train_head"), Audit, Drift)
        if key := self.result(stage).get("key"):
            return STAGES[stage].artifact, key
        # A decision that waits for an approval: the record names its page only.
        return _of_page(self.attempt(stage), STAGES[stage].artifact) if stage == "promote" else (STAGES[stage].artifact, "")

    def content(self, stage: str, name: str) -> bytes | None:
        """A file of what a stage left, checked; None where there is none."""
        artifact = self.artifact(stage)
        file = artifact.files.get(name) if artifact else None
        if file is None:
            return None
        if file.key in self.contents:
            return self.contents[file.key]
        data = self.store.read(file.key)
        if data is None:
            raise DataError(f"{file.key} is gone from {self.store.url}. Run {stage} again with force to make it anew.")
        if hashlib.sha256(data.data).hexdigest() != file.sha256:
            raise DataError(f"{file.key} is damaged in {self.store.url}. Run {stage} again with force.")
        self.contents[file.key] = data.data
        return data.data

    def parsed(self, stage: str, name: str) -> Any:
        """A JSON file of what a stage left; None where there is none."""
        data = self.content(stage, name)
        return None if data is None else json.loads(data)


def open_run(store: Store, run_id: str) -> RunReader:
    """The source of a run's facts; ConfigError where there is no such run, DataError where its record is damaged."""
    if (record := read_record(store, run_id)) is None:
        raise ConfigError(f"There is no run {run_id!r} in {store.url}. List them: {format_command(store, 'runs list')}")
    return RunReader(store, run_id, record)


def to_jsonable(value: Any) -> Any:
    """The same with None for numbers that JSON has no word for."""
    if isinstance(value, dict):
        return {str(name): to_jsonable(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [to_jsonable(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _artifact(store: Store, kind: type[Artifact], key: str) -> Artifact:
    if (found := kind.find(store, key)) is None:
        raise DataError(f"{kind.folder}/{key} is gone from {store.url}. Run the stage again to make it anew.")
    return found


def _of_page(told: dict[str, Any], *kinds: type[Artifact]) -> tuple[type[Artifact], str]:
    """The kind and the key of what has the page that a stage's metrics name; "" where that is of none of these."""
    found = PAGE.match(str(told.get("metrics", {}).get("report", "")))
    kind = next((one for one in kinds if found and one.folder == found["folder"]), None)
    return (kind, found["key"]) if kind and found else (kinds[0], "")
