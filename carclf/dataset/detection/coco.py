"""COCO JSON: images, annotations and categories as a table of files and labels."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from carclf.dataset.detection.class_names import read_json
from carclf.dataset.detection.tables import Table

if TYPE_CHECKING:
    from carclf.dataset.detection.files import Files

FILE_COLUMN, LABEL_COLUMN = "file_name", "category_id"


@dataclass(frozen=True)
class Coco:
    """The COCO files of a source: their tables, the names of the categories by id, and the images' files by id."""

    tables: tuple[Table, ...]
    categories: dict[str, str]
    file_names: dict[str, str]


def read_coco(files: "Files") -> Coco:
    """Return the content of the JSON files that list images; other JSON files are left out.

    An image with annotations of several categories has several rows.
    """
    tables: list[Table] = []
    categories: dict[str, str] = {}
    file_names: dict[str, str] = {}
    for path in files.json:
        data = read_json(files, path)
        if not isinstance(data, dict) or not _has_records(data.get("images"), ("id", "file_name")):
            continue
        names = {str(image["id"]): str(image["file_name"]) for image in data["images"]}
        file_names |= names
        if _has_records(data.get("categories"), ("id", "name")):
            categories |= {str(category["id"]): str(category["name"]) for category in data["categories"]}
        if _has_records(data.get("annotations"), ("image_id", "category_id")):
            tables.append(_to_table(path, data["annotations"], names))
    return Coco(tuple(tables), categories, file_names)


def _has_records(data: object, keys: tuple[str, ...]) -> bool:
    return isinstance(data, list) and bool(data) and all(
        isinstance(record, dict) and all(key in record for key in keys) for record in data)


def _to_table(path: str, annotations: list[dict[str, Any]], names: dict[str, str]) -> Table:
    import pandas as pd

    rows = {(names.get(str(record["image_id"]), ""), str(record["category_id"])) for record in annotations}
    return Table(path, pd.DataFrame(sorted(row for row in rows if row[0]), columns=[FILE_COLUMN, LABEL_COLUMN],
                                    dtype="object"))
