"""Which file an id names: by path, name, stem, number, or with a common suffix; one form for a whole column."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from carclf.config.settings import Data
from carclf.dataset.detection.files import image_stem, normalized
from carclf.dataset.detection.tables import Table
from carclf.dataset.layout import match_ids
from carclf.errors import ConfigError

NUM_SAMPLED = 200  # ids of a column that are tried first
MIN_FRACTION = 0.5  # of a column's ids that are images, or it is not the column of the ids


@dataclass(frozen=True)
class Match:
    """The images of ids.

    ``rows`` are row labels of the images by id. ``missing`` are the ids without an image, ``ambiguous`` those that
    several images have.
    """

    form: str
    rows: dict[str, int]
    missing: tuple[str, ...]
    ambiguous: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """True if each id has an image of its own."""
        return not self.missing and not self.ambiguous and len(set(self.rows.values())) == len(self.rows)


class ImageNames:
    """The names of images, prepared for finding those of ids."""

    def __init__(self, images: pd.DataFrame) -> None:
        self.paths: list[str] = [normalized(path) for path in images["path"]]
        self.labels: list[int] = images.index.tolist()
        self._lookups: dict[tuple[str, int], tuple[dict[str, int], set[str]]] = {}
        self._stems: dict[int, list[str]] = {}

    def match(self, ids: Sequence[str], form: str = "auto") -> Match:
        """Return the images of distinct ids in the first form in which each has one, or else in the best form."""
        best = Match(form, {}, tuple(ids))
        for candidate in self._candidates(ids, form):
            if candidate.is_complete:
                return candidate
            if len(set(candidate.rows.values())) > len(set(best.rows.values())):
                best = candidate
        return best

    def _candidates(self, ids: Sequence[str], form: str) -> Iterator[Match]:
        keys = {image_id: normalized(image_id) for image_id in ids}
        forms = ("name", "stem", "number", "suffix") if form == "auto" else (form,)
        variants = [keys]
        if form in ("auto", "name") and any("/" in key for key in keys.values()):
            variants.append({image_id: key.rpartition("/")[2] for image_id, key in keys.items()})
        for variant in variants:
            for name in forms:
                yield self._match(variant, name)

    def _match(self, keys: dict[str, str], form: str) -> Match:
        pattern = form if "{id}" in form else "{id}"
        if form == "suffix":
            pattern = self._find_suffix(keys)
        wrapped = {image_id: _wrap(key, pattern) for image_id, key in keys.items()}
        kinds = {"path": "name", "suffix": "stem"}
        kind = kinds.get(form, form) if "{id}" not in form else ("name" if image_stem(form) != form else "stem")
        rows: dict[str, int] = {}
        ambiguous: list[str] = []
        for depth in {key.count("/") for key in wrapped.values()}:
            level = {image_id: key for image_id, key in wrapped.items() if key.count("/") == depth}
            lookup, repeated = self._lookup(kind, depth)
            matches = _look_up(level, lookup, kind)
            ambiguous += [image_id for image_id, key in matches.items() if key in repeated]
            rows |= {image_id: lookup[key] for image_id, key in matches.items() if key not in repeated}
        missing = tuple(image_id for image_id in keys if image_id not in rows)
        is_path = any("/" in key for key in wrapped.values())
        return Match(pattern if "{id}" in form or form == "suffix" else f"{'path, ' * is_path}{form}", rows, missing,
                     tuple(ambiguous))

    def _lookup(self, kind: str, depth: int) -> tuple[dict[str, int], set[str]]:
        """Return the row labels by the last parts of the paths, and the parts that several images have."""
        if (kind, depth) not in self._lookups:
            lookup: dict[str, int] = {}
            repeated = set()
            for path, label in zip(self.paths, self.labels, strict=True):
                tail = "/".join(path.split("/")[-depth - 1:])
                key = _key(tail, kind)
                if key and lookup.setdefault(key, label) != label:
                    repeated.add(key)
            self._lookups[kind, depth] = lookup, repeated
        return self._lookups[kind, depth]

    def _find_suffix(self, keys: dict[str, str]) -> str:
        """Return the pattern with the suffix that all sampled ids lack, such as {id}_image."""
        sampled = sorted(keys.values())[:: max(1, len(keys) // 20)]
        depth = sampled[0].count("/") if sampled else 0
        if depth not in self._stems:
            self._stems[depth] = sorted(self._lookup("stem", depth)[0])
        stems = self._stems[depth]
        suffixes = set()
        for key in sampled:
            number = bisect_left(stems, key)
            suffixes.add(stems[number][len(key):] if number < len(stems) and stems[number].startswith(key) else "")
        suffix = suffixes.pop() if len(suffixes) == 1 else ""
        return "{id}" + suffix if not suffix[:1].isalnum() else "{id}"


def _wrap(key: str, pattern: str) -> str:
    folder, slash, name = key.rpartition("/")
    return folder + slash + pattern.replace("{id}", name)


def _key(path: str, kind: str) -> str:
    """Return the part of a path that is compared with ids; an empty string if there is none."""
    stem = image_stem(path)
    if kind == "name":
        return stem + path[len(stem):].lower()
    if kind == "number":
        return (stem.lstrip("0") or "0") if stem.isascii() and stem.isdecimal() else ""
    return stem


def _look_up(keys: dict[str, str], lookup: dict[str, int], kind: str) -> dict[str, str]:
    """Return the key of each id that has an image, also if the files' names were decoded with a wrong code page."""
    parts = {image_id: _key(key, kind) if kind != "stem" else key for image_id, key in keys.items()}
    matches = {image_id: key for image_id, key in parts.items() if key in lookup}
    others = {key: image_id for image_id, key in parts.items() if image_id not in matches and not key.isascii()}
    return matches | {others[key]: name for key, name in match_ids(list(others), lookup).items()} if others else matches


