"""The files of a source: images, tables and JSON files, without duplicates, and with doubled folders collapsed."""

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from carclf.dataset.archive_members import is_archive
from carclf.dataset.archives import read_ignored_files
from carclf.dataset.detection.masks import find_masks
from carclf.dataset.layout import (
    EXTRA_FOLDER,
    IMAGE_SUFFIXES,
    MAX_NAME_BYTES,
    NEGATIVE_SUFFIXES,
    TABLE_SUFFIXES,
    is_useful,
    stored_name,
)
from carclf.dataset.walk import Skipped, walk
from carclf.errors import DataError

JSON_SUFFIXES = {".json", ".jsonl"}
MAX_TABLE_DEPTH = 3  # folders; deeper tables and JSON files describe single images


@dataclass(frozen=True)
class Files:
    """The files below ``root``, as sorted paths relative to it.

    ``images`` maps each folder with images to their names. ``collapsed`` maps each of these folders, and the ``empty``
    ones next to them, to its path without doubled folders. ``extra`` are the images of extra data. ``masks`` are
    segmentation masks of the images. ``ignored`` has the reason of each path that is not extracted or cannot be read,
    as ``read_ignored_files``.
    """

    root: Path
    images: Mapping[str, tuple[str, ...]]
    collapsed: Mapping[str, str]
    empty: tuple[str, ...]
    tables: tuple[str, ...]
    json: tuple[str, ...]
    extra: tuple[str, ...]
    masks: tuple[str, ...]
    duplicates: tuple[str, ...]
    others: tuple[str, ...]
    ignored: Mapping[str, str]

    @property
    def paths(self) -> list[str]:
        """The paths of the images."""
        return [_join(folder, name) for folder, names in self.images.items() for name in names]


def list_files(root: Path, listed: Collection[str] = ()) -> Files:
    """Return the files of a folder. Hidden files and those of file managers are left out.

    A folder whose files all exist one level higher, with the same paths and sizes, is a duplicate. ``listed`` are paths
    of images that are called like masks. Raises DataError if a folder cannot be read.
    """
    names, skipped = _walk(root)
    extra = [folder for folder in names if folder.partition("/")[0] == EXTRA_FOLDER]
    extra_images = [_join(folder, name) for folder in extra for name in names.pop(folder)]
    images = _select_images(names)
    masks = {folder: {name for name in files if _join(folder, name) not in listed}
             for folder, files in find_masks(images).items()}
    if any(masks.values()):
        names = {folder: rest for folder, files in names.items()
                 if (rest := [name for name in files if name not in masks.get(folder, ())]) or folder not in masks}
        images = _select_images(names)
    duplicates = _find_nested_duplicates(root, images)
    images = {folder: images[folder] for folder in sorted(images) if not _is_below(folder, duplicates)}
    empty = _empty_class_folders(names, images)
    others = sorted(_join(folder, name) for folder, files in names.items() if not _is_below(folder, duplicates)
                    for name in set(files) - set(images.get(folder, ())))
    tables, json_files = (
        tuple(path for path in others if _suffix(path) in suffixes and path.count("/") <= MAX_TABLE_DEPTH)
        for suffixes in (TABLE_SUFFIXES - JSON_SUFFIXES, JSON_SUFFIXES))
    others = [path for path in others if path not in {*tables, *json_files}]
    return Files(root, images, _collapse([*images, *empty], images), tuple(empty), tables, json_files,
                 tuple(sorted(extra_images)), _paths(masks), tuple(sorted(duplicates)), tuple(others),
                 read_ignored_files(root) | skipped)


