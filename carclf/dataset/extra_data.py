"""Extra data: labeled images that users add to those of the source, from folders and stores."""

import hashlib
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from carclf.artifacts import file_sha256, fingerprint
from carclf.dataset.layout import EXTRA_FOLDER, IMAGE_SUFFIXES, is_in_junk_folder, is_junk_file
from carclf.dataset.listing import BucketPrefix
from carclf.errors import DataError
from carclf.os_errors import expand_home
from carclf.progress import log
from carclf.temporary import temporary_folder


def images_content(images: Mapping[str, Path]) -> dict[str, str | int]:
    """Return the number of images and a fingerprint of their names, sizes and bytes, independent of their location."""
    with _raise_data_error():
        return _content([[name, path.stat().st_size, file_sha256(path)] for name, path in images.items()])


def _content(files: list[list[str | int]]) -> dict[str, str | int]:
    return {"num_images": len(files), "fingerprint": fingerprint(files=sorted(files))}


def archive_content(path: Path) -> dict[str, str | int]:
    """Return the ``images_content`` of an archive."""
    files: list[list[str | int]] = []
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # it has readinto
            files.append([member.filename, member.file_size, sha256])
    return _content(files)


@contextmanager
def gather_extra_data(sources: str) -> Iterator[dict[str, Path]]:
    """Yield the images of comma-separated folders and s3:// prefixes; images in a bucket are downloaded.

    The keys are the paths that they are extracted to: ``extra-data/<n>/<class>/<name>``. Raises DataError if a source
    is missing, unreadable or empty, or has an image outside of a class folder.
    """
    images: dict[str, Path] = {}
    with temporary_folder() as folder:
        for number, source in enumerate(filter(None, map(str.strip, sources.split(",")))):
            files = _download_images(source, folder / str(number)) if "://" in source else _list_images(source)
            if not files:
                raise DataError(f"download.extra_data: {source} contains no images. Add images as "
                                "<class>/<name>.jpg, or remove it from the setting.")
            for relative, path in files.items():
                _require_class_folder(source, relative)
                images[f"{EXTRA_FOLDER}/{number}/{relative}"] = path
        yield images


def _list_images(source: str) -> dict[str, Path]:
    folder = expand_home(source, "download.extra_data")
    if not folder.is_dir():
        raise DataError(f"download.extra_data: the folder {source} is missing. Set folders or s3:// prefixes that this "
                        "machine can read, separated by commas.")
    with _raise_data_error():
        # The folder of a class may be a link: os.walk follows a link only if it starts there.
        paths = {path.relative_to(folder).as_posix(): path for top in sorted(folder.iterdir())
                 for path in (sorted(_walk(top)) if top.is_dir() else [top])}
        files = {name: path for name, path in paths.items() if path.is_file()}
    if links := [name for name, path in paths.items() if path.is_symlink() and name not in files]:
        log.warning("download: skipped links that are broken or point to folders below a class folder: source=%s "
                    "num=%d first=%r", source, len(links), links[0])
    return {name: files[name] for name in _image_names(source, files)}


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files and folders below a folder. Raises OSError if one cannot be read; rglob would skip it."""
    # dataset/walk.py has other rules: it follows links to folders at any depth, and leaves out images that this user
    # may not read. Here the fingerprint needs the bytes of each image, and a link below a class folder is reported.

    def fail(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=fail):
        yield from (Path(parent, name) for name in (*folders, *files))


@contextmanager
def _raise_data_error() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"download.extra_data: cannot read {error.filename}: {error.strerror}. Set folders that this "
                        "user can read completely.") from error


def _download_images(source: str, folder: Path) -> dict[str, Path]:
    """Download all images: the key of the archive depends on their bytes, wherever they are."""
    files: dict[str, Path] = {}
    prefix = BucketPrefix(source, "download.extra_data")
    entries = {entry.path: entry for entry in prefix.list_entries()}
    names = _image_names(source, sorted(entries))
    folder.mkdir()
    for number, (entry, path) in enumerate(prefix.read([entries[name] for name in names])):
        files[entry.path] = path.rename(folder / f"{number}")
    return files


def _image_names(source: str, names: Iterable[str]) -> list[str]:
    """Return the names with the suffix of an image; log the number of skipped names."""
    names = list(names)
    images = [name for name in names if _is_image_name(name)]
    if len(images) < len(names):
        first = next(name for name in names if not _is_image_name(name))
        log.warning("download: skipped files that are hidden or do not end in %s: source=%s num=%d first=%r",
                    " ".join(sorted(IMAGE_SUFFIXES)), source, len(names) - len(images), first)
    return images


def _is_image_name(name: str) -> bool:
    path = PurePosixPath(name)
    is_junk = is_junk_file(path.name) or is_in_junk_folder(path.parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_junk


def _require_class_folder(source: str, relative: str) -> None:
    label, _, name = relative.partition("/")
    if "\\" in name or not relative.isprintable():  # surrogates (invalid UTF-8) are not printable
        raise DataError(f"download.extra_data: {source} contains {relative!r}, a name that not every system supports. "
                        "Rename it: use printable characters without backslashes.")
    if "/" in name or not name or not label:
        raise DataError(f"download.extra_data: {source}/{relative} is not of the form <class>/<name>. Move it into the "
                        "folder of its class.")
