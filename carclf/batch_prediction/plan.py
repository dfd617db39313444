"""Plan a batch prediction: list the images that a model has not predicted and divide them into shards."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from carclf.artifacts import fingerprint
from carclf.batch_prediction.shard_files import BatchFolder, ShardId
from carclf.config import load_policy
from carclf.config.sources import parse_source
from carclf.dataset.archive_members import is_archive
from carclf.dataset.layout import TABLE_SUFFIXES, is_useful
from carclf.dataset.listing import BucketPrefix, Folder, ListedSource, list_source, open_listed
from carclf.dataset.walk import Entry
from carclf.errors import ConfigError
from carclf.progress import log
from carclf.services.storage import Store

NUM_THREADS = 10  # that read shards; a bucket's latency limits each
SETTING = "CARCLF_PREDICT_SOURCE"


@dataclass(frozen=True)
class Plan:
    """The shards that are not finished, including those of earlier plans, and counts of images."""

    shards: list[ShardId]
    num_listed: int
    num_new: int  # since the previous plan

    def groups(self, max_groups: int) -> list[list[ShardId]]:
        """Return the shards in at most this many groups of equal size."""
        num_groups = min(max_groups, len(self.shards))
        return [self.shards[first::num_groups] for first in range(num_groups)]


def open_source(text: str) -> Folder | BucketPrefix:
    """Return the source with the images to predict.

    Raise ConfigError unless it names a folder or a bucket that the policy allows.
    """
    try:
        source = parse_source(text)
    except ValueError as error:
        raise ConfigError(f"{SETTING}={text!r}: {error}.") from error
    if source.kind not in ("folder", "bucket"):
        raise ConfigError(f"{SETTING}={text!r} is neither a folder nor a bucket. Set s3://bucket/prefix or a path with "
                          "a slash, such as ./photos.")
    load_policy().require_source(SETTING, text)
    return open_listed(source, SETTING)


def make_plan(store: Store, model: str, source: ListedSource, shard_size: int) -> Plan:
    """List the source and plan the images that the model has not predicted in their present version.

    An image in a shard that is not finished yet is not planned again: the shard is part of the returned plan. If
    another process writes a plan at the same time, list and plan again.
    """
    folder = BatchFolder(store, model, source.name)
    while True:
        listed, new, progress = _find_new(folder, source)
        if new.empty:
            return Plan(progress.unfinished(), len(listed), 0)
        plan = new.assign(shard=np.arange(len(new)) // shard_size)
        if folder.write_plan(progress.next_number, plan):
            shards = progress.unfinished() + _shards_of(plan, progress.next_number)
            return Plan(shards, len(listed), len(new))
        log.info("predictions: another plan was written first, planning again plan=%d", progress.next_number)


def describe_new(store: Store, model: str, source: ListedSource) -> dict[str, Any]:
    """Return what the source contains now, as ``carclf source status``: ``changed`` if a plan would have new images."""
    listed, new, _ = _find_new(BatchFolder(store, model, source.name), source)
    return {"source": source.name, "model": model, "changed": not new.empty, "num_images": len(listed),
            "num_new_images": len(new), "fingerprint": fingerprint(files=listed.to_numpy().tolist())}


def _find_new(folder: BatchFolder, source: ListedSource) -> "tuple[pd.DataFrame, pd.DataFrame, _Progress]":
    """Return the images of the source, those that are in no plan in their present version, and the progress."""
    listed = _list_images(source)
    progress = _read_progress(folder)
    return listed, listed[listed["version"] != listed["path"].map(progress.known_versions(folder))], progress


def _list_images(source: ListedSource) -> pd.DataFrame:
    """Return path, num_bytes and version of the images, sorted by path."""
    listing = list_source(source, may_be_empty=True)  # an inbox is often empty
    for path, reason in listing.ignored.items():
        if reason:
            log.warning("predictions: ignored path=%s: %s", path, reason)
    images = [entry for entry in listing.entries if _may_be_image(entry.path)]
    if not images:
        log.warning("predictions: there are no images in %s (%s)", source.name, source.setting)
    return pd.DataFrame(images, columns=Entry._fields).astype({"path": str, "num_bytes": "int64", "version": str})


def _may_be_image(path: str) -> bool:
    is_other = is_archive(path) or PurePosixPath(path.lower()).suffix in TABLE_SUFFIXES
    return is_useful(path.split("/")) and not is_other


@dataclass(frozen=True)
class _Progress:
    """The images of unfinished shards by number of the plan, and the finished shards."""

    plans: dict[int, pd.DataFrame]
    finished: list[ShardId]

    @property
    def next_number(self) -> int:
        return 1 + max([*self.plans, *(shard.plan for shard in self.finished)], default=0)

    def unfinished(self) -> list[ShardId]:
        return [shard for number, plan in sorted(self.plans.items()) for shard in _shards_of(plan, number)]

    def known_versions(self, folder: BatchFolder) -> "pd.Series[str]":
        """Return the newest version of each path that has a prediction or is in an unfinished shard."""
        def read_versions(shard: ShardId) -> pd.DataFrame:
            table = folder.read_shard(shard, ["id", "version"])
            return table.rename(columns={"id": "path"}).assign(plan=shard.plan)

        with ThreadPoolExecutor(NUM_THREADS) as pool:
            tables = list(pool.map(read_versions, self.finished))
        tables += [plan[["path", "version"]].assign(plan=number) for number, plan in self.plans.items()]
        if not tables:
            return pd.Series(dtype=str)
        newest = pd.concat(tables).sort_values("plan", kind="stable").drop_duplicates("path", keep="last")
        return newest.set_index("path")["version"]


def _read_progress(folder: BatchFolder) -> _Progress:
    numbers, finished = folder.list_objects()

    def read_unfinished(number: int) -> pd.DataFrame:
        plan = folder.read_plan(number)
        return plan[~plan["shard"].isin([shard.number for shard in finished if shard.plan == number])]

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return _Progress(dict(zip(numbers, pool.map(read_unfinished, numbers), strict=True)), finished)


def _shards_of(plan: pd.DataFrame, number: int) -> list[ShardId]:
    return [ShardId(number, int(shard)) for shard in sorted(plan["shard"].unique())]
