"""JSON files, and COCO JSON: images, annotations and categories as a table of files and labels."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from carclf.dataset.detection.files import Files
from carclf.dataset.detection.tables import MAX_BYTES, Table
from carclf.errors import DataError

FILE_COLUMN, LABEL_COLUMN = "file_name", "category_id"


@dataclass(frozen=True)
class Coco:
    """The COCO files of a source: their tables, the names of the categories by id, and the images' files by id."""

    tables: tuple[Table, ...]
    categories: dict[str, str]
    file_names: dict[str, str]


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


def read_coco(json_files: Mapping[str, object]) -> Coco:
    """Return the content of the JSON files that list images; other JSON files are left out.

    An image with annotations of several categories has several rows.
    """
    tables = []
    categories: dict[str, str] = {}
    file_names: dict[str, str] = {}
    for path, data in json_files.items():
        names = dict(_pairs(data, "images", "id", "file_name"))
        if not names:
            continue
        file_names |= names
        categories |= dict(_pairs(data, "categories", "id", "name"))
        labels = {(names[image_id], label) for image_id, label in _pairs(data, "annotations", "image_id", "category_id")
                  if image_id in names}
        if labels:
            rows = pd.DataFrame(sorted(labels), columns=[FILE_COLUMN, LABEL_COLUMN], dtype="object")
            tables.append(Table(path, rows))
    return Coco(tuple(tables), categories, file_names)


def _pairs(data: object, name: str, key: str, value: str) -> list[tuple[str, str]]:
    """Return two fields of each record in a list of a JSON file; none if a record lacks one."""
    records = data.get(name) if isinstance(data, dict) else None
    if isinstance(records, list) and all(isinstance(row, dict) and {key, value} <= row.keys() for row in records):
        return [(str(row[key]), str(row[value])) for row in records]
    return []
