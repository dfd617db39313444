"""What the stages leave in the store: frozen manifests, keyed by a fingerprint of everything they came from."""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import platformdirs
from pydantic import BaseModel, ConfigDict, ValidationError

from carclf.errors import ConfigError, DataError, ServiceError
from carclf.services.storage import Store

Metrics = dict[str, float | int | str]
A = TypeVar("A", bound="Artifact")


class File(BaseModel):
    """One file of an artifact: its key in the store, its SHA-256 and its size in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    sha256: str
    num_bytes: int


class Artifact(BaseModel):
    """A manifest: where it is in the store, the artifact is whole, since it is written last, and once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: ClassVar[str]

    key: str
    inputs: dict[str, str]
    settings: dict[str, Any]
    files: dict[str, File]
    metrics: Metrics
    seconds: float

    @classmethod
    def find(cls, store: Store, key: str) -> Self | None:
        """The artifact of that key, or None where it is not whole; DataError where its manifest is damaged."""
        path = f"{cls.folder}/{key}/manifest.json"
        if (found := store.read(path)) is None:
            return None
        try:
            return cls.model_validate_json(found.data)
        except ValidationError as error:
            raise DataError(f"{path} in {store.url} is damaged: it is no manifest of a {cls.__name__}. Restore it from "
                            "a backup, or run again with force (--set force=true) to make it anew.") from error

    def path(self, store: Store, name: str) -> Path:
        """A local, checksum-verified copy of one of the files; DataError where the store's copy is damaged."""
        return fetch_file(store, self.files[name])

    def checked(self, store: Store, name: str) -> Path:
        """As ``path``, but verified at this moment: a copy that was altered since is fetched anew. For small files."""
        path = fetch_file(store, self.files[name])
        if file_sha256(path) != self.files[name].sha256:
            path.unlink()
        return fetch_file(store, self.files[name])


class Archive(Artifact):
    """The competition's archive as it came, ``archive.zip``, and where there are extra data ``extra.zip``.

    With extra data it has the archive without them as its input, and that one's ``archive.zip``.
    """

    folder = "archives"

    @property
    def content(self) -> str:
        """What all the pictures together are known by: the same where they are the same."""
        own, extra = self.files["archive.zip"], self.files.get("extra.zip")
        return own.sha256 if extra is None else fingerprint(archive=own.sha256, extra=extra.sha256)


class Inspection(Artifact):
    """The dataset's ``index.parquet`` as the pass over the pictures left it: without label fixes and warnings."""

    folder = "inspections"


class Dataset(Artifact):
    """``index.parquet``, one row per picture, ``report.json``, ``report.html`` and ``sample-submission.csv``.

    Columns: id, path, label (-1: none), width, height, sha256, pixels_sha256, phash, look, brightness, contrast,
    sharpness, format, source (train, test, extra), kind and problem ("" where usable), warning, cluster.
    """

    folder = "datasets"


class Split(Artifact):
    """``split.parquet``: the usable labelled images with ``subset`` train, val or left_out; ``leaks.json``."""

    folder = "splits"


class Features(Artifact):
    """``features.npy``: pooled features of one view of some of the images."""

    folder = "features"


class Audit(Artifact):
    """``suspects.parquet`` (id, path, label, suggested, score, suspect), ranked, and ``report.html`` with the first."""

    folder = "audits"


class Drift(Artifact):
    """``drift.json``: this dataset beside the champion's; ``report.html`` with it and the suspects."""

    folder = "drifts"


class Model(Artifact):
    """``model.keras``, ``history.csv`` and ``reference_logits.parquet``: what it answers before it is saved.

    The input's size and the classes are in its metrics.
    """

    folder = "models"


def is_ensemble(model: Model) -> bool:
    """Whether a model is several joined: ``ensemble.json`` then names them."""
    return "members" in model.inputs


class Evaluation(Artifact):
    """``predictions.parquet`` of the validation images (id, label, predicted, p<class>), uncalibrated.

    ``evaluation.json``: all metrics; ``error_images.json``: its errors as data: URIs; ``report.html`` shows both.
    """

    folder = "evaluations"


class Decision(Artifact):
    """``decision.json``: the gate's rules with value, limit and verdict; ``report.html`` beside the champion."""

    folder = "decisions"


