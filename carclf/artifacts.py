"""Artifacts: stage results in the store, with immutable manifests keyed by a fingerprint of their provenance."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeVar

import platformdirs
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from carclf.config import Config
from carclf.errors import ConfigError, DamagedArtifactError, DataError, ServiceError
from carclf.networks import load_network
from carclf.os_errors import expand_home
from carclf.progress import log
from carclf.services.storage import Store, format_command, validate_key
from carclf.temporary import leftovers, remove_abandoned, temporary_folder

if TYPE_CHECKING:
    import keras
    import numpy.typing as npt
    import pandas as pd

MetricValue = float | int | str | list[str]
Metrics = dict[str, MetricValue]
ArtifactKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]*$", max_length=64)]
A = TypeVar("A", bound="Artifact")
MARK = "damaged"  # instead of the checksum of a manifest
_rebuilt: ContextVar[tuple[str, ...]] = ContextVar("rebuilt", default=())  # the paths of ``rebuilding``
BATCH_ROWS = 4096  # of a table that is read in parts
DIGESTS = ".sha256.json"  # in a folder of the cache: the SHA-256 of each file by its path


@dataclass(frozen=True)
class StageContext:
    """The store, the settings and the salt, which every stage receives in addition to its inputs.

    ``salt`` is empty unless the run sets ``force``. It is part of every key: forced runs reuse and overwrite nothing.
    """

    store: Store
    config: Config
    salt: str = ""


@dataclass(frozen=True)
class Provenance:
    """Everything that determines an artifact: the version of the code, the keys of its inputs, and its settings."""

    version: int
    inputs: Mapping[str, str]
    settings: Mapping[str, Any]

    def key(self, kind: type["Artifact"]) -> str:
        """Return the key of the artifact of this kind: a fingerprint of the kind and the provenance."""
        return fingerprint(kind=kind.folder, **asdict(self))


class File(BaseModel):
    """One file of an artifact: its key in the store, its SHA-256, and its size in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: Annotated[str, AfterValidator(validate_key)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    num_bytes: Annotated[int, Field(ge=0)]

    @property
    def artifact_path(self) -> str:
        """The folder and the key of the artifact that the file was created for."""
        return "/".join(self.key.split("/")[:2])


class Artifact(BaseModel):
    """The manifest of an artifact. It is written last and only once, so an artifact with a manifest is complete."""

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
        """Return the artifact with this key, or None if it is missing or marked; raise DataError if it is damaged."""
        path = cls.manifest_path(key)
        try:
            manifest = store.read(path)
        except ValueError as error:
            message = f"{key!r} is not the key of an artifact. Restore the file that names it from a backup."
            raise DataError(message) from error
        if manifest is None or _has_mark(manifest.data):
            return None
        if (artifact := cls.parse(manifest.data, key)) is None:
            raise damaged_error(store, f"{cls.folder}/{key}", f"{path} in {store.url} is not a valid manifest.")
        return artifact

    @classmethod
    def manifest_path(cls, key: str) -> str:
        """Return the key of the manifest in the store."""
        return f"{cls.folder}/{key}/manifest.json"

    @classmethod
    def parse(cls, manifest: bytes, key: str) -> Self | None:
        """Return the artifact, or None if the manifest is damaged, marked as damaged, or of another artifact."""
        try:
            content = json.loads(manifest)
            is_intact = content.pop("checksum") == fingerprint(**content) and content["key"] == key
            return cls.model_validate(content) if is_intact else None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None

    def to_manifest(self) -> bytes:
        """Return the manifest with a checksum: without it, a flipped bit could change a metric."""
        content = self.model_dump(mode="json")
        return json.dumps(content | {"checksum": fingerprint(**content)}, indent=1).encode()

    @classmethod
    def list_keys(cls, store: Store) -> list[str]:
        """Return the keys of all complete artifacts of this kind."""
        paths = (path.split("/") for path in store.list_keys(f"{cls.folder}/"))
        return [parts[1] for parts in paths if parts[-1] == "manifest.json"]

    @classmethod
    def require(cls, store: Store, key: str, role: str = "") -> Self:
        """Return the artifact with this key; raise DataError with its role if it is missing or damaged."""
        if (artifact := cls.find(store, key)) is None:
            name = f"{cls.folder}/{key}"
            problem = f"The artifact {name}{role and f' ({role})'} is missing from {store.url}."
            raise damaged_error(store, name, problem)
        return artifact

    def file(self, name: str) -> File:
        """Return the entry of one file; raise DataError if the manifest does not list it."""
        if (file := self.files.get(name)) is None:
            raise self._missing("file", name)
        return file

    def input(self, name: str) -> str:
        """Return the key of an input; raise DataError if the manifest does not list it."""
        if (key := self.inputs.get(name)) is None:
            raise self._missing("input", name)
        return key

    def metric(self, name: str) -> MetricValue:
        """Return a metric; raise DataError if the manifest does not list it."""
        if (value := self.metrics.get(name)) is None:
            raise self._missing("metric", name)
        return value

    def _missing(self, kind: str, name: str) -> DataError:
        return DataError(f"{self.folder}/{self.key}/manifest.json is damaged: it has no {kind} {name!r}. Restore it "
                         "from a backup, or start a new run with --set force=true, which builds another artifact.")

    def path(self, store: Store, name: str) -> Path:
        """Return a local, checksum-verified copy of one file; raise DataError if it is missing or damaged."""
        return fetch_file(store, self.file(name))

    def table(self, store: Store, name: str, columns: list[str] | None = None) -> "pd.DataFrame":
        """Return one of the Parquet files, or some of its columns."""
        import pandas as pd

        return pd.read_parquet(self.path(store, name), columns=columns)

    def table_batches(self, store: Store, name: str) -> "Iterator[pd.DataFrame]":
        """Yield the rows of one of the Parquet files in parts, whose memory is bounded."""
        from pyarrow.parquet import ParquetFile

        with ParquetFile(self.path(store, name)) as file:
            for batch in file.iter_batches(BATCH_ROWS):
                yield batch.to_pandas()

    def array(self, store: Store, name: str) -> "npt.NDArray[Any]":
        """Return one of the ``.npy`` files; raise DataError if it is damaged or contains pickled objects."""
        import numpy as np

        path = self.path(store, name)
        try:
            return np.asarray(np.load(path, allow_pickle=False))
        except (ValueError, EOFError, OSError) as error:
            raise DataError(f"{path} is not an array of numbers: {error}. Restore {self.folder}/{self.key} from a "
                            "backup.") from error

    def number(self, name: str) -> float:
        """Return a metric that is a number; raise DataError if it is missing or is not a number."""
        if not isinstance(value := self.metrics.get(name), int | float):
            raise self._missing("number", name)
        return float(value)


class _Labeled(Artifact):
    @property
    def class_names(self) -> list[str]:
        """The names of the classes, in the order of the model's outputs."""
        if not isinstance(names := self.metrics.get("class_names"), list):
            raise self._missing("list", "class_names")
        return names


class Archive(Artifact):
    """The files of a source: ``archive.zip`` or another archive, or packs; with extra data ``extra.zip``.

    A folder or a bucket is stored as ``listing.parquet`` and ``pack-<n>.zip``, which archives of other states of the
    source share. An archive with extra data has the source's archive as its input and shares its files.
    """

    folder = "archives"

    @property
    def content_hash(self) -> str:
        """A hash of all files: two archives with the same files have the same hash."""
        source = str(self.metrics["content"]) if self.is_packed else self.archive_file.sha256
        extra = self.files.get("extra.zip")
        return source if extra is None else fingerprint(archive=source, extra=extra.sha256)

    @property
    def is_packed(self) -> bool:
        """True for a folder or a bucket, whose files are in packs."""
        return "listing.parquet" in self.files

    @property
    def archive_file(self) -> File:
        """The archive that was downloaded, ``archive.zip`` or with the suffix of another kind of archive."""
        return self.file(next((name for name in self.files if name.startswith("archive.")), "archive.zip"))


class Inspection(Artifact):
    """``index.parquet`` before label fixes are applied and dataset-wide checks are run."""

    folder = "inspections"


class Dataset(Artifact):
    """``index.parquet`` with one row per image, ``report.json``, ``report.html`` and ``sample-submission.csv``.

    The columns of the index are documented in ``carclf.dataset.indexing``.
    """

    folder = "datasets"

    def index(self, store: Store) -> "pd.DataFrame":
        """Return the index, one row per image."""
        return self.table(store, "index.parquet")


class Split(_Labeled):
    """``split.parquet``, ``split_history.parquet`` and ``leaks.json``.

    ``split.parquet`` has one row per usable labeled image with its ``subset`` (train, val, excluded or holdout);
    ``split_history.parquet`` adds the images of earlier champions' splits.
    """

    folder = "splits"

    @property
    def metric_name(self) -> str:
        """The name of the metric in carclf.metrics."""
        return str(self.metrics.get("metric", "accuracy"))

    def rows(self, store: Store) -> "pd.DataFrame":
        """Return the rows of ``split.parquet``, one per image."""
        return self.table(store, "split.parquet")

    def history(self, store: Store) -> "pd.DataFrame":
        """Return the rows of ``split_history.parquet``: this split's images and those of the champions before it."""
        return self.table(store, "split_history.parquet")


class Features(Artifact):
    """``features.npy``: pooled features of one view of some of the images."""

    folder = "features"


class SoftTargets(Artifact):
    """``soft_targets.parquet``: a teacher's class probabilities of a split's images: path and p_<class>."""

    folder = "soft_targets"


class Audit(Artifact):
    """``suspects.parquet``, the images ranked by label quality, and ``report.html`` with the most suspect ones."""

    folder = "audits"


class Drift(Artifact):
    """``drift.json``, this dataset compared with the champion's, and ``report.html`` with drift and label errors."""

    folder = "drifts"


class Classifier(_Labeled):
    """``model.keras``, ``history.csv``, and ``reference_logits.parquet`` with logits computed before saving."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the network's input, in pixels."""
        return int(self.number("image_height")), int(self.number("image_width"))

    def network(self, store: Store) -> "keras.Model":
        """Return the network, uncompiled; raise DataError if it cannot be loaded safely."""
        return load_network(self.path(store, "model.keras"))

    @property
    def measured_key(self) -> str:
        """The key of the model whose evaluation and promotion apply to this one: its own unless it was refitted."""
        return self.key


class Model(Classifier):
    """A classifier that was not trained on the validation images of its split, so it can be measured on them."""

    folder = "models"

    @property
    def is_ensemble(self) -> bool:
        """True if the model averages the predictions of several members, which ``ensemble.json`` lists."""
        return "ensemble.json" in self.files


class RefittedModel(Classifier):
    """A classifier trained like the measured model that it names, but also on the validation images.

    It is another kind of artifact than ``Model``, so nothing that measures, compares or continues models can read it.
    """

    folder = "refits"

    @property
    def measured_key(self) -> str:
        """The key of the model whose evaluation and promotion apply to this one."""
        return self.input("measured")


class Evaluation(Artifact):
    """Predictions of the validation images, or a champion's of the labeled test images, and their metrics.

    ``predictions.parquet`` holds id, label, predicted, temperature (fitted to other images) and p_<class>
    (uncalibrated); ``evaluation.json`` all metrics; ``error_images.json`` the misclassified images as data URIs;
    ``report.html`` shows both.
    """

    folder = "evaluations"


class Decision(Artifact):
    """``decision.json``, the gate's rules with value, limit and result, and ``report.html``."""

    folder = "decisions"


class Prediction(Artifact):
    """``submission.csv`` in the order of the sample submission, and ``probabilities.parquet`` of the test images."""

    folder = "predictions"


class Submission(Artifact):
    """The ``submission.csv`` that was sent. The metrics hold Kaggle's reference number."""

    folder = "submissions"


class PublicScore(Artifact):
    """No files. The metrics hold ``public_score`` and the ``ref`` of the submission it belongs to."""

    folder = "scores"


KINDS: dict[str, type[Artifact]] = {
    kind.folder: kind
    for kind in (Archive, Inspection, Dataset, Split, Features, Audit, Drift, Model, RefittedModel, SoftTargets,
                 Evaluation, Decision, Prediction, Submission, PublicScore)
}  # inputs come before the artifacts that are made from them


def fingerprint(**parts: Any) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of the parts as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_known_digests: dict[tuple[int, ...], str] = {}


def known_sha256(path: Path) -> str:
    """Return the SHA-256 of a local file, computed once per process and file (inode, size and time of change).

    Return an empty string if the file is missing or cannot be read.
    """
    try:
        status = path.stat()
        identity = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
        if identity not in _known_digests:
            _known_digests[identity] = file_sha256(path)
    except OSError:
        return ""
    return _known_digests[identity]


def build(
    kind: type[A],
    make: Callable[[Path], Metrics],
    provenance: Provenance,
    store: Store,
    inherited_files: Mapping[str, File] | None = None,
) -> tuple[A, bool]:
    """Return the artifact and whether it was reused.

    A complete artifact with the same key is returned without calling ``make``. Otherwise ``make`` writes the files
    into an empty folder and returns the metrics. ``inherited_files`` are files of other artifacts that belong to the
    new one too. If several workers build the same artifact at once, the first manifest wins and all return it.
    Within ``rebuilding``, raise DataError instead of building another artifact of this kind.
    """
    key = provenance.key(kind)
    path = kind.manifest_path(key)
    manifest = store.read(path)
    rebuilt = _rebuilt.get()
    existing = kind.parse(manifest.data, key) if manifest else None
    if existing is not None and f"{kind.folder}/{key}" not in rebuilt[:1]:
        return existing, True
    _check_rebuilt(f"{kind.folder}/{key}", rebuilt)
    started = time.monotonic()
    with temporary_folder() as folder:
        metrics = make(folder)
        files = {path.name: upload(store, path, f"{kind.folder}/{key}") for path in sorted(folder.iterdir())}
    artifact = kind(
        key=key,
        inputs=dict(provenance.inputs),
        settings=dict(provenance.settings),
        files=dict(inherited_files or {}) | files,
        metrics=metrics,
        seconds=round(time.monotonic() - started, 2),
    )
    if store.write_if(path, artifact.to_manifest(), manifest.version if manifest else None):
        return artifact, False
    if (first := kind.find(store, key)) is None:
        raise ServiceError(f"{kind.folder}/{key} was removed from {store.url} while it was being built. Run the stage "
                           "again.")
    return first, False


@contextmanager
def rebuilding(path: str, *others: str) -> Iterator[None]:
    """Let ``build`` replace the artifact at this path, and build no other of its kind but those at ``others``."""
    token = _rebuilt.set((path, *others))
    try:
        yield
    finally:
        _rebuilt.reset(token)


def is_rebuilding() -> bool:
    """Return whether ``build`` replaces a damaged artifact: nothing may be taken from earlier ones."""
    return bool(_rebuilt.get())


def _check_rebuilt(path: str, rebuilt: tuple[str, ...]) -> None:
    if rebuilt and path not in rebuilt and path.partition("/")[0] == rebuilt[0].partition("/")[0]:
        raise DataError(f"{rebuilt[0]} is damaged and cannot be rebuilt: what it was made from has changed, such as "
                        "the files on Kaggle, a file of weights, the champion or the version of carclf. Restore "
                        f"{rebuilt[0]}/ from a backup.")


def upload(store: Store, path: Path, folder: str) -> File:
    """Upload a file under a key that contains its hash, so that different content never overwrites it."""
    sha256 = file_sha256(path)
    file = File(key=f"{folder}/{sha256[:8]}/{path.name}", sha256=sha256, num_bytes=path.stat().st_size)
    store.upload(path, file.key)
    return file


def cache_folder() -> Path:
    """Return the folder of verified copies, CARCLF_CACHE or the user's cache; raise ConfigError if it is unusable."""
    try:
        name = os.environ.get("CARCLF_CACHE") or platformdirs.user_cache_dir("carclf")
    except RuntimeError:
        raise ConfigError("The user's home folder is unknown. Set CARCLF_CACHE to a writable folder.") from None
    folder = expand_home(name, "CARCLF_CACHE")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"Cannot create the cache folder {folder}: {error.strerror}. Set CARCLF_CACHE to a writable "
                          "folder.") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"Cannot write to the cache folder {folder}. Set CARCLF_CACHE to a writable folder.")
    return folder


