"""Reading tables: any CSV or TSV as text, in the encoding and with the separator that fit, with or without a header."""

import csv
import io
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import pandas as pd
from charset_normalizer import from_bytes

from carclf.dataset.detection.files import JSON_SUFFIXES, Files, image_stem, normalized
from carclf.dataset.detection.masks import is_called_like_masks
from carclf.dataset.detection.subsets import roles_of
from carclf.dataset.layout import CODE_PAGES
from carclf.errors import ConfigError, DataError
from carclf.formatting import format_count, format_list

SEPARATORS = (",", ";", "\t", "|")
LABEL_SEPARATOR = re.compile(r"[ ,;|]+")  # of the labels in a list
# Columns with these names are preferred to others with as good values.
_LABEL_NAMES = {"label", "labels", "class", "classes", "classname", "category", "categoryid", "target"}
_KINDS = {"species", "breed", "variety", "diagnosis", "dx", "disease", "grade"}  # of what the images show
_SUFFIXES_OF_KINDS = {"id", "name", "code", "label", "class"}
NAME_OF_LABELS = re.compile("label|class|categor|attribute|annotation|tag|target")  # of a column, in lower case
SUBSET_COLUMN = "split"  # of JSON files and lists, which have no column
MAX_BYTES = 1 << 28
MIN_PIXEL_COLUMNS = 16
_EXCEL_SEPARATOR = re.compile(r"\Asep=[,;\t|]\r?\n")  # a first line for Excel
NUM_SNIFFED = 20  # lines
# The frequency of characters distinguishes these, but not cp1252 (western languages) from cp1250 and DOS code pages.
COMMON_CODE_PAGES = ["cp1251", "cp1252", "cp932", "gb18030", "cp949", "cp950"]
DEFAULT_CODE_PAGE = "cp1252"


@dataclass(frozen=True)
class Table:
    """A table of text. Columns without a name are called 1, 2, ... by their position.

    ``guessed_encoding`` is the code page that only the frequency of the characters supports; "" if there is evidence.
    ``folder_role`` is the subset of the folder that the table is in, such as train for train/metadata.csv.
    ``id_position`` is where the file has the first column of a sample submission.
    """

    path: str
    rows: pd.DataFrame
    guessed_encoding: str = ""
    folder_role: str = ""
    id_position: int = 0

    @property
    def role(self) -> str:
        """The subset that the file's name contains, such as val for val_labels.csv, else that of its folder.

        In a folder of validation or test images, the folder counts first: validation/phase_test.csv has the labels of
        its images. It is predict for test_predictions.csv.
        """
        roles = roles_of(PurePosixPath(self.path).stem)
        if "predict" in roles:
            return "predict"
        return self.folder_role if self.folder_role in ("val", "test") else next(iter(roles), self.folder_role)

    @property
    def is_json(self) -> bool:
        """True if the file is JSON or JSON lines."""
        return PurePosixPath(self.path).suffix.lower() in JSON_SUFFIXES

    @property
    def row_noun(self) -> str:
        """What a row is called in messages."""
        return "annotation" if self.is_json else "row"

    def column(self, name: str, setting: str) -> str:
        """Return the column of a name in any case. Raises ConfigError with the setting if there is none."""
        if matches := self.find_columns(name):
            return matches[0]
        columns = format_list(self.rows.columns, 20)
        raise ConfigError(f"{setting} is {name!r}, but {self.path} has the columns {columns}.")

    def find_columns(self, name: str) -> list[str]:
        """Return the columns of a name in any case, the one that is written like it first."""
        matches = [column for column in self.rows.columns if name.lower() == column.lower()]
        return sorted(matches, key=lambda column: column != name)


def is_usual_label(column: str) -> bool:
    """Return True if a column is called like label."""
    return re.sub("[^a-z]", "", column.lower()) in _LABEL_NAMES


def is_kind(column: str) -> bool:
    """Return True if a column is called like the kinds of what images show, which are mostly the classes."""
    words = [word for word in re.findall("[a-z]+", column.lower()) if word not in _SUFFIXES_OF_KINDS]
    return bool(words) and words[-1] in _KINDS


def read_tables(files: Files, paths: Collection[str]) -> tuple[list[Table], dict[str, DataError]]:
    """Return the readable tables, and the errors of the others by path. ``paths`` are those of the images."""
    names = image_names(paths)
    tables, errors = [], {}
    for path in files.tables:
        try:
            tables.append(read_table(files.root, path, names))
        except DataError as error:
            errors[path] = error
    return tables, errors


def find_listed_masks(files: Files, tables: Sequence[Table]) -> set[str]:
    """Return the paths of masks that a table lists as images, in a column with their names.

    A column of masks is called so, or is next to one with the names of images.
    """
    of_images, of_masks = ({path.rpartition("/")[2] for path in paths} for paths in (files.paths, files.masks))
    listed: set[str] = set()
    for table in tables:
        names = {column: {normalized(cell).rpartition("/")[2] for cell in table.rows[column].unique()}
                 for column in table.rows.columns}
        with_images = {column for column, cells in names.items() if not cells.isdisjoint(of_images)}
        for column, cells in names.items():
            if with_images <= {column} and not is_called_like_masks(column):
                listed |= cells & of_masks - of_images
    return {path for path in files.masks if path.rpartition("/")[2] in listed}


