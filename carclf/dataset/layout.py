"""The names of a source's files: which ones a dataset can use, and the names that they are stored under."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

EXTRA_FOLDER = "extra-data"  # of the extracted images: extra-data/<n>/<class>/<name>
IMAGE_SUFFIXES = {
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jp2", ".heic", ".heif",
}
TABLE_SUFFIXES = {".csv", ".tsv", ".json", ".jsonl"}
# Never read as images. Files with other extensions, or without one, may be images.
DOCUMENT_SUFFIXES = TABLE_SUFFIXES | {
    # Documents and annotations
    ".txt", ".md", ".rst", ".xml", ".html", ".htm", ".pdf", ".ini", ".cfg", ".log", ".yaml", ".yml", ".toml", ".doc",
    ".docx", ".xls", ".xlsx", ".ods", ".ppt", ".pptx", ".url", ".lnk", ".svg", ".bib", ".tex",
    # Side files of cameras and editors, and unfinished files
    ".aae", ".thm", ".xmp", ".psd", ".xcf", ".tmp", ".bak", ".part", ".crdownload",
    # Programs
    ".py", ".pyc", ".ipynb", ".r", ".m", ".sh", ".bat", ".js", ".css", ".c", ".cc", ".cpp", ".h", ".java", ".exe",
    ".dll", ".so", ".sql", ".php", ".lock",
    # Data that are not image files
    ".tfrecord", ".tfrecords", ".tfrec", ".h5", ".hdf5", ".npy", ".npz", ".mat", ".bson", ".dcm", ".dicom", ".nii",
    ".nrrd", ".pkl", ".pickle", ".parquet", ".feather", ".arrow", ".lmdb", ".mdb", ".db", ".sqlite", ".bin", ".dat",
    ".data",
    # Models
    ".pt", ".pth", ".ckpt", ".pb", ".keras", ".onnx", ".tflite", ".safetensors", ".weights", ".joblib", ".index",
    # Audio, video and archives that cannot be read
    ".mp3", ".wav", ".flac", ".ogg", ".mp4", ".avi", ".mov", ".mkv", ".webm", ".rar", ".zst", ".lz4", ".gz", ".bz2",
    ".xz", ".z", ".z01", ".001",
}
# Of cameras; they cannot be read. A class folder with nothing else is reported.
NEGATIVE_SUFFIXES = (".nef", ".cr2", ".cr3", ".arw", ".dng", ".raf", ".orf", ".rw2")
DOCUMENT_NAMES = {
    "readme", "license", "licence", "copying", "notice", "authors", "changelog", "citation", "makefile", "dockerfile",
    "version",
}
# What file managers and file servers (Synology, QNAP, Windows, macOS) add. Hidden names are added to these.
JUNK_FOLDERS = {
    "__macosx", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "lost+found",
    "system volume information",
}
# Hidden folders in which programs keep copies of images. Other hidden folders with images are reported.
CACHE_FOLDERS = {
    ".ipynb_checkpoints", ".thumbnails", ".cache", ".git", ".venv", ".trash", ".trashes", ".snapshot", ".@__thumb",
}
HIDDEN = "its name begins with a dot; if it has images to use, rename it"
JUNK_FILES = {"_ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "picasa.ini"}
MAX_NAME_BYTES = 255  # on the file systems of Linux
MAX_SUFFIX_LENGTH = 8
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]")
# Archivers without the UTF-8 flag use the code page of their system.
CODE_PAGES = ("cp866", "cp1251", "cp1252", "cp850", "cp852", "cp1250", "cp932", "gb18030", "cp949", "cp950")


def is_in_junk_folder(parts: Sequence[str]) -> bool:
    """Return True if one of the folders of a path is hidden or was added by a file manager or a file server."""
    return any(part.startswith(".") or part.lower() in JUNK_FOLDERS for part in parts[:-1])


def hidden_folder(parts: Sequence[str]) -> str:
    """Return the path of the hidden folder that an image is in; "" if there is none, or if it is a program's."""
    num_visible = next((number for number, part in enumerate(parts[:-1]) if part.startswith(".")), None)
    is_image = not is_junk_file(parts[-1]) and PurePosixPath(parts[-1].lower()).suffix in IMAGE_SUFFIXES
    if num_visible is None or not is_image or not (JUNK_FOLDERS | CACHE_FOLDERS).isdisjoint(map(str.lower, parts)):
        return ""
    return "/".join(parts[: num_visible + 1])


def is_junk_file(name: str) -> bool:
    """Return True if a file is hidden or was added by a file manager."""
    return name.startswith(".") or name.lower() in JUNK_FILES


def is_useful(parts: Sequence[str]) -> bool:
    """Return True if a file may be an image or a table, or is JSON.

    Within folders, files without extension or with an unknown one may be images: ids are written like that.
    """
    name = PurePosixPath(parts[-1].lower())
    if name.suffix in IMAGE_SUFFIXES or name.suffix in TABLE_SUFFIXES:
        return True
    return len(parts) > 1 and name.suffix not in DOCUMENT_SUFFIXES and name.stem not in DOCUMENT_NAMES


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
