"""Labelled pictures that people add to the competition's: gathered from folders and store prefixes, and packed."""

import hashlib
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from carclf.artifacts import file_sha256, fingerprint
from carclf.errors import DataError
from carclf.progress import log
from carclf.services.storage import open_store

SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


@dataclass(frozen=True)
class ExtraData:
    """The pictures by the path that they will have when they are unpacked: ``extra/<n>/<class>/<name>``."""

    pictures: dict[str, Path]

    @property
    def content(self) -> dict[str, str | int]:
        """How many there are, and a fingerprint of their names, sizes and bytes, wherever they lie."""
        return _content([[name, path.stat().st_size, file_sha256(path)] for name, path in self.pictures.items()])


def _content(listing: list[list[str | int]]) -> dict[str, str | int]:
    return {"num": len(listing), "listing": fingerprint(listing=sorted(listing))}


def archive_content(path: Path) -> dict[str, str | int]:
    """The ``content`` of the pictures that an archive was packed with."""
    listing: list[list[str | int]] = []
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # it has readinto
            listing.append([member.filename, member.file_size, sha256])
    return _content(listing)


@contextmanager
def gather_extra_data(sources: str) -> Iterator[ExtraData]:
    """The pictures of the comma-separated folders and s3:// prefixes; what comes from a store is fetched.

    DataError for a source that is missing, is empty, or holds a picture outside of a class's folder.
    """
    pictures: dict[str, Path] = {}
    with tempfile.TemporaryDirectory(prefix="carclf-extra-") as name:
        for number, source in enumerate(filter(None, map(str.strip, sources.split(",")))):
            found = _stored(source, Path(name) / str(number)) if "://" in source else _filed(source)
            if not found:
                raise DataError(f"download.extra_data: {source} holds no pictures. Lay them in it as "
                                "<class number>/<name>.jpg, or take it out of the setting.")
            for relative, path in found.items():
                _require_class(source, relative)
                pictures[f"extra/{number}/{relative}"] = path
        yield ExtraData(pictures)


def _filed(source: str) -> dict[str, Path]:
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise DataError(f"download.extra_data: there is no folder {source}. Give folders or s3:// prefixes that this "
                        "machine can read, separated by commas.")
    # a class's folder may be a link: rglob goes into it only where it begins there
    paths = {path.relative_to(folder).as_posix(): path for top in sorted(folder.iterdir())
             for path in (sorted(top.rglob("*")) if top.is_dir() else [top])}
    files = {name: path for name, path in paths.items() if path.is_file()}
    if links := [name for name, path in paths.items() if path.is_symlink() and name not in files]:
        log.warning("download.extra_data: %d links in %s lead nowhere, or to folders below a class's, and are left "
                    "out; the first is %r", len(links), source, links[0])
    return {name: files[name] for name in _pictures(source, files)}


def _stored(source: str, folder: Path) -> dict[str, Path]:
    # A store's keys tell neither size nor content: to know whether something is new, the pictures are fetched.
    store, found = open_store(source), {}
    for number, key in enumerate(_pictures(source, store.list_keys())):
        found[key] = folder / f"{number}"
        try:
            store.download(key, found[key])
        except (KeyError, ValueError) as error:
            raise DataError(f"download.extra_data: {source}/{key} cannot be fetched: {error}. Name pictures with "
                            "letters, digits and ._- only, and add them while no run reads them.") from error
    return found


def _pictures(source: str, names: Iterable[str]) -> list[str]:
    """Those of the names that are pictures'; the others are told of, so that nothing vanishes without a word."""
    found: list[str] = []
    others: list[str] = []
    for name in names:
        (found if _is_picture(name) else others).append(name)
    if others:
        log.warning("download.extra_data: %d files of %s are left out, since their names are no pictures' (%s, not "
                    "hidden); the first is %r", len(others), source, " ".join(sorted(SUFFIXES)), others[0])
    return found


def _is_picture(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.parts)


def _require_class(source: str, relative: str) -> None:
    label, _, name = relative.partition("/")
    if "\\" in name or not relative.isprintable():  # surrogates, which stand for bytes that are no UTF-8, are not
        raise DataError(f"download.extra_data: {source} holds {relative!r}, whose name not every system can keep. "
                        "Rename it: printable characters and no backslash.")
    if "/" in name or not name or not (label.isascii() and label.isdecimal()):
        raise DataError(f"download.extra_data: {source}/{relative} is not of the form <class number>/<name>. Move it "
                        "into the folder of its class's number.")