def _paths(names: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    return tuple(sorted(_join(folder, name) for folder, files in names.items() for name in files))


def _walk(root: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return the names of the files in each folder that has some or is empty, and why paths are skipped."""
    names: dict[str, list[str]] = {}
    skipped = {}
    try:
        for item in walk(root):
            folder, _, name = item.path.rpartition("/")
            if isinstance(item, Skipped):
                skipped[item.path] = item.reason
            else:
                names.setdefault(folder, []).extend(filter(None, [name]))
    except OSError as error:
        raise DataError(f"Cannot read {error.filename}: {error.strerror}. Set data.source to data that this user can "
                        "read completely.") from error
    return names, skipped


def _select_images(names: Mapping[str, Collection[str]]) -> dict[str, tuple[str, ...]]:
    """Return the images of each folder that has some; files of unknown kinds next to images are images as well."""
    images = {}
    for folder, files in names.items():
        if any(_suffix(name) in IMAGE_SUFFIXES for name in files):
            images[folder] = tuple(sorted(name for name in files if _suffix(name) in IMAGE_SUFFIXES
                                          or (folder and _may_be_image(name)
                                              and _suffix(name) not in NEGATIVE_SUFFIXES)))
    return images


def _may_be_image(name: str) -> bool:
    return is_useful(("", name)) and _suffix(name) not in TABLE_SUFFIXES and not is_archive(name)


def _find_nested_duplicates(root: Path, images: Mapping[str, Collection[str]]) -> set[str]:
    """Return the folders whose files all exist one level higher: flowers/flowers/daisy in flowers/daisy."""
    num_folders: dict[str, int] = defaultdict(int)
    twins: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for folder in images:
        parts = folder.split("/") if folder else []
        for depth in range(len(parts)):
            prefix, twin = "/".join(parts[: depth + 1]), "/".join(parts[:depth] + parts[depth + 1:])
            num_folders[prefix] += 1
            if twin in images:
                twins[prefix].append((folder, twin))
    return {prefix for prefix, pairs in twins.items() if len(pairs) == num_folders[prefix] and all(
        _have_same_size(root, _join(folder, name), _join(twin, name)) for folder, twin in pairs
        for name in images[folder])}


def _have_same_size(root: Path, path: str, twin: str) -> bool:
    try:
        return (root / path).stat().st_size == (root / twin).stat().st_size
    except FileNotFoundError:
        return False


def _empty_class_folders(names: Mapping[str, Collection[str]], images: Collection[str]) -> list[str]:
    """Return the folders without images next to folders with images: empty ones, and those with unknown files."""
    parents = {_parent(folder) for folder in images if folder}
    non_empty = {_parent(folder) for folder in names if folder}
    return sorted(folder for folder, files in names.items()
                  if folder not in images and all(map(_may_be_image, files)) and folder not in non_empty
                  and folder and _parent(folder) in parents)


def _collapse(folders: Iterable[str], images: Collection[str]) -> dict[str, str]:
    """Map each folder to its path without folders that are the only one in their parent, such as train/train.

    A class is kept if it is the only one of its subset: its name has siblings in another folder.
    """
    children: dict[str, set[str]] = defaultdict(set)
    folders = list(folders)
    for folder in folders:
        for parent in [*PurePosixPath(folder).parents][:-1]:
            children[_parent(str(parent))].add(str(parent))
        if folder:
            children[_parent(folder)].add(folder)
    with_siblings = {_name(child).lower() for siblings in children.values() if len(siblings) > 1 for child in siblings}
    collapsed = {"": ""}

    def collapse(folder: str) -> str:
        if folder not in collapsed:
            parent, name = _parent(folder), _name(folder)
            is_doubled = name.lower() not in with_siblings or name.lower() == _name(parent).lower()
            is_only = len(children[parent]) == 1 and parent not in images
            collapsed[folder] = collapse(parent) if is_only and is_doubled else _join(collapse(parent), name)
        return collapsed[folder]

    return {folder: collapse(folder) for folder in folders}


def image_stem(name: str) -> str:
    """Return a file name without its extension; other text after a dot is kept."""
    stem, _, suffix = name.rpartition(".")
    return stem if stem and f".{suffix.lower()}" in IMAGE_SUFFIXES else name


def normalized(path: str) -> str:
    """Return a path in the form in which paths and ids are compared: slashes, and names as they are stored.

    Spaces around it are left out.
    """
    path = path.strip().replace("\\", "/").removeprefix("./").strip("/")
    is_plain = path.isascii() and path.isprintable() and len(path) <= MAX_NAME_BYTES
    return path if is_plain else "/".join(map(stored_name, path.split("/")))


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()  # noqa: PTH122 (a million paths)


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _parent(folder: str) -> str:
    return folder.rpartition("/")[0]


def _name(folder: str) -> str:
    return folder.rpartition("/")[2]


def _is_below(folder: str, parents: Collection[str]) -> bool:
    return any(folder == parent or folder.startswith(f"{parent}/") for parent in parents)
