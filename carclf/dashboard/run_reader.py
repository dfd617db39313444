"""Read a run's record and its artifacts; a section that cannot be read becomes a problem instead of an error."""

import csv
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from carclf.artifacts import Artifact, Audit, Drift, damaged_error
from carclf.errors import CarclfError
from carclf.redaction import redact
from carclf.runs.index import NUM_READERS, Row, index_row, is_champion
from carclf.runs.record import Record, missing_run_error, read_record
from carclf.services.storage import Store
from carclf.stages.chain import STAGES

T = TypeVar("T")
REPORT_KEY = re.compile(r"(?P<folder>[a-z]+)/(?P<key>[0-9a-f]+)/")
AUDIT = "audit"  # not a stage: the label errors, or label errors and drift, that train_head reports
# Errors that a file with a valid checksum but unexpected content can raise.
MALFORMED_DATA_ERRORS = (ValueError, KeyError, TypeError, AttributeError, IndexError, csv.Error)


class Facts(BaseModel):
    """Base of the immutable values that pages and ``--json`` show."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, protected_namespaces=())

    def to_json(self) -> dict[str, Any]:
        """Return the values as JSON data: lists instead of tuples, None instead of NaN and infinity."""
        content: dict[str, Any] = json.loads(json.dumps(self.model_dump()), parse_constant=lambda _: None)
        return content


class Problem(Facts):
    """A section of a run that cannot be read, and why."""

    section: str
    text: str


class RunReader:
    """A run's record and artifacts, each read once. ``problems`` collects the sections that cannot be read."""

    def __init__(self, store: Store, run_id: str, record: Record) -> None:
        self.store = store
        self.run_id = run_id
        self.record = record
        self.problems: list[Problem] = []
        self._artifacts: dict[str, Artifact | None] = {}
        self._file_cache: dict[str, bytes] = {}

    def prefetch(self, files: Mapping[str, Sequence[str]]) -> None:
        """Read all artifacts and these files of them in parallel. Errors are raised by the later reads."""
        with ThreadPoolExecutor(NUM_READERS) as pool:
            list(pool.map(lambda stage: self._prefetch(stage, files.get(stage, ())), (*STAGES, AUDIT)))

    def _prefetch(self, stage: str, names: Sequence[str]) -> None:
        with suppress(CarclfError, *MALFORMED_DATA_ERRORS):
            self.artifact(stage)
            for name in names:
                self.read_file(stage, name)

    def try_section(self, section: str, read: Callable[[], T], default: T) -> T:
        """Return ``read()``. If it fails, record a problem of the section and return ``default``."""
        try:
            return read()
        except CarclfError as error:
            text = str(error)
        except MALFORMED_DATA_ERRORS as error:
            text = f"The data in the store has an unexpected format: {error!r}. Find the cause: carclf store check"
        self.problems.append(Problem(section=section, text=redact(text)))
        return default

    def index_row(self) -> Row:
        """Return the run's row of the index, computed from its record."""
        row = index_row(self.record) | {"run": self.run_id}
        return row | {"champion": self.try_section("champion", lambda: is_champion(self.store, row), False)}

    def result(self, stage: str) -> dict[str, Any]:
        """Return the record's entry of a finished stage, or an empty dict."""
        return dict(self.record["stages"].get(stage) or {})

    def attempt(self, stage: str) -> dict[str, Any]:
        """Return the record's entry of an attempt that is running, waiting or failed, or an empty dict."""
        return dict(self.record["attempts"].get(stage) or {})

    def artifact(self, stage: str) -> Artifact | None:
        """Return the artifact of a stage or of the audit, None if it has not finished; DataError if it is damaged."""
        if stage not in self._artifacts:
            kind, key = self._artifact_key(stage)
            self._artifacts[stage] = kind.require(self.store, key) if key else None
        return self._artifacts[stage]

    def _artifact_key(self, stage: str) -> tuple[type[Artifact], str]:
        if stage == AUDIT:
            return _artifact_of_report(self.result("train_head"), Audit, Drift)
        if stage == "promote" and not self.result(stage).get("key"):
            # While a decision waits for approval, the record names its report but not its key.
            return _artifact_of_report(self.attempt(stage), STAGES[stage].artifact)
        return STAGES[stage].artifact, self.result(stage).get("key", "")

    def read_file(self, stage: str, name: str) -> bytes | None:
        """Return a file of a stage's artifact, or None if there is no such file; DataError if it is damaged."""
        artifact = self.artifact(stage)
        file = artifact.files.get(name) if artifact else None
        if file is None:
            return None
        if file.key not in self._file_cache:
            content = self.store.read(file.key)
            if content is None:
                raise damaged_error(self.store, file.artifact_path, f"{file.key} is missing from {self.store.url}.")
            if hashlib.sha256(content.data).hexdigest() != file.sha256:
                raise damaged_error(self.store, file.artifact_path, f"{file.key} is damaged in {self.store.url}.")
            self._file_cache[file.key] = content.data
        return self._file_cache[file.key]

    def read_json(self, stage: str, name: str) -> Any:
        """Return the content of a JSON file of a stage's artifact, or None if there is no such file."""
        content = self.read_file(stage, name)
        return None if content is None else json.loads(content)


def open_run(store: Store, run_id: str) -> RunReader:
    """Return a reader of the run; NotFoundError if the run does not exist, DataError if its record is damaged."""
    if (record := read_record(store, run_id)) is None:
        raise missing_run_error(store, run_id)
    return RunReader(store, run_id, record)


def _artifact_of_report(entry: dict[str, Any], *kinds: type[Artifact]) -> tuple[type[Artifact], str]:
    """Return the kind and key of the artifact whose report an entry's metrics name; "" if its kind is another."""
    match = REPORT_KEY.match(str(entry.get("metrics", {}).get("report", "")))
    kind = next((kind for kind in kinds if match and kind.folder == match["folder"]), None)
    return (kind, match["key"]) if kind and match else (kinds[0], "")