class Prediction(Artifact):
    """``submission.csv`` in the sample's order and ``probabilities.parquet`` of the test images."""

    folder = "predictions"


class Submission(Artifact):
    """The prediction's ``submission.csv``, and the reference under which Kaggle counted it in the metrics."""

    folder = "submissions"


class PublicScore(Artifact):
    """The metrics alone: ``public_score``, and the ``ref`` that it is the score of."""

    folder = "scores"


# What each stage makes.
STAGE_ARTIFACTS: dict[str, type[Artifact]] = {
    "download": Archive, "validate": Dataset, "split": Split, "train_head": Model, "fine_tune": Model,
    "evaluate": Evaluation, "promote": Decision, "submit": Submission, "score": PublicScore,
}


def fingerprint(**parts: Any) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of the parts as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def artifact_key(
    kind: type[Artifact], version: int, inputs: Mapping[str, str], settings: Mapping[str, Any]
) -> str:
    """The fingerprint of an artifact's kind, its stage's version, its inputs' keys and the settings."""
    return fingerprint(kind=kind.folder, version=version, inputs=dict(inputs), settings=dict(settings))


def build(
    kind: type[A],
    make: Callable[[Path], Metrics],
    *,
    store: Store,
    version: int,
    inputs: Mapping[str, str],
    settings: Mapping[str, Any],
    kept: Mapping[str, File] | None = None,
) -> tuple[A, bool]:
    """Return the artifact and whether it was reused: found in the store, or made by ``make`` in an empty folder.

    ``kept`` are files of an input that belong to the artifact too. Of several workers that make it at once the first
    to end is believed: the others return what it left.
    """
    key = artifact_key(kind, version, inputs, settings)
    if (found := kind.find(store, key)) is not None:
        return found, True
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="carclf-") as name:
        metrics = make(Path(name))
        files = {path.name: upload(store, path, f"{kind.folder}/{key}") for path in sorted(Path(name).iterdir())}
    artifact = kind(
        key=key, inputs=dict(inputs), settings=dict(settings), files=dict(kept or {}) | files, metrics=metrics,
        seconds=round(time.monotonic() - started, 2),
    )
    if store.write_if(f"{kind.folder}/{key}/manifest.json", artifact.model_dump_json(indent=1).encode(), None):
        return artifact, False
    if (first := kind.find(store, key)) is None:
        raise ServiceError(f"{kind.folder}/{key} was removed from {store.url} while it was made. Run the stage again.")
    return first, False


def upload(store: Store, path: Path, folder: str) -> File:
    """Put a file under a name of its content, which no other content overwrites; its own name is the last part."""
    sha256 = file_sha256(path)
    file = File(key=f"{folder}/{sha256[:8]}/{path.name}", sha256=sha256, num_bytes=path.stat().st_size)
    store.upload(path, file.key)
    return file


def cache_folder() -> Path:
    """Where this machine keeps verified copies: CARCLF_CACHE, or the user's cache folder."""
    folder = Path(os.environ.get("CARCLF_CACHE") or platformdirs.user_cache_dir("carclf"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"The cache folder {folder} cannot be made: {error.strerror}. Set CARCLF_CACHE.") from error
    return folder


def fetch_file(store: Store, file: File) -> Path:
    """The local copy of a file, fetched once and verified by its checksum."""
    path = cache_folder() / "files" / file.sha256[:2] / file.sha256 / Path(file.key).name
    if path.exists() and path.stat().st_size == file.num_bytes:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        store.download(file.key, path)
    except KeyError as error:
        raise DataError(f"{store.url}/{file.key} is gone. Run again with force to make it anew.") from error
    if (found := file_sha256(path)) != file.sha256:
        path.unlink()
        raise DataError(
            f"{store.url}/{file.key} is damaged: its SHA-256 is {found}, not {file.sha256}. "
            "Run again with force to make it anew."
        )
    return path


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path | None]:
    """Yield an empty folder that becomes ``path`` when the block ends well; None where ``path`` is there already."""
    if path.exists():
        yield None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=path.parent, prefix=".partial-"))
    try:
        yield work
        try:
            work.rename(path)
        except OSError:
            if not path.exists():  # otherwise another process was first, with the same content
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
