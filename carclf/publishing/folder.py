"""Publish the champion to a folder or bucket: the files first, the pointer ``latest.json`` last.

``<model>/manifest.json`` names the files of a model with their SHA-256. They are in ``<model>/<fingerprint>/``, because
two exports of a model may differ in bytes: the files of another attempt never replace those that a manifest names. The
manifest is replaced if other formats are configured. ``latest.json`` is a copy of the manifest of the champion.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from carclf.artifacts import file_sha256, fingerprint
from carclf.errors import CarclfError, ConfigError
from carclf.progress import log
from carclf.publishing.champion import ChampionName, require_champion
from carclf.publishing.settings import FOLDER_ENV_VAR, FORMATS_ENV_VAR, PublishSettings
from carclf.runs.model_selection import select_model
from carclf.services.storage import Store, open_store, parse_object, update_object, validate_key
from carclf.temporary import temporary_folder

LATEST = "latest.json"
CHECKSUMS = "SHA256SUMS"  # in the format of sha256sum
DAMAGED_FIX = "Remove it, and publish again."


class PublishedFile(BaseModel):
    """A file: its path below the manifest's ``folder``, its SHA-256 and its size in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Annotated[str, AfterValidator(validate_key)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    num_bytes: Annotated[int, Field(ge=0)]


class Manifest(BaseModel):
    """The content of ``<model>/manifest.json`` and of ``latest.json``: a model and its files in ``folder``.

    ``measured`` is the model whose metrics apply: the model itself unless it was refitted. ``formats`` are sorted.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    measured: str
    formats: list[str]
    folder: Annotated[str, AfterValidator(validate_key)]
    files: list[PublishedFile]


def publish_to_folder(champion: ChampionName, store: Store, settings: PublishSettings) -> tuple[str, bool]:
    """Publish the champion; return its folder, and whether it had been published and was the latest before.

    Nothing is removed: the folders of earlier champions stay. Raise ServiceError if the champion changes meanwhile;
    ConfigError, QualityError or DataError if the model cannot be exported or the folder cannot be written.
    """
    with _naming_the_folder():
        target = open_store(settings.folder, FOLDER_ENV_VAR)
        if f"{target.url}/".startswith(f"{store.url}/"):
            raise ConfigError(f"{target.url} is in the store {store.url}. Use another folder or prefix.")
        manifest = _read_manifest(target, champion)
        if manifest is None or manifest.formats != sorted(settings.formats):
            manifest = _upload_model(target, champion, store, settings)
        is_moved = _move_pointer(target, manifest, champion, store)
    return f"{target.url}/{manifest.folder}", not is_moved


def _upload_model(target: Store, champion: ChampionName, store: Store, settings: PublishSettings) -> Manifest:
    from carclf.export.bundle import export_model
    from carclf.export.formats import require_formats

    require_formats(settings.formats, FORMATS_ENV_VAR)
    _require_writable(target)
    with temporary_folder() as work:
        folder = work / "model"
        export_model(folder, select_model(store, champion.model), settings.formats, store)
        files = describe_files(folder)
        _write_checksums(folder / CHECKSUMS, files)
        digest = fingerprint(files=[file.model_dump() for file in files])[:8]
        manifest = Manifest(model=champion.model, measured=champion.measured, formats=sorted(settings.formats),
                            folder=f"{champion.model}/{digest}", files=files)
        for path in [*(file.path for file in files), CHECKSUMS]:
            target.upload(folder / path, f"{manifest.folder}/{path}")

    def change(current: bytes | None) -> bytes | None:
        # If another process was faster, its files are those that the manifest names.
        has_formats = current and _parse_manifest(target, champion, current).formats == manifest.formats
        return None if has_formats else manifest.model_dump_json(indent=1).encode()

    update_object(target, _manifest_key(champion), change)
    _remove_leftovers(target)
    return _read_manifest(target, champion) or manifest


def _require_writable(target: Store) -> None:
    """Raise ConfigError or ServiceError if the folder or bucket cannot be written, before the export takes minutes."""
    target.write_if("probe", b"", "0" * 32)  # no object has this version, so nothing is written


def _remove_leftovers(target: Store) -> None:
    try:
        target.remove_leftovers()
    except CarclfError as error:  # such as a missing permission to list uploads
        log.info("publish: leftovers of killed processes not removed error=%s", error)


def describe_files(folder: Path) -> list[PublishedFile]:
    """Return all files of a folder, in the order of their paths."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [PublishedFile(path=path.relative_to(folder).as_posix(), sha256=file_sha256(path),
                          num_bytes=path.stat().st_size) for path in paths]


def _write_checksums(path: Path, files: list[PublishedFile]) -> None:
    path.write_text("".join(f"{file.sha256}  {file.path}\n" for file in files))


def _move_pointer(target: Store, manifest: Manifest, champion: ChampionName, store: Store) -> bool:
    """Make ``latest.json`` name the manifest's model; return whether it did not before."""
    is_moved = False

    def change(current: bytes | None) -> bytes | None:
        nonlocal is_moved
        latest = parse_object(dict[str, Any], current, f"{LATEST} in {target.url}", DAMAGED_FIX) if current else {}
        # Read after the pointer: if the champion changes now, the process that publishes the new one writes later.
        require_champion(store, champion)
        is_moved = (latest.get("model"), latest.get("folder")) != (manifest.model, manifest.folder)
        return manifest.model_dump_json(indent=1).encode() if is_moved else None

    update_object(target, LATEST, change)
    return is_moved


def _read_manifest(target: Store, champion: ChampionName) -> Manifest | None:
    stored = target.read(_manifest_key(champion))
    return _parse_manifest(target, champion, stored.data) if stored else None


def _parse_manifest(target: Store, champion: ChampionName, data: bytes) -> Manifest:
    return parse_object(Manifest, data, f"{_manifest_key(champion)} in {target.url}", DAMAGED_FIX)


def _manifest_key(champion: ChampionName) -> str:
    return f"{champion.model}/manifest.json"


@contextmanager
def _naming_the_folder() -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"Publishing to {FOLDER_ENV_VAR} failed: {error}") from error