@dataclass(frozen=True)
class Joined:
    """A table whose ``id_column`` names images."""

    table: Table
    id_column: str
    match: Match

    @property
    def num_images(self) -> int:
        """Number of images with a row."""
        return len(set(self.match.rows.values()))

    def values(self, column: str) -> "pd.Series[str]":
        """Return a column's values by image, in the order of the images; the first one of images with several rows."""
        rows = self.table.rows[self.id_column].map(self.match.rows)
        values = pd.Series(self.table.rows[column].str.strip().to_numpy(), index=rows, dtype="object")
        values = values[values.index.notna()]
        values.index = values.index.astype(int)
        return values.sort_index()


def join(table: Table, names: ImageNames, config: Data) -> Joined | None:
    """Return the table with its column of ids, the one that names the most images; None if no column names images.

    A column needs an image for half of its ids. Raises ConfigError if ``data.id_column`` is none of the columns.
    """
    columns = list(table.rows.columns)
    if config.id_column:
        columns = [table.column(config.id_column, "data.id_column")]
    best: Joined | None = None
    for column in columns:
        ids = sorted(set(table.rows[column]))
        sampled = ids[:: max(1, len(ids) // NUM_SAMPLED)]
        match = names.match(sampled, config.id_form)
        if len(match.rows) + len(match.ambiguous) < MIN_FRACTION * len(sampled):
            continue
        joined = Joined(table, column, names.match(ids, config.id_form))
        if best is None or joined.num_images > best.num_images:
            best = joined
    return best


def raise_if_ambiguous(joined: Joined, setting: str) -> None:
    """Raise ConfigError if several images have the same id: in one folder, or in several."""
    if joined.match.ambiguous:
        first = sorted(joined.match.ambiguous)[0]
        raise ConfigError(f"{joined.table.path}: {len(joined.match.ambiguous)} ids have several images (first: "
                          f"{first!r}, compared by {joined.match.form}). Set {setting}.")
