"""The objects of a batch prediction in the store: plans, and one Parquet file for each finished shard.

Each object is created once and never changes. A plan divides images into shards, and no two plans contain the same
version of an image. A shard is finished when its file exists, so neither two workers nor two plans predict an image
twice.
"""

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from carclf.artifacts import fingerprint
from carclf.errors import ConfigError, DataError
from carclf.services.storage import Store

FOLDER = "batch_predictions"
ROW_GROUP_SIZE = 10_000  # a worker parses those of its shard
_PLAN = re.compile(r"_plans/([0-9]{5,})\.parquet")
_SHARD = re.compile(r"([0-9]{5,}-[0-9]{5,})\.parquet")


@dataclass(frozen=True, order=True)
class ShardId:
    """The number of a plan and the number of one of its shards, written as 00001-00012."""

    plan: int
    number: int

    @classmethod
    def parse(cls, text: str) -> "ShardId":
        """Return the id; raise ConfigError if it has another form."""
        if not re.fullmatch(r"[0-9]{5,}-[0-9]{5,}", text):
            raise ConfigError(f"Invalid shard {text!r}. Give ids that the plan printed, such as 00001-00012.")
        return cls(*map(int, text.split("-")))

    def __str__(self) -> str:
        return f"{self.plan:05d}-{self.number:05d}"


@dataclass(frozen=True)
class BatchFolder:
    """The folder of the store with the predictions of one model for one source.

    ``model`` is the model's key, ``source`` the URL of the bucket's prefix or the absolute path of the folder.
    """

    store: Store
    model: str
    source: str

    @cached_property
    def path(self) -> str:
        """The folder's path in the store. Parquet readers ignore ``_plans`` in it."""
        return f"{FOLDER}/{self.model}/{fingerprint(source=self.source)}"

    def list_objects(self) -> tuple[list[int], list[ShardId]]:
        """Return the numbers of the plans and the ids of the finished shards, sorted."""
        names = [key.removeprefix(f"{self.path}/") for key in self.store.list_keys(f"{self.path}/")]
        plans = [int(match[1]) for name in names if (match := _PLAN.fullmatch(name))]
        return sorted(plans), sorted(ShardId.parse(match[1]) for name in names if (match := _SHARD.fullmatch(name)))

    def is_finished(self, shard: ShardId) -> bool:
        """Return whether the predictions of a shard are in the store."""
        return any(self.store.list_keys(self._shard_key(shard)))

    def write_plan(self, number: int, plan: pd.DataFrame) -> bool:
        """Write a plan; return False if another process wrote a plan with this number first."""
        return self._create(self._plan_key(number), plan)

    def write_shard(self, shard: ShardId, rows: pd.DataFrame) -> bool:
        """Write a shard's predictions; return False if another process finished the shard first."""
        return self._create(self._shard_key(shard), rows)

    def read_plan(self, number: int, shards: Sequence[ShardId] | None = None) -> pd.DataFrame:
        """Return path, num_bytes, version and shard of a plan's images, or only those of the plan's given shards."""
        filters = None
        if shards is not None:
            filters = [("shard", "in", [shard.number for shard in shards if shard.plan == number])]
        return read_table(self.store, self._plan_key(number), filters=filters)

    def read_shard(self, shard: ShardId, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the predictions of a finished shard; the columns are documented in ``docs/batch-prediction.md``."""
        return read_table(self.store, self._shard_key(shard), columns=columns and list(columns))

    def _create(self, key: str, table: pd.DataFrame) -> bool:
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False, write_page_checksum=True, row_group_size=ROW_GROUP_SIZE)
        return self.store.write_if(key, buffer.getvalue(), None)

    def _plan_key(self, number: int) -> str:
        return f"{self.path}/_plans/{number:05d}.parquet"

    def _shard_key(self, shard: ShardId) -> str:
        return f"{self.path}/{shard}.parquet"


def list_tables(store: Store) -> Iterator[str]:
    """Yield the keys of all plans and shards of a store."""
    return (key for key in store.list_keys(f"{FOLDER}/") if key.endswith(".parquet"))


def read_table(store: Store, key: str, **options: Any) -> pd.DataFrame:
    """Return a plan or a shard with ``pandas.read_parquet``; raise DataError if it is missing or damaged."""
    fix = f"Restore it from a backup, or remove {store.url}/{key}: the next plan predicts its images again."
    if (stored := store.read(key)) is None:
        raise DataError(f"{key} is missing from {store.url}. Make a plan with carclf predictions plan, which lists "
                        "the shards.")
    try:
        return pd.read_parquet(io.BytesIO(stored.data), page_checksum_verification=True, **options)
    except (ValueError, OSError, LookupError) as error:  # pyarrow's errors are among them
        raise DataError(f"{store.url}/{key} is damaged: {error}. {fix}") from error
