"""Which file an id names: by path, name, stem, number, or with a common suffix; one form for a whole column."""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile

import pandas as pd

from carclf.config.settings import Data
from carclf.dataset.detection.files import image_stem, normalized
from carclf.dataset.detection.result import class_name
from carclf.dataset.detection.tables import Table
from carclf.dataset.layout import match_ids
from carclf.formatting import format_count

NUM_SAMPLED = 200  # rows of a column that are tried first
MIN_FRACTION = 0.5  # of a column's ids that are images, or it is not the column of the ids
_IMAGE_KEY = re.compile("(image|img|photo|file|sample)[ _-]?(id|key|no|nr|number|index|uuid)")
NUM_WITH_SUFFIX = 20  # ids that a common suffix is derived from


@dataclass(frozen=True)
class Match:
    """The row labels of the images by id, the ids without an image, and those that several images have."""

    form: str
    rows: dict[str, int]
    missing: tuple[str, ...]
    ambiguous: tuple[str, ...] = ()

    @cached_property
    def num_images(self) -> int:
        """Number of images that have an id."""
        return len(set(self.rows.values()))

    @property
    def is_complete(self) -> bool:
        """True if each id has an image of its own."""
        return not self.missing and not self.ambiguous and self.num_images == len(self.rows)


@dataclass(frozen=True)
class _Lookup:
    """The row labels of the images by key, and the keys that several images have."""

    rows: dict[str, int]
    repeated: set[str]

    @cached_property
    def by_lower_case(self) -> dict[str, str]:
        """The keys by their lower case, without those that differ only in case."""
        folded = list(map(str.casefold, self.rows))
        keys = dict(zip(folded, self.rows, strict=True))
        if len(keys) == len(folded):
            return keys
        counts = Counter(folded)
        return {name: key for name, key in keys.items() if counts[name] == 1}


