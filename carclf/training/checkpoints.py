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


class Checkpoints:
    """``checkpoints/<key>/latest.json`` names the newest whole one of files, two of each process, written in turn.

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
        self.store.write(f"{self.folder}/latest.json", json.dumps(found).encode())

    def load(self) -> tuple[Arrays, dict[str, Any]] | None:
        """The latest arrays and state, or None where there are none that are whole."""
        if not (latest := self._latest()):
            return None
        with tempfile.TemporaryDirectory(prefix="carclf-") as folder:
            path = Path(folder) / latest["file"]
            try:
                self.store.download(f"{self.folder}/{latest['file']}", path)
            except KeyError:
                return None
            except DataError:
                path.unlink(missing_ok=True)
            if not path.exists() or file_sha256(path) != latest["sha256"]:
                log.warning("The checkpoint %s/%s is damaged: training starts anew", self.folder, latest["file"])
                return None
            with np.load(path) as found:
                return [found[f"arr_{position}"] for position in range(len(found.files))], latest["state"]

    def clear(self) -> None:
        """Give the room back once the trained model is in the store."""
        found = self.store.read(f"{self.folder}/latest.json")
        if found and found.data != b"null":
            self.store.write(f"{self.folder}/latest.json", b"null")
            for key in [key for key in self.store.keys(f"{self.folder}/") if key.endswith(".npz")]:
                self.store.write(key, b"")

    def _latest(self) -> dict[str, Any] | None:
        if not (found := self.store.read(f"{self.folder}/latest.json")):
            return None
        try:
            latest = json.loads(found.data)
        except ValueError:
            log.warning("%s/latest.json is damaged: no checkpoint is known", self.folder)
            return None
        return latest if isinstance(latest, dict) and {"file", "sha256", "state"} <= latest.keys() else None