def remove_leftovers(store: Store) -> int:
    """Remove what killed processes left in the store, in the cache and in TMPDIR; return the number of leftovers."""
    in_cache = [path for folder in cache_folder().iterdir() for path in leftovers(folder)]
    return remove_abandoned([*in_cache, *leftovers()]) + store.remove_leftovers()


def fetch_file(store: Store, file: File) -> Path:
    """Return the local copy of a file, which is verified in each process and downloaded again if it is damaged.

    Raise DamagedArtifactError if the file in the store is missing or damaged.
    """
    folder = cache_folder() / "files"
    path = folder / file.sha256[:2] / file.sha256 / Path(file.key).name
    if known_sha256(path) == file.sha256:
        return path
    if path.exists():
        log.warning("cache: damaged, downloading it again path=%s object=%s", path, file.key)
    with temporary_folder(folder) as work:
        download_verified(store, file, work / path.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        (work / path.name).replace(path)
    return path


def download_verified(store: Store, file: File, path: Path) -> None:
    """Download a file; raise DamagedArtifactError if it is missing or damaged in each of two downloads."""
    problem = ""
    for _ in range(2):  # the memory or the disk of this machine may have damaged the first copy
        try:
            store.download(file.key, path)
        except KeyError:
            problem = f"{file.key} is missing from {store.url}."
            break
        except DataError as error:
            problem = str(error)
        else:
            if (sha256 := file_sha256(path)) == file.sha256:  # a new file may have the identity of a removed one
                return
            problem = f"{file.key} is damaged in {store.url}: its SHA-256 is {sha256}, not {file.sha256}."
    raise damaged_error(store, file.artifact_path, problem)


def damaged_error(store: Store, path: str, problem: str) -> DamagedArtifactError:
    """Return the error for a damaged artifact, given as its folder and key, with the command that repairs it."""
    return DamagedArtifactError(path, problem, f"Repair it: {format_command(store, 'store check --repair')}")


def mark_damaged(store: Store, kind: type[Artifact], key: str) -> None:
    """Replace the manifest with a mark: the artifact counts as missing, and the next ``build`` builds it again."""
    manifest = store.read(kind.manifest_path(key))
    content = json.dumps({"checksum": MARK, "files": {}}).encode()
    store.write_if(kind.manifest_path(key), content, manifest.version if manifest else None)


def is_marked(store: Store, kind: type[Artifact], key: str) -> bool:
    """Return whether the artifact is to be built again when a stage needs it."""
    manifest = store.read(kind.manifest_path(key))
    return manifest is not None and _has_mark(manifest.data)


def _has_mark(manifest: bytes) -> bool:
    try:
        return bool(json.loads(manifest)["checksum"] == MARK)
    except (ValueError, LookupError, TypeError, RecursionError):
        return False


def verify_artifact(store: Store, artifact: Artifact) -> None:
    """Download every file of the artifact, bypassing the cache; raise DataError if a file is missing or damaged."""
    with temporary_folder() as folder:
        for file in artifact.files.values():
            download_verified(store, file, folder / "file")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path | None]:
    """Yield an empty folder that is renamed to ``path`` if the block succeeds; yield None if ``path`` exists."""
    if path.exists():
        yield None
        return
    with temporary_folder(path.parent) as work:
        yield work
        try:
            work.rename(path)
        except OSError:
            if not path.exists():  # another process created it first, with the same content
                raise