class ImageNames:
    """The names of images, prepared for finding those of ids."""

    def __init__(self, images: pd.DataFrame) -> None:
        self._paths: list[tuple[str, int]] = list(
            zip(map(normalized, images["path"]), images.index.tolist(), strict=True))
        self._lookups: dict[tuple[str, int], _Lookup] = {}
        self._stems: dict[int, list[str]] = {}

    def match(self, ids: Sequence[str], form: str = "auto") -> Match:
        """Return the images of distinct ids in the first form in which each has one, or else in the best form.

        Paths are compared as they are, without the first folders that all of them have, and without their folders; at
        last without their extensions, as if the images had been converted.
        """
        forms = ("name", "stem", "number", "suffix") if form == "auto" else (form,)
        best = Match(form, {}, tuple(ids))
        for paths in _variants(ids, form):
            for candidate in forms:
                match = self._without_other_folders(self._match(paths, candidate))
                if match.is_complete:
                    return match
                best = max(best, match, key=lambda match: (match.num_images, len(match.ambiguous)))
        return best

    def _without_other_folders(self, match: Match) -> Match:
        """Return the match without ids such as dog/1.jpg for the image cat/1.jpg, whose own image is missing.

        If all images have different names, the image may have been moved.
        """
        if not self._has_repeated_names:
            return match
        wrong = {image_id: row for image_id, row in match.rows.items() if self._is_in_other_folder(image_id, row)}
        rows = {image_id: row for image_id, row in match.rows.items() if image_id not in wrong}
        return replace(match, rows=rows, missing=(*match.missing, *wrong))

    def _is_in_other_folder(self, image_id: str, row: int) -> bool:
        *folders, _ = normalized(image_id).casefold().split("/")
        return bool(folders) and folders[-1] not in self._folders[row] and folders[-1] in self._folder_names

    @cached_property
    def _has_repeated_names(self) -> bool:
        return len({path.rpartition("/")[2] for path, _ in self._paths}) < len(self._paths)

    @cached_property
    def _folders(self) -> dict[int, list[str]]:
        """The folders of each image, in lower case."""
        return {row: path.casefold().split("/")[:-1] for path, row in self._paths}

    @cached_property
    def _folder_names(self) -> set[str]:
        return {folders[-1] for folders in self._folders.values() if folders}

    def _match(self, paths: dict[str, str], form: str) -> Match:
        is_pattern = form == "suffix" or "{id}" in form
        pattern = (self._find_suffix(list(paths.values())) if form == "suffix" else form) if is_pattern else "{id}"
        kind = {"path": "name", "suffix": "stem"}.get(form, form)
        if "{id}" in form:
            kind = "stem" if image_stem(form) == form else "name"
        rows: dict[str, int] = {}
        ambiguous = []
        for depth in {path.count("/") for path in paths.values()}:
            lookup = self._lookup(kind, depth)
            level = {image_id: _wrap(path, pattern) for image_id, path in paths.items() if path.count("/") == depth}
            for image_id, key in _look_up(level, lookup, kind).items():
                if key in lookup.repeated:
                    ambiguous.append(image_id)
                else:
                    rows[image_id] = lookup.rows[key]
        has_paths = any("/" in path for path in paths.values())
        missing = tuple(image_id for image_id in paths if image_id not in rows)
        return Match(pattern if is_pattern else f"{'path, ' * has_paths}{form}", rows, missing, tuple(ambiguous))

    def _lookup(self, kind: str, depth: int) -> _Lookup:
        """Return the row labels by the last parts of the paths."""
        if (kind, depth) not in self._lookups:
            lookup: dict[str, int] = {}
            repeated = set()
            for path, row in self._paths:
                key = _key("/".join(path.split("/")[-depth - 1:]), kind)
                if key and lookup.setdefault(key, row) != row:
                    repeated.add(key)
            self._lookups[kind, depth] = _Lookup(lookup, repeated)
        return self._lookups[kind, depth]

    def _find_suffix(self, paths: Sequence[str]) -> str:
        """Return the pattern with the suffix that all sampled ids lack, such as {id}_image."""
        sampled = sorted(paths)[:: max(1, len(paths) // NUM_WITH_SUFFIX)]
        depth = sampled[0].count("/") if sampled else 0
        if depth not in self._stems:
            self._stems[depth] = sorted(self._lookup("stem", depth).rows)
        stems = [*self._stems[depth], ""]
        following = [(path, stems[bisect_left(self._stems[depth], path)]) for path in sampled]
        suffixes = {stem[len(path):] if stem.startswith(path) else "" for path, stem in following}
        suffix = suffixes.pop() if len(suffixes) == 1 else ""
        is_number = suffix[-1:].isdigit() and any(self._has_others(path, suffix, depth) for path in sampled)
        return "{id}" if suffix[:1].isalnum() or is_number else f"{{id}}{suffix}"

    def _has_others(self, path: str, suffix: str, depth: int) -> bool:
        """Return True if several images have the id and a number: patient_1_1 and patient_1_2."""
        stems = self._stems[depth]
        start = path + suffix.rstrip("0123456789")
        first = bisect_left(stems, start)
        return first + 1 < len(stems) and stems[first + 1].startswith(start)


def _variants(ids: Sequence[str], form: str) -> Iterator[dict[str, str]]:
    """Yield the paths of the ids in the order of ``match``; each variant is made only if it is needed."""
    paths = {image_id: normalized(image_id) for image_id in ids}
    yield from _without_folders(paths, form)
    if form == "auto" and any(image_stem(path) != path for path in paths.values()):
        for variant in _without_folders(paths, form):
            yield {image_id: image_stem(path) for image_id, path in variant.items()}


def _without_folders(paths: dict[str, str], form: str) -> Iterator[dict[str, str]]:
    """Yield the paths as they are, without common first folders, and without all folders."""
    yield paths
    yield from _without_common_folders(paths)
    if form in ("auto", "name") and any("/" in path for path in paths.values()):
        yield {image_id: path.rpartition("/")[2] for image_id, path in paths.items()}


def _without_common_folders(paths: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Yield the paths without the first folder that all of them have, without the first two, and so on."""
    levels = zip(*(path.split("/")[:-1] for path in paths.values()), strict=False)
    num_common = sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, levels))
    for depth in range(1, num_common + 1):
        yield {image_id: path.split("/", depth)[depth] for image_id, path in paths.items()}


def _wrap(path: str, pattern: str) -> str:
    folder, slash, name = path.rpartition("/")
    return folder + slash + pattern.replace("{id}", name)


def _key(path: str, kind: str) -> str:
    """Return the part of a path that is compared with ids; an empty string if there is none."""
    stem = image_stem(path)
    if kind == "name":
        return stem + path[len(stem):].lower()
    if kind == "number":
        return (stem.lstrip("0") or "0") if stem.isascii() and stem.isdecimal() else ""
    return stem


def _look_up(paths: dict[str, str], lookup: _Lookup, kind: str) -> dict[str, str]:
    """Return the key of each id that has an image.

    Ids without an image are compared in lower case with the images without an id, and in the code pages that the files'
    names may have been decoded from.
    """
    # an id has no extension to be left out, unless it is a name
    keys = {image_id: _key(path, kind) if kind == "name" or path.isdecimal() else path
            for image_id, path in paths.items()}
    matches = {image_id: key for image_id, key in keys.items() if key in lookup.rows}
    if len(matches) == len(keys):
        return matches
    named = set(matches.values())
    matches |= {image_id: name for image_id, key in keys.items() if image_id not in matches
                and (name := lookup.by_lower_case.get(key.casefold())) and name not in named}
    others = {key: image_id for image_id, key in keys.items() if image_id not in matches and not key.isascii()}
    by_code_page = match_ids(list(others), lookup.rows) if others else {}
    return matches | {others[key]: name for key, name in by_code_page.items()}


@dataclass(frozen=True)
class Joined:
    """A table whose ``id_column`` names images, ``is_by_key`` by the keys of another table.

    Another column, ``rival``, may name other images as well as it.
    """

    table: Table
    id_column: str
    match: Match
    rival: str = ""
    is_by_key: bool = False

    @property
    def path(self) -> str:
        """The table's path."""
        return self.table.path

    def values(self, column: str) -> "pd.Series[str]":
        """Return a column's values by row label of the images, in their order, once for each row of the table."""
        rows = self.table.rows[self.id_column].map(self.match.rows)
        values = pd.Series(self.table.rows[column].map(class_name).to_numpy(), index=rows, dtype="object")
        values = values[values.index.notna()]
        values.index = values.index.astype(int)
        return values.sort_index()

    def first_values(self, column: str) -> "pd.Series[str]":
        """Return a column's first value for each image."""
        return first_of_each(self.values(column))


def first_of_each(values: "pd.Series[str]") -> "pd.Series[str]":
    """Return the first value of each row label."""
    return values[~values.index.duplicated()]


def describe_unmatched(table: Table, images: pd.DataFrame, config: Data) -> str:
    """Return why ``join`` returns None for a table: the ids in its best column that no image has."""
    names = ImageNames(images)
    columns = _id_columns(table, config.id_column)
    matches = {column: names.match(sorted(table.rows[column].unique()), config.id_form) for column in columns}
    column = max(matches, key=lambda column: matches[column].num_images)
    match = matches[column]
    settings = {"data.id_column": config.id_column, "data.id_form": config.id_form.replace("auto", "")}
    reason = "".join(f", {name} is {value!r}" for name, value in settings.items() if value)
    if not match.rows or not match.missing:
        return (f"{table.path} has no column with ids of the images (first {table.row_noun}: "
                f"{', '.join(table.rows.iloc[0])[:100]!r}; first image: {images['path'].iloc[0]!r}{reason}).")
    return (f"{table.path}: only {len(match.rows)} of {format_count(len(match.rows) + len(match.missing), 'id')} in "
            f"{column} name images, less than half (not {', '.join(map(repr, match.missing[:3]))}, compared by "
            f"{match.form}{reason}).")


def join(table: Table, names: ImageNames, config: Data) -> Joined | None:
    """Return the table with its column of ids; None if no column names images.

    A column needs an image for half of its ids, which must not repeat often. The one that names the most images is
    used; one that may contain the numbers of the rows only if there is no other.
    """
    candidates = _candidates(table, names, config)
    if not candidates:
        return None
    ranks = [(not _has_row_numbers(table.rows[candidate.id_column]), candidate.match.num_images)
             for candidate in candidates]
    best, *others = [candidate for candidate, rank in zip(candidates, ranks, strict=True) if rank == max(ranks)]
    images = table.rows[best.id_column].map(best.match.rows)
    rivals = [other.id_column for other in others
              if not images.equals(table.rows[other.id_column].map(other.match.rows))]
    return replace(best, rival=rivals[0]) if rivals else best


def join_by_keys(tables: Sequence[Table], joined: Sequence[Joined]) -> list[Joined]:
    """Return the joined tables, and those that have the images' keys of another table, in the order of ``tables``.

    Such a key is the column image_id of images.csv, in which another column has the names of files. It is preferred to
    images that are called like the key. A table of a subset has keys of that subset or of all images.
    """
    by_table = {id(table.table): table for table in joined}  # a file of several lists has several tables
    named = [table for table in joined if table.match.form.endswith("name")]
    for table in tables:
        direct = by_table.get(id(table))
        if direct and direct.match.form.endswith("name"):
            continue
        matches = [match for other in named if other.table.role in ("", table.role)
                   and (match := _join_by_key(table, other))]
        are_equal = all(match.match.rows == matches[0].match.rows for match in matches)
        if matches and are_equal and (direct is None or direct.id_column == matches[0].id_column):
            by_table[id(table)] = matches[0]
    return [by_table[id(table)] for table in tables if id(table) in by_table]


def _join_by_key(table: Table, other: Joined) -> Joined | None:
    """Return the table with the images of its keys, which are a column of both tables; None if there is none."""
    for column in table.rows.columns.intersection(other.table.rows.columns.drop(other.id_column)):
        keys = other.table.rows[column]
        if keys.is_unique and _IMAGE_KEY.fullmatch(column.lower()):
            images = dict(zip(keys, other.table.rows[other.id_column], strict=True))
            ids = sorted(table.rows[column].unique())
            rows = {key: row for key in ids if (row := other.match.rows.get(images.get(key, ""))) is not None}
            if len(rows) >= MIN_FRACTION * len(ids):
                missing = tuple(key for key in ids if key not in rows)
                return Joined(table, column, Match(f"{column} of {other.path}", rows, missing), is_by_key=True)
    return None


def _id_columns(table: Table, setting: str) -> list[str]:
    """Return the columns that may have the ids: the one of ``data.id_column`` in a table that has it, else all."""
    return table.find_columns(setting)[:1] or list(table.rows.columns)


def _has_row_numbers(values: "pd.Series[str]") -> bool:
    """Return True if the values are the whole numbers from 0 or from 1 on, in any order."""
    distinct = set(values)
    return any(distinct == set(map(str, range(first, first + len(values)))) for first in (0, 1))


def _candidates(table: Table, names: ImageNames, config: Data) -> list[Joined]:
    candidates = []
    for column in _id_columns(table, config.id_column):
        values = table.rows[column]
        sample = names.match(values.iloc[:: max(1, len(values) // NUM_SAMPLED)].unique().tolist(), config.id_form)
        if not sample.rows and not sample.ambiguous:
            continue
        ids = sorted(values.unique())
        match = names.match(ids, config.id_form)
        # a class such as 1 may be the name of an image, too
        is_id = len(ids) >= MIN_FRACTION * len(values) or match.form.endswith("name")
        if is_id and len(match.rows) + len(match.ambiguous) >= MIN_FRACTION * len(ids):
            candidates.append(Joined(table, column, match))
    return candidates
