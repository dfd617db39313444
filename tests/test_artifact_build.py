"""``build``: an artifact is created once, completely or not at all."""

import os
from pathlib import Path

import pytest

from carclf.artifacts import Metrics, Provenance, Split, build
from carclf.errors import DataError
from carclf.services.storage import open_store


def test_an_artifact_is_created_once_per_setting(tmp_path: Path) -> None:
    store, calls = open_store(str(tmp_path / "store")), []

    def make(folder: Path) -> Metrics:
        calls.append(folder)
        (folder / "split.parquet").write_bytes(b"content")
        return {"num_train": len(calls)}

    def build_split(**settings: int) -> tuple[Split, bool]:
        return build(Split, make, Provenance(1, {"dataset": "d"}, settings), store)

    (first, created_reused), (second, reused), (other, _) = build_split(a=1), build_split(a=1), build_split(a=2)
    assert (created_reused, reused, len(calls)) == (False, True, 2)
    assert first == second and first.key != other.key
    assert first.path(store, "split.parquet").read_bytes() == b"content"


def test_a_failed_build_leaves_nothing_in_the_store(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))

    def fail(folder: Path) -> Metrics:
        (folder / "split.parquet").write_bytes(b"half")
        raise DataError("no")

    with pytest.raises(DataError, match="no"):
        build(Split, fail, Provenance(1, {}, {}), store)
    assert list(store.list_keys()) == []


def test_reading_a_damaged_file_raises_data_error(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))

    def make(folder: Path) -> Metrics:
        (folder / "split.parquet").write_bytes(os.urandom(16))
        return {}

    split, _ = build(Split, make, Provenance(1, {}, {}), store)
    store.write(split.files["split.parquet"].key, b"damaged")
    with pytest.raises(DataError, match=r"is damaged.*force"):
        split.path(store, "split.parquet")
