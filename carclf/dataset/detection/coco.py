"""JSON files as tables of files and labels: COCO's images, annotations and categories, records, and other objects."""

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from carclf.dataset.detection.files import Files, image_stem, normalized
from carclf.dataset.detection.subsets import role_of
from carclf.dataset.detection.tables import MAX_BYTES, NAME_OF_LABELS, SUBSET_COLUMN, Table, is_usual_label
from carclf.errors import DataError

FILE_COLUMN, LABEL_COLUMN = "file_name", "category_id"
MIN_FRACTION = 0.01  # of the records that have a field; limits the memory of records without a common field


@dataclass(frozen=True)
class Coco:
    """The JSON files with labels, and what COCO files have: names of the categories by id, and images' files by id.

    ``unnamed`` are the paths of the files whose categories have no names, or not different ones; ``unread`` those of
    files that name images, but give no table; ``errors`` are those of files whose labels cannot be read, by path.
    """

    tables: Sequence[Table]
    categories: dict[str, str]
    file_names: dict[str, str]
    unnamed: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    errors: dict[str, DataError] = field(default_factory=dict)


def read_json_files(files: Files) -> tuple[dict[str, object], dict[str, DataError]]:
    """Return the content of each JSON file that is valid and not too large, and the errors of the others by path."""
    contents, errors = {}, {}
    for path in files.json:
        try:
            if (files.root / path).stat().st_size > MAX_BYTES:
                raise ValueError(f"it has more than {MAX_BYTES >> 20} MB")
            data = (files.root / path).read_bytes()
            lines = filter(bytes.strip, data.splitlines()) if path.lower().endswith(".jsonl") else ()
            contents[path] = list(map(json.loads, lines)) or json.loads(data)
        except (ValueError, RecursionError) as error:
            errors[path] = DataError(f"{path} cannot be read as JSON: {error}. If it has the labels, replace it.")
    return contents, errors


def read_coco(json_files: Mapping[str, object], names: Collection[str]) -> Coco:
    """Return the content of the JSON files that list images; other JSON files are left out.

    They are COCO files, in which an image with annotations of several categories has several rows, with the fields of
    the image as further columns; or they map file names to labels, or are lists of records. ``names`` are the file
    names and stems of the images.
    """
    tables: list[Table] = []
    unnamed: list[str] = []
    errors: dict[str, DataError] = {}
    categories: dict[str, dict[str, str]] = {}  # by file
    file_names: dict[str, str] = {}
    for path, data in json_files.items():
        files = dict(_pairs(data, "images", "id", "file_name"))
        if not files:
            try:
                tables += _read_records(path, data, names)
            except DataError as error:
                errors[path] = error
            continue
        file_names |= files
        named = dict(_pairs(data, "categories", "id", "name"))
        categories[path] = named
        if not named or len(set(named.values())) < len(named):
            unnamed.append(path)
        labels = {(files[image_id], label) for image_id, label in _pairs(data, "annotations", "image_id", "category_id")
                  if image_id in files}
        if labels:
            rows = pd.DataFrame(sorted(labels), columns=[FILE_COLUMN, LABEL_COLUMN], dtype="object")
            tables.append(Table(path, _with_fields(rows, data)))
    tables, known = _name_apart(tables, categories, unnamed)
    used = {table.path for table in tables} | errors.keys()
    unread = [path for path, data in json_files.items()
              if path not in used and any(text in names for text in _texts(data))]
    return Coco(tables, known, file_names, tuple(unnamed), tuple(unread), errors)


def _texts(data: object) -> Iterator[str]:
    """Yield all keys and texts, without folders."""
    stack = [data]  # the nesting may be deeper than Python's recursion
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield normalized(item).rpartition("/")[2]
        elif isinstance(item, dict):
            stack += [*item, *item.values()]
        elif isinstance(item, list):
            stack += item


def _name_apart(
    tables: Sequence[Table], categories: Mapping[str, Mapping[str, str]], unnamed: Collection[str]
) -> tuple[list[Table], dict[str, str]]:
    """Return the tables and the names of all categories by id.

    If an id has different names in two files, the labels are the names instead, in files with a name for each.
    """
    pairs = {pair for named in categories.values() for pair in named.items()}
    if len(pairs) == len({category for category, _ in pairs}):
        return list(tables), dict(pairs)
    return [table if table.path in unnamed or table.path not in categories else replace(table, rows=table.rows.assign(
        **{LABEL_COLUMN: table.rows[LABEL_COLUMN].replace(dict(categories[table.path]))})) for table in tables], {}


