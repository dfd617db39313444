"""Packs: the files of a folder or a bucket in a few archives. A new state of the source adds one with its changes."""

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import accumulate, groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from carclf.artifacts import Archive, File, Metrics, file_sha256, fingerprint
from carclf.dataset.archives import add_file
from carclf.dataset.listing import ListedSource, Listing, name_setting
from carclf.dataset.walk import Entry
from carclf.errors import DataError
from carclf.progress import log
from carclf.services.storage import Store

if TYPE_CHECKING:
    import pandas as pd

MAX_PACK_BYTES = 2 << 30  # a larger pack is continued in another one
MAX_PACKS = 50  # more than the size requires, before everything is packed again
MIN_USED_FRACTION = 0.5  # of the bytes in the packs
MEMBER_BYTES = 76  # the two headers of a member of a zip archive, without its name
LISTING = "listing.parquet"
PACKED_COLUMNS = ["path", "num_bytes", "version", "pack", "sha256"]


@dataclass(frozen=True)
class Plan:
    """The new files to read, and what an earlier archive of the same source already has.

    ``kept`` has the rows of the earlier ``listing.parquet`` that are still valid, and ``packs`` are their packs.
    """

    entries: list[Entry]
    kept: "pd.DataFrame"
    packs: Mapping[str, File]


@dataclass(frozen=True)
class PackedFiles:
    """The metrics of an archive, and a fingerprint of its empty folders and of the paths and bytes of its files."""

    metrics: Metrics
    fingerprint: str


def plan_packs(listing: Listing, previous: Archive | None, store: Store) -> Plan:
    """Return what must be read: the new and changed files, or all of them if too little of the packs is used."""
    import pandas as pd

    empty = pd.DataFrame(columns=PACKED_COLUMNS)
    if previous is None:
        return Plan(listing.entries, empty, {})
    try:
        table = previous.table(store, LISTING)
    except DataError as error:
        log.warning("download: the earlier listing is damaged, reading everything reason=%s", error)
        return Plan(listing.entries, empty, {})
    kept = table.merge(pd.DataFrame(listing.entries, columns=Entry._fields), on=Entry._fields)[PACKED_COLUMNS]
    packs = {name: previous.file(name) for name in kept["pack"].unique()}
    num_bytes = sum(file.num_bytes for file in packs.values())
    used_bytes = int(kept["num_bytes"].sum()) + sum(MEMBER_BYTES + 2 * len(path.encode()) for path in kept["path"])
    is_sparse = used_bytes < MIN_USED_FRACTION * num_bytes
    if is_sparse or len(packs) >= MAX_PACKS + num_bytes // MAX_PACK_BYTES:
        log.info("download: packing all files again num_packs=%d used_bytes=%d pack_bytes=%d", len(packs),
                 used_bytes, num_bytes)
        return Plan(listing.entries, empty, {})
    old = set(kept["path"])
    return Plan([entry for entry in listing.entries if entry.path not in old], kept, packs)


def write_packs(source: ListedSource, listing: Listing, plan: Plan, folder: Path) -> PackedFiles:
    """Read the planned files into new packs, and write ``listing.parquet``.

    The listing has the columns path, num_bytes, version, pack, sha256 and reason. Ignored files, with the reason, and
    empty folders, with a slash at the end of the path, have no pack.
    """
    import pandas as pd

    first = 1 + max((int(name[5:-4]) for name in plan.packs), default=-1)
    new = pd.DataFrame(_write_packs(source, plan.entries, first, folder), columns=PACKED_COLUMNS)
    reasons = [*((path, "") for path in listing.folders), *listing.ignored.items()]
    unpacked = pd.DataFrame(reasons, columns=["path", "reason"]).assign(num_bytes=0, version="", pack="", sha256="")
    parts = [plan.kept.assign(reason=""), new.assign(reason=""), unpacked]
    table = pd.concat([part for part in parts if len(part)]).sort_values("path", ignore_index=True)
    table.astype({"num_bytes": "int64"}).to_parquet(folder / LISTING)
    used = table[table["pack"] != ""]
    contents = used[["path", "sha256"]].to_numpy().tolist()
    metrics: Metrics = {
        "num_bytes": int(used["num_bytes"].sum()), "num_files": len(used), "num_fetched": len(new),
        "fetched_bytes": int(new["num_bytes"].sum()), "content": fingerprint(files=contents, others=listing[1:]),
    }
    return PackedFiles(metrics, fingerprint(files=contents, folders=listing.folders))


def _write_packs(source: ListedSource, entries: list[Entry], first: int, folder: Path) -> Iterator[tuple[object, ...]]:
    """Yield the row of each file after it was written."""
    sizes = accumulate((entry.num_bytes for entry in entries), initial=0)
    names = [f"pack-{first + size // MAX_PACK_BYTES:04d}.zip" for size in sizes]
    with name_setting(source.name, source.setting), closing(source.read(entries)) as files:
        for name, group in groupby(zip(names, files, strict=False), key=itemgetter(0)):
            with zipfile.ZipFile(folder / name, "w") as archive:
                for _, (entry, path) in group:
                    add_file(archive, entry.path, path)
                    yield *entry, name, file_sha256(path)