def verified_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Create a folder of the cache with ``write``, or verify its files, once per process, and replace damaged ones."""
    try:
        if json.loads((path / DIGESTS).read_bytes()) == _digests(path):
            return
    except (OSError, ValueError):  # ValueError: the list of digests is damaged
        pass
    with temporary_folder(path.parent) as work:
        write(work)
        digests = _digests(work)
        (work / DIGESTS).write_text(json.dumps(digests))
        with suppress(OSError):  # it exists already
            work.rename(path)
            return
        log.warning("cache: damaged, replacing the damaged files path=%s", path)
        _replace_files(work, path, digests)


def _digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a folder by its path, except DIGESTS."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != DIGESTS]
    with ThreadPoolExecutor() as pool:
        digests = pool.map(known_sha256, paths)
    return {path.relative_to(folder).as_posix(): digest for path, digest in zip(paths, digests, strict=True)}


def _replace_files(source: Path, target: Path, digests: Mapping[str, str]) -> None:
    """Make the target equal to the source, one file at a time, because other processes may be reading it."""
    for name in _digests(target).keys() - digests.keys():
        (target / name).unlink(missing_ok=True)
    for name in (*digests, DIGESTS):
        if name == DIGESTS or known_sha256(target / name) != digests[name]:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).replace(target / name)
