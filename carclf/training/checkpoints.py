"""Atomic training checkpoints in the store; any machine can resume from them. ``Trainer`` decides what is saved."""

import json
import secrets
import zipfile
from typing import Annotated, Any, NotRequired

import numpy as np
from pydantic import Field
from typing_extensions import TypedDict  # pydantic needs it on Python 3.11

from carclf.artifacts import file_sha256
from carclf.errors import DataError
from carclf.progress import log
from carclf.services.storage import Store, parse_object
from carclf.temporary import temporary_folder

Arrays = list[Any]
PROCESS_ID = secrets.token_hex(4)  # in the names of the files that this process writes
NO_CHECKPOINT = b"null"  # the content of latest.json after the training
ENTRY_FIELDS = ("file", "sha256", "state")
FileName = Annotated[str, Field(pattern=r"^[0-9a-z][0-9a-z.-]*$", max_length=100)]


class PreviousEntry(TypedDict):
    """A file with the arrays of a checkpoint, its digest, and the trainer's state."""

    file: FileName
    sha256: str
    state: dict[str, Any]


class Entry(PreviousEntry):
    """The content of ``latest.json``: the newest checkpoint and the one before it."""

    previous: NotRequired[PreviousEntry]


class Checkpoints:
    """The checkpoints of one training, in the folder ``checkpoints/<key>``.

    ``latest.json`` names the newest checkpoint and the one before it, which is used if the newest is damaged. Each
    process alternates between two files of its own, so that a worker that was presumed dead but is still running does
    not overwrite the files of the worker that replaced it.
    """

    def __init__(self, store: Store, key: str) -> None:
        self.store = store
        self.folder = f"checkpoints/{key}"
        self._latest_key = f"{self.folder}/latest.json"

    def save(self, arrays: Arrays, state: dict[str, Any]) -> None:
        """Write the arrays to this process's older file, then name that file in ``latest.json``."""
        latest = self._latest()
        first, second = (f"{PROCESS_ID}-{letter}.npz" for letter in "ab")
        name = second if latest and latest["file"] == first else first
        with temporary_folder() as folder:
            path = folder / name
            np.savez(path, *arrays)
            self.store.upload(path, f"{self.folder}/{name}")
            entry: dict[str, Any] = {"file": name, "sha256": file_sha256(path), "state": state}
        if latest:
            entry["previous"] = {field: latest[field] for field in ENTRY_FIELDS}
        self.store.write(self._latest_key, json.dumps(entry).encode())

    def load(self) -> tuple[Arrays, dict[str, Any]] | None:
        """Return the arrays and the state of the newest undamaged checkpoint, or None."""
        latest = self._latest() or {}
        for entry in filter(None, (latest, latest.get("previous"))):
            if checkpoint := self._read(entry):
                return checkpoint
            log.warning("fine_tune: checkpoint is damaged or missing, trying the previous checkpoint file=%s/%s",
                        self.folder, entry["file"])
        return None

    def clear(self) -> None:
        """Free the space of the checkpoints. Call this once the trained model is in the store."""
        latest = self.store.read(self._latest_key)
        if latest is None or latest.data == NO_CHECKPOINT:
            return
        self.store.write(self._latest_key, NO_CHECKPOINT)
        for key in list(self.store.list_keys(f"{self.folder}/")):
            if key.endswith(".npz"):
                self.store.write(key, b"")

    def _read(self, entry: dict[str, Any]) -> tuple[Arrays, dict[str, Any]] | None:
        with temporary_folder() as folder:
            path = folder / entry["file"]
            try:
                self.store.download(f"{self.folder}/{entry['file']}", path)
            except (KeyError, DataError):
                return None
            if file_sha256(path) != entry["sha256"]:
                return None
            try:
                with np.load(path, allow_pickle=False) as file:
                    return [file[f"arr_{position}"] for position in range(len(file.files))], entry["state"]
            except (ValueError, LookupError, EOFError, zipfile.BadZipFile):  # pickled objects, or no archive of arrays
                return None

    def _latest(self) -> dict[str, Any] | None:
        content = self.store.read(self._latest_key)
        if content is None or content.data == NO_CHECKPOINT:
            return None
        try:
            return dict(parse_object(Entry, content.data, self._latest_key, "Its checkpoints are ignored."))
        except DataError as error:
            log.warning("fine_tune: %s", error)
            return None
