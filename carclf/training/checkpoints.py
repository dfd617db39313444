"""The state of a training in the store: saved whole or not at all, and taken up by whichever machine comes next."""

import json
import secrets
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from carclf.artifacts import file_sha256
from carclf.errors import DataError
from carclf.progress import log
from carclf.services.storage import Store

Arrays = list[Any]


MARK = secrets.token_hex(4)  # whose files they are: this process's
NAMED = {"file", "sha256", "state"}  # of each checkpoint in latest.json


class Checkpoints:
    """``checkpoints/<key>/latest.json`` names the newest of files, two of each process, written in turn, and the one
    before it, which stands in where the newest is damaged.

    A worker that is taken for dead may live on while another does its work: neither writes over the other's file.
    """

    def __init__(self, store: Store, key: str) -> None:
        self.store, self.folder = store, f"checkpoints/{key}"

    def save(self, arrays: Arrays, state: dict[str, Any]) -> None:
        """Write the arrays into the file that is not the latest, then name it."""
        latest = self._latest()
        name = f"{MARK}-b.npz" if latest and latest["file"] == f"{MARK}-a.npz" else f"{MARK}-a.npz"
        with tempfile.TemporaryDirectory(prefix="carclf-") as folder:
            path = Path(folder) / name
            np.savez(path, *arrays)
            self.store.upload(path, f"{self.folder}/{name}")
            found = {"file": name, "sha256": file_sha256(path), "state": state}
        before = {"previous": {name: latest[name] for name in NAMED}} if latest else {}
        self.store.write(f"{self.folder}/latest.json", json.dumps(found | before).encode())

    def load(self) -> tuple[Arrays, dict[str, Any]] | None:
        """The latest arrays and state that are whole, or None where there are none."""
        latest = self._latest() or {}
        for named in filter(None, (latest, latest.get("previous"))):
            if found := self._read(named):
                return found
            log.warning("The checkpoint %s/%s is damaged or gone: training takes up an earlier one or starts anew",
                        self.folder, named["file"])
        return None

    def _read(self, named: dict[str, Any]) -> tuple[Arrays, dict[str, Any]] | None:
        with tempfile.TemporaryDirectory(prefix="carclf-") as folder:
            path = Path(folder) / named["file"]
            try:
                self.store.download(f"{self.folder}/{named['file']}", path)
            except KeyError:
                return None
            except DataError:
                path.unlink(missing_ok=True)
            if not path.exists() or file_sha256(path) != named["sha256"]:
                return None
            with np.load(path) as found:
                return [found[f"arr_{position}"] for position in range(len(found.files))], named["state"]

    def clear(self) -> None:
        """Give the room back once the trained model is in the store."""
        found = self.store.read(f"{self.folder}/latest.json")
        if found and found.data != b"null":
            self.store.write(f"{self.folder}/latest.json", b"null")
            for key in [key for key in self.store.list_keys(f"{self.folder}/") if key.endswith(".npz")]:
                self.store.write(key, b"")

    def _latest(self) -> dict[str, Any] | None:
        if not (found := self.store.read(f"{self.folder}/latest.json")):
            return None
        try:
            latest = json.loads(found.data)
        except ValueError:
            log.warning("%s/latest.json is damaged: no checkpoint is known", self.folder)
            return None
        return latest if isinstance(latest, dict) and latest.keys() >= NAMED else None
