"""Atomic training checkpoints in the store; any machine can resume from them. ``Trainer`` decides what is saved."""

import json
import secrets
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Annotated, Any, NotRequired, Self

import numpy as np
from pydantic import Field
from typing_extensions import TypedDict  # pydantic needs it on Python 3.11

from carclf.artifacts import file_sha256
from carclf.errors import DataError, ServiceError
from carclf.progress import log
from carclf.services.storage import Store, parse_object
from carclf.temporary import temporary_folder

Arrays = list[Any]
PROCESS_ID = secrets.token_hex(4)  # in the names of the files that this process writes
NO_CHECKPOINT = b"null"  # the content of latest.json after the training
ENTRY_FIELDS = ("file", "sha256", "state", "best")
FileName = Annotated[str, Field(pattern=r"^[0-9a-z][0-9a-z.-]*$", max_length=100)]


class ArrayFile(TypedDict):
    """A file of arrays and its SHA-256."""

    file: FileName
    sha256: str


class PreviousEntry(ArrayFile):
    """The file with the arrays of a checkpoint, the trainer's state, and the file with the best weights."""

    state: dict[str, Any]
    best: ArrayFile


class Entry(PreviousEntry):
    """The content of ``latest.json``: the newest checkpoint and the one before it."""

    previous: NotRequired[PreviousEntry]


class Checkpoints:
    """The checkpoints of one training, in the folder ``checkpoints/<key>``.

    ``latest.json`` names the newest checkpoint and the one before it, which is used if the newest is damaged. Each
    process alternates between two files of its own, so that a worker that was presumed dead but is still running does
    not overwrite the files of the worker that replaced it. The best weights have two files of their own, which are
    written only when these weights are another list than at the last save.
    """

    def __init__(self, store: Store, key: str) -> None:
        self.store = store
        self.folder = f"checkpoints/{key}"
        self._latest_key = f"{self.folder}/latest.json"
        self._best: Arrays | None = None  # as in the file self._best_file
        self._best_file: dict[str, str] = {}

    def save(self, arrays: Arrays, best: Arrays, state: dict[str, Any]) -> None:
        """Write the arrays to this process's older file, then name that file in ``latest.json``."""
        latest = self._latest()
        if best is not self._best:
            self._best_file = self._write(best, "best", latest["best"]["file"] if latest else "")
            self._best = best
        file = self._write(arrays, "state", latest["file"] if latest else "")
        entry: dict[str, Any] = {**file, "state": state, "best": self._best_file}
        if latest:
            entry["previous"] = {field: latest[field] for field in ENTRY_FIELDS}
        self.store.write(self._latest_key, json.dumps(entry).encode())

    def load(self) -> tuple[Arrays, Arrays, dict[str, Any]] | None:
        """Return the arrays, the best weights and the state of the newest undamaged checkpoint, or None."""
        latest = self._latest() or {}
        for entry in filter(None, (latest, latest.get("previous"))):
            arrays, best = self._read(entry), self._read(entry["best"])
            if arrays is not None and best is not None:
                return arrays, best, entry["state"]
            log.warning("checkpoint: damaged or missing, trying the previous one file=%s/%s",
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

    def _write(self, arrays: Arrays, kind: str, newest: str) -> dict[str, str]:
        """Write the arrays to that of this process's two files of a kind which is not ``newest``; return its entry."""
        first, second = (f"{PROCESS_ID}-{kind}-{letter}.npz" for letter in "ab")
        name = second if newest == first else first
        with temporary_folder() as folder:
            path = folder / name
            np.savez(path, *arrays)
            self.store.upload(path, f"{self.folder}/{name}")
            return {"file": name, "sha256": file_sha256(path)}

    def _read(self, array_file: dict[str, str]) -> Arrays | None:
        with temporary_folder() as folder:
            path = folder / array_file["file"]
            try:
                self.store.download(f"{self.folder}/{array_file['file']}", path)
            except (KeyError, DataError):
                return None
            if file_sha256(path) != array_file["sha256"]:
                return None
            try:
                with np.load(path, allow_pickle=False) as file:
                    return [file[f"arr_{position}"] for position in range(len(file.files))]
            except (ValueError, LookupError, EOFError, zipfile.BadZipFile):  # pickled objects, or no archive of arrays
                return None

    def _latest(self) -> dict[str, Any] | None:
        content = self.store.read(self._latest_key)
        if content is None or content.data == NO_CHECKPOINT:
            return None
        try:
            return dict(parse_object(Entry, content.data, self._latest_key, "Its checkpoints are ignored."))
        except DataError as error:
            log.warning("checkpoint: %s", error)
            return None


class CheckpointWriter:
    """Saves checkpoints in a thread, one at a time, while training continues. A context manager that ends the thread.

    A save that fails because the store is unreachable is only logged: hours of training must not fail for that.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self._executor = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        self._executor.shutdown()
        if error is None:
            self.wait()

    def save(self, arrays: Arrays, best: Arrays, state: dict[str, Any]) -> None:
        """Start to save the arrays, which must not change any more, when the previous save has ended."""
        self.wait()
        self._pending = self._executor.submit(self._save, arrays, best, state)

    def wait(self) -> None:
        """Wait for the end of the save, and raise its error."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _save(self, arrays: Arrays, best: Arrays, state: dict[str, Any]) -> None:
        try:
            self.checkpoints.save(arrays, best, state)
        except ServiceError as error:
            log.warning("checkpoint: not saved, training continues step=%d: %s", state["step"], error)