def _with_fields(rows: pd.DataFrame, data: Any) -> pd.DataFrame:
    """Return rows of files and categories with the fields of the images that have repeated values, such as location.

    Other fields, such as ids and URLs, are neither groups nor subsets, but may contain words such as test.
    Rows whose categories cannot be the labels are returned as they are: another field, such as width, might be taken
    for the labels.
    """
    if not 1 < rows[LABEL_COLUMN].nunique() <= len(rows) / 2:
        return rows
    fields = _read_fields(data["images"]).drop(columns=list(rows.columns), errors="ignore")
    fields = fields.loc[:, [not fields.loc[fields[name] != "", name].is_unique for name in fields.columns]]
    fields.index = pd.Index([str(image[FILE_COLUMN]) for image in data["images"]])
    return rows.join(fields[~fields.index.duplicated()], on=FILE_COLUMN)


def _read_records(path: str, data: object, names: Collection[str]) -> list[Table]:
    """Return the records of a JSON file as a table; [] if no field has names of images.

    Raises DataError if a field that is called like label has nested values, and no other field is.
    """
    records = _to_records(data, names)
    rows = _read_fields(records)
    if not _are_about_images(rows, names):
        return []
    nested = {name for record in records for name in record} - set(rows.columns)
    labels = sorted(name for name in nested if NAME_OF_LABELS.search(name.lower()))
    if labels and not any(map(is_usual_label, rows.columns)):
        raise DataError(f"{path}: {labels[0]} has nested values. Expected a text or a number in each record.")
    return [Table(path, rows)]


def _to_records(data: object, names: Collection[str]) -> list[dict[str, object]]:
    """Return the records in a list, in the lists of subsets, or in the only list about images; [] if there are none.

    An object has labels or records by file name. One with numbers as keys has the names of classes instead of labels.
    """
    if not isinstance(data, dict):
        return data if isinstance(data, list) and all(isinstance(record, dict) for record in data) else []
    lists = {name: items for name, items in data.items() if isinstance(items, list) and items
             and all(isinstance(item, dict) for item in items)}
    lists = {name: items for name, items in lists.items() if _are_about_images(_read_fields(items), names)}
    subsets = [name for name in lists if role_of(name)]
    if len(subsets) > 1 or len(lists) > 1:
        return [{SUBSET_COLUMN: name} | record for name in subsets for record in lists[name]]
    if lists:
        return next(iter(lists.values()))
    if data and all(isinstance(value, dict) for value in data.values()):
        return [{FILE_COLUMN: name} | value for name, value in data.items()]
    if all(map(str.isdecimal, data)) or any(_cell("", label) is None for label in data.values()):
        return []
    return [{FILE_COLUMN: name, "label": label} for name, label in data.items()]


def _are_about_images(rows: pd.DataFrame, names: Collection[str]) -> bool:
    return any(_have_images(rows[column], names) for column in rows)


def _have_images(values: "pd.Series[str]", names: Collection[str]) -> bool:
    """Return True if some of the values are names of images in any folder, or have the extension of an image."""
    single = values[~values.str.contains("|", regex=False)]
    last = single.map(normalized).str.rpartition("/")[2] if len(single) else single
    return bool(last.isin(names).any() or (last.map(image_stem) != last).any())


def _read_fields(records: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """Return the fields of records as text. A missing value is an empty text; a list of texts or labels has bars.

    Fields with other nested values are left out, and those that fewer than 1% of the records have.
    """
    sizes = Counter(name for record in records for name in record)
    fields = {name: [_cell(name, record.get(name)) for record in records] for name, size in sizes.items()
              if size >= MIN_FRACTION * len(records)}
    fields = {name: cells for name, cells in fields.items() if None not in cells}
    return pd.DataFrame(fields, index=range(len(records)), dtype="object")


def _cell(name: str, value: object) -> str | None:
    """Return a value of a record as text; None if it is nested."""
    types = str | int if NAME_OF_LABELS.search(name.lower()) else str  # other numbers are boxes
    if isinstance(value, list) and all(isinstance(item, types) for item in value):
        return "|".join(map(str, value))
    return "" if value is None else str(value) if isinstance(value, str | int | float) else None


def _pairs(data: object, name: str, key: str, value: str) -> list[tuple[str, str]]:
    """Return two fields of each record in a list of a JSON file; none if a record lacks one."""
    records = data.get(name) if isinstance(data, dict) else None
    if isinstance(records, list) and all(isinstance(row, dict) and {key, value} <= row.keys() for row in records):
        return [(str(row[key]), str(row[value])) for row in records]
    return []
