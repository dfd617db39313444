"""Lists of the images of a subset: text files such as train.txt, and JSON files such as splits.json."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import dropwhile
from pathlib import PurePosixPath

import pandas as pd

from carclf.dataset.detection.files import Files, normalized
from carclf.dataset.detection.subsets import role_of, roles_of
from carclf.dataset.detection.tables import MAX_BYTES, SUBSET_COLUMN, Table, decode, image_names
from carclf.dataset.layout import IMAGE_SUFFIXES

# A small number at the start of a line may be anything, also next to 0.jpg and 1.jpg: ids have as many digits as all
# images, at least MIN_PADDED, or at least MIN_DIGITS if the images have different numbers of digits.
MIN_DIGITS, MAX_DIGITS, MIN_PADDED = 5, 100, 3
ID_COLUMN, LABEL_COLUMN = "1", "2"
MAX_SIMILAR = 10  # text files
_SUFFIXES = "|".join(re.escape(suffix) for suffix in IMAGE_SUFFIXES)
_IMAGE = re.compile(rf"[\"']?(.+?(?:{_SUFFIXES}))(?=$|[\s,;|?\"'])", re.IGNORECASE)  # a path may have spaces
_SEPARATORS = " \t,;|\"'"
_TEXTS = (".txt", ".lst", ".list")
_SUBSET_FILE = re.compile("split|partition|subset")


def read_lists(files: Files, json_files: Mapping[str, object], paths: Collection[str]) -> list[Table]:
    """Return the lists with the name of a subset as tables of ids, with the text after them if there is one.

    A line is the path, name or stem of an image, or starts with it. A text file such as train_test_split.txt has the
    subset after the id. ``paths`` are those of the images.
    """
    texts = _read_texts(files, [path for path in files.others if _is_text_list(path)], paths)
    tables = [table for path, rows in texts.items() for table in _to_tables(path, rows, set(map(normalized, paths)))]
    lists = {path: items for path, data in json_files.items() if (items := _read_json(path, data))}
    names = image_names(paths) if lists else set()
    for path, items in lists.items():
        for role, ids in items.items():
            if _are_images(ids, names):
                tables.append(Table(path, pd.DataFrame({ID_COLUMN: ids}, dtype="object"), folder_role=role))
    return tables


def read_other_lists(files: Files, paths: Collection[str]) -> list[Table]:
    """Return the text files of other names with an image in most lines as tables, with the word after the image.

    Many files of the same type, equally deep, are about one image or one class each, and are left out.
    """
    texts = [path for path in files.others if path.lower().endswith(_TEXTS) and not _is_text_list(path)]
    num_by_depth = Counter(path.count("/") for path in texts)
    texts = [path for path in texts if num_by_depth[path.count("/")] <= MAX_SIMILAR]
    return [Table(path, pd.DataFrame(rows, columns=[ID_COLUMN, LABEL_COLUMN], dtype="object"))
            for path, rows in _read_texts(files, texts, paths).items()]


def _is_text_list(path: str) -> bool:
    stem = PurePosixPath(path).stem
    return path.lower().endswith(".txt") and bool(role_of(stem) or _SUBSET_FILE.search(stem.lower()))


def is_split_file(path: str) -> bool:
    """Return True for a text file called like train_test_split.txt, which has the subsets of all images."""
    stem = PurePosixPath(path).stem.lower()
    return path.lower().endswith(".txt") and bool(_SUBSET_FILE.search(stem)) and len(set(roles_of(stem))) != 1


def _read_texts(files: Files, texts: Sequence[str], paths: Collection[str]) -> dict[str, list[tuple[str, str]]]:
    """Return the ids and the words after them of each text file that is a list of images."""
    if not texts:
        return {}
    names = image_names(paths)
    widths = {len(name) for name in names if name.isdecimal()}
    width = max([*widths, MIN_PADDED])
    num_digits = range(width, width + 1) if len(widths) == 1 else range(MIN_DIGITS, MAX_DIGITS)
    return {path: rows for path in texts
            if (rows := _read_rows(_read_lines(files, path, names), names, num_digits))}


def _read_lines(files: Files, path: str, names: Collection[str]) -> list[str]:
    if (files.root / path).stat().st_size > MAX_BYTES:
        return []
    lines = map(str.strip, decode((files.root / path).read_bytes(), names)[0].splitlines())
    return [line for line in lines if line and (not line.startswith("#") or _IMAGE.fullmatch(line))]


def _read_rows(lines: Sequence[str], names: Collection[str], num_digits: range) -> list[tuple[str, str]]:
    """Return the ids and the words after them, without a header; [] if most lines do not start with an id."""
    rows = [(line, "") for line in lines]
    if not _are_images(lines, names) or any(map(_IMAGE.match, lines)):
        rows = list(map(_split_line, lines))
        ids = [image for image, _ in rows if not image.isdecimal() or len(image) in num_digits]
        if not _are_images(ids, names, len(rows)):
            return []
    return list(dropwhile(lambda row: not _are_images([row[0]], names), rows))


def _to_tables(path: str, rows: list[tuple[str, str]], known: Collection[str]) -> list[Table]:
    """Return the rows as a table; [] if they should have subsets, but have only ids."""
    stem, folder = PurePosixPath(path).stem, PurePosixPath(path).parent
    relative = [str(folder / normalized(image)) for image, _ in rows]
    if sum(name in known for name in relative) > len(rows) / 2:
        rows = [(name, label) for name, (_, label) in zip(relative, rows, strict=True)]
    labels = {label for _, label in rows}
    has_labels = "" not in labels
    is_split = bool(_SUBSET_FILE.search(stem.lower()))
    roles = set(roles_of(re.sub("[_-]", " ", stem) if is_split else stem))  # train_val.txt has one subset
    has_subsets = len(roles) != 1 or "partition" in stem.lower() or all(map(role_of, labels))
    if has_subsets and not has_labels:
        return []
    columns = [ID_COLUMN, SUBSET_COLUMN if has_subsets else LABEL_COLUMN]
    table = pd.DataFrame(rows, columns=columns, dtype="object")
    return [Table(path, table if has_labels else table[[ID_COLUMN]])]


def _split_line(line: str) -> tuple[str, str]:
    """Return the id at the start of a line, and the word after it."""
    match = _IMAGE.match(line)
    image = match[1] if match else re.split(f"[{_SEPARATORS}]", line.strip(_SEPARATORS), maxsplit=1)[0]
    rest = line[line.index(image) + len(image):].strip(_SEPARATORS)
    return image, re.split(f"[{_SEPARATORS}]", rest, maxsplit=1)[0]


def _are_images(ids: Sequence[str], names: Collection[str], num_lines: int = 0) -> bool:
    """Return True if most of the lines have the name of an image, or of a file that is one by its extension."""
    num_images = sum(bool(_IMAGE.fullmatch(image)) or normalized(image).rpartition("/")[2] in names for image in ids)
    return num_images > (num_lines or len(ids)) / 2


def _read_json(path: str, data: object) -> dict[str, list[str]]:
    """Return the ids by the role of the subset: of a list in a file such as train.json, or an object of such lists."""
    objects = data if isinstance(data, dict) else {}
    if role := role_of(PurePosixPath(path).stem):
        is_list = all(map(_is_list, objects.values() if objects else [data]))
        return {role: list(_ids(data))} if is_list else {}
    subsets = [name for name in objects if role_of(name)]
    if len(subsets) < 2 or all(_has_records(objects[name]) for name in subsets):  # noqa: PLR2004
        return {}
    subsets.sort(key=lambda name: name != "trainval")  # it is first, so that train replaces it
    return {role_of(name): ids for name in subsets if (ids := list(_ids(objects[name])))}


def _is_list(items: object) -> bool:
    return isinstance(items, list) and not _has_records(items)


def _has_records(items: object) -> bool:
    """Return True for a list with records, which may have the labels."""
    return isinstance(items, list) and any(isinstance(item, dict) for item in items)


def _ids(items: object) -> Iterator[str]:
    """Yield the texts of a list, or of the lists by class, and one text of lists such as ["cat/1.jpg", 0] and records.

    It is the one with the extension of an image, else the first.
    """
    if isinstance(items, dict):
        for by_class in items.values():
            yield from _ids(by_class)
    for item in items if isinstance(items, list) else []:
        values = item.values() if isinstance(item, dict) else item if isinstance(item, list) else [item]
        if texts := [value for value in values if isinstance(value, str)]:
            yield next(filter(_IMAGE.fullmatch, texts), texts[0])


def are_image_names(values: Sequence[str]) -> bool:
    """Return True if most of the values are names of image files."""
    return _are_images(values, ())


def has_image_names(table: Table) -> bool:
    """Return True if a column has names of image files."""
    return any(are_image_names(table.rows[column].tolist()) for column in table.rows.columns)
