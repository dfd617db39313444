"""JSON files, and COCO JSON: images, annotations and categories as a table of files and labels."""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from carclf.dataset.detection.files import Files, normalized
from carclf.dataset.detection.tables import MAX_BYTES, NAME_OF_LABELS, Table, is_usual_label
from carclf.errors import DataError

FILE_COLUMN, LABEL_COLUMN = "file_name", "category_id"
MIN_FRACTION = 0.01  # of the records that have a field; limits the memory of records without a common field


@dataclass(frozen=True)
class Coco:
    """The JSON files with labels, and what COCO files have: names of the categories by id, and images' files by id.

    ``unnamed`` are the paths of the files whose categories have no names, or not different ones; ``errors`` are those
    of files whose labels cannot be read, by path.
    """

    tables: Sequence[Table]
    categories: dict[str, str]
    file_names: dict[str, str]
    unnamed: tuple[str, ...] = ()
    errors: dict[str, DataError] = field(default_factory=dict)


def read_json_files(files: Files) -> tuple[dict[str, object], dict[str, DataError]]:
    """Return the content of each JSON file that is valid and not too large, and the errors of the others by path."""
    contents, errors = {}, {}
    for path in files.json:
        try:
            if (files.root / path).stat().st_size > MAX_BYTES:
                raise ValueError(f"it has more than {MAX_BYTES >> 20} MB")
            contents[path] = json.loads((files.root / path).read_bytes())
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
    return Coco(tables, known, file_names, tuple(unnamed), errors)


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
    """Return a JSON object of labels by file name, or a list of records, as a table; [] if no field has ids of images.

    An object with numbers as keys has the names of classes. Raises DataError if a field that is called like label has
    nested values, and no other field is.
    """
    if isinstance(data, dict):
        is_label = all(_cell("", label) is not None for label in data.values())
        if all(map(str.isdecimal, data)) or not is_label:
            return []
        data = [{FILE_COLUMN: name, "label": label} for name, label in data.items()]
    if not (data and isinstance(data, list) and all(isinstance(record, dict) for record in data)):
        return []
    rows = _read_fields(data)
    if not any(rows[column].map(normalized).isin(names).any() for column in rows):
        return []
    nested = {name for record in data for name in record} - set(rows.columns)
    labels = sorted(name for name in nested if NAME_OF_LABELS.search(name.lower()))
    if labels and not any(map(is_usual_label, rows.columns)):
        raise DataError(f"{path}: {labels[0]} has nested values. Expected a text or a number in each record.")
    return [Table(path, rows)]


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
