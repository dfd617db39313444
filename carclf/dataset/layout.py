"""The layout of a competition's archive: what each of its files is, and the path that it is extracted to.

- ``train/<class number>/<name>``: training images
- ``test_upload/**/<name>``: test images
- ``extra/<n>/<class number>/<name>``: extra data, packed by ``download``
- ``sample-submission.csv`` and ``train.csv``: tables, anywhere in the archive

Folders above ``train`` and ``test_upload`` are dropped, also if they have the same name (``train/train/0/a.jpg``).
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

SOURCE_BY_FOLDER = {"train": "train", "test_upload": "test", "extra": "extra"}
TABLES = ("sample-submission.csv", "train.csv")
PATH_PATTERNS = {  # the group is the class folder
    "train": re.compile(r"train/([0-9]{1,9})/[^/]+"), "extra": re.compile(r"extra/[0-9]+/([0-9]{1,9})/[^/]+"),
    "test_upload": re.compile(r"test_upload/().+"),
}
IMAGE_SUFFIXES = {
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jp2", ".heic", ".heif",
}
# Never read as images, even in a class folder. Files with other extensions, or without one, may be images.
DOCUMENT_SUFFIXES = {
    ".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".xml", ".html", ".htm", ".pdf", ".ini", ".log", ".yaml", ".yml",
    ".py", ".ipynb", ".doc", ".docx", ".xls", ".xlsx", ".url", ".lnk",
}
# What file managers and file servers (Synology, QNAP, Windows, macOS) add. Hidden names are added to these.
JUNK_FOLDERS = {
    "__macosx", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "lost+found",
    "system volume information",
}
JUNK_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "picasa.ini"}
MAX_NAME_BYTES = 255  # on the file systems of Linux
MAX_SUFFIX_LENGTH = 8
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]")
# Archivers without the UTF-8 flag use the code page of their system.
CODE_PAGES = ("cp866", "cp1251", "cp1252", "cp850", "cp852", "cp1250", "cp932", "gb18030", "cp949", "cp950")


def is_in_junk_folder(parts: Sequence[str]) -> bool:
    """Return True if one of the folders of a path is hidden or was added by a file manager or a file server."""
    return any(part.startswith(".") or part.lower() in JUNK_FOLDERS for part in parts[:-1])


def is_junk_file(name: str) -> bool:
    """Return True if a file is hidden or was added by a file manager."""
    return name.startswith(".") or name.lower() in JUNK_FILES


def path_below_top(parts: Sequence[str], top_folders: Iterable[str]) -> str | None:
    """Return a folder's path from the innermost top folder on, or None if it is in none of them."""
    tops = [number for number, part in enumerate(parts) if part.lower() in top_folders]
    if not tops:
        return None
    top, *rest = parts[tops[-1]:]
    return "/".join([top.lower(), *map(stored_name, rest)])


def is_image(path: str) -> bool:
    """Return True if a file may be an image. Outside of the class folders it needs an image's extension."""
    suffix = PurePosixPath(path).suffix.lower()
    if PATH_PATTERNS[path.partition("/")[0]].fullmatch(path):
        return suffix not in DOCUMENT_SUFFIXES
    return suffix in IMAGE_SUFFIXES


def stored_name(name: str) -> str:
    """Return the name that a file is extracted under: composed characters, no control characters, at most 255 bytes.

    A longer name is cut and ends in a hash and its extension. Names of files and ids are compared in this form.
    """
    name = CONTROL_CHARACTERS.sub("_", unicodedata.normalize("NFC", name))
    data = name.encode("utf-8", "replace")
    if len(data) <= MAX_NAME_BYTES:
        return name
    suffix = PurePosixPath(name).suffix
    end = f"~{hashlib.sha256(data).hexdigest()[:8]}{suffix if len(suffix) <= MAX_SUFFIX_LENGTH else ''}"
    return data[: MAX_NAME_BYTES - len(end.encode())].decode(errors="ignore") + end


def match_ids(ids: Sequence[str], names: Iterable[str]) -> dict[str, str]:
    """Return the file name of each id that has a file.

    File names without the UTF-8 flag were decoded as code page 437. The ids that match none are compared in the code
    page in which most of them do.
    """
    stored = set(names)
    matches = {image_id: name for image_id in ids if (name := stored_name(image_id)) in stored}
    others = [image_id for image_id in ids if image_id not in matches and not image_id.isascii()]
    by_code_page = [{image_id: name for image_id in others if (name := _in_code_page(image_id, page)) in stored}
                    for page in CODE_PAGES]
    return matches | max(by_code_page, key=len)


def _in_code_page(name: str, page: str) -> str:
    return stored_name(name.encode(page, "replace").decode("cp437"))