def may_have_classes(table: Table) -> bool:
    """Return False for a list of files, such as a manifest with sizes and checksums."""
    return any(is_usual_label(column) or (1 < table.rows[column].nunique() <= len(table.rows) / 2 and (
        is_kind(column) or not table.rows[column].str.fullmatch(r"[0-9.]*").all())) for column in table.rows.columns)


def with_folder_roles(tables: Sequence[Table], images: pd.DataFrame) -> list[Table]:
    """Return the tables with the role of the subset's folder that they are directly in; ``images`` have ``root``."""
    roots = images.loc[~images["role"].isin(["", "other"]), ["root", "role"]].drop_duplicates()
    roles = list(zip(roots["root"], roots["role"], strict=True))
    folders = [f"/{PurePosixPath(table.path).parent}" for table in tables]
    return [replace(table, folder_role=next((role for root, role in roles if folder.endswith(f"/{root}")), ""))
            for table, folder in zip(tables, folders, strict=True)]


def image_names(paths: Collection[str]) -> set[str]:
    """Return the paths, names and stems of images."""
    names = {name for path in paths for name in (path, path.rpartition("/")[2])}
    names |= {normalized(name) for name in names if not name.isascii()}
    return names | {image_stem(name) for name in names}


def read_table(root: Path, name: str, names: Collection[str] = ()) -> Table:
    """Read the table of a path below ``root`` as text.

    ``names`` are file names and stems: they decide about the code page, and a first line with one is not a header.
    Raises DataError if the file is not a table, has no rows, or has rows of different lengths.
    """
    path = root / name
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path.name} has more than {MAX_BYTES >> 20} MB. Remove columns that are not needed.")
    text, guessed_encoding = decode(path.read_bytes(), names)
    text = _EXCEL_SEPARATOR.sub("", text, count=1)
    separator = _find_separator(text)
    rows = _read_rows(path.name, text, separator)
    if not rows:
        raise DataError(f"{path.name} is empty. Expected a header and rows.")
    if _is_header(rows, names):
        header, *rows = rows
        columns = [cell.strip() or str(number + 1) for number, cell in enumerate(header)]
    else:
        columns = [str(number + 1) for number in range(len(rows[0]))]
    if not rows:
        raise DataError(f"{path.name} has no rows. Expected rows below the header {separator.join(columns)!r}.")
    if len(set(columns)) < len(columns):
        raise DataError(f"{path.name} has two columns of the same name: {separator.join(columns)!r}. Rename one.")
    return Table(name, pd.DataFrame(rows, columns=columns, dtype="object"), guessed_encoding)


def _read_rows(name: str, text: str, separator: str) -> list[list[str]]:
    """Return the rows; pandas' reader would accept rows with too many or too few values."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[list[str]] = []
    first_line = 1  # of the row that is read
    try:
        for row in reader:
            first_line = reader.line_num + 1
            if not any(map(str.strip, row)):
                continue
            if rows and len(row) != len(rows[0]):
                raise DataError(f"{name}: line {reader.line_num}: {format_count(len(row), 'value')}, expected "
                                f"{len(rows[0])}. Fix the line.")
            rows.append(row)
    except csv.Error as error:
        raise DataError(f"{name} is not a valid table: the row that starts in line {first_line}: {error}. Fix the "
                        "line.") from error
    return rows


def has_pixels(table: Table) -> bool:
    """Return True if the columns are the pixels of an image."""
    return sum(bool(re.fullmatch(r"pixel_?[0-9]+|[0-9]+x[0-9]+", column.lower())) for column in table.rows.columns
               ) >= MIN_PIXEL_COLUMNS


def decode(data: bytes, names: Collection[str]) -> tuple[str, str]:
    """Return the text, and the code page if no name of an image is evidence for it."""
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding), ""
    except UnicodeDecodeError:
        named = {name for name in names if not name.isascii()}
        texts = {page: data.decode(page, "replace") for page in CODE_PAGES}
        matches = {page: len(named & set(re.split(r"[,;\t|\r\n\"/]+", text))) for page, text in texts.items()}
        best = max(matches, key=lambda page: matches[page])
        if matches[best]:
            return texts[best], ""
        guess = from_bytes(data, cp_isolation=COMMON_CODE_PAGES).best()
        page = guess.encoding if guess else DEFAULT_CODE_PAGE
        return texts[page], page


def _find_separator(text: str) -> str:
    """Return the separator that gives the most columns in the first lines, the same number in each."""
    lines = text.splitlines()[:NUM_SNIFFED] if len(text) < 1 << 16 else text[: 1 << 16].splitlines()[:-1][:NUM_SNIFFED]
    widths = {}
    for separator in SEPARATORS:
        lengths = [len(row) for row in csv.reader(lines, delimiter=separator) if row]
        widths[separator] = (len(set(lengths)) == 1 and lengths[0] > 1, lengths[0] if lengths else 0)
    return max(widths, key=lambda separator: widths[separator])


def _is_header(rows: list[list[str]], names: Collection[str]) -> bool:
    """Return False if the first line has the name of an image, or starts a column of different stems of images."""
    for cells in zip(*rows[:NUM_SNIFFED], strict=True):
        column = [normalized(cell).rpartition("/")[2] for cell in cells]
        has_names = sum(cell in names for cell in column) > len(column) / 2 and len(set(column)) == len(column)
        if column[0] in names and (column[0] != image_stem(column[0]) or has_names):
            return False
    return True
