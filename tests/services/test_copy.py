"""Copies of a store: complete at each moment, checked, and incremental."""

import hashlib
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import boto3
import pytest

from carclf.artifacts import Metrics, Provenance, Split, build
from carclf.services.storage import (
    CopyResult,
    FolderStore,
    Store,
    VersionedObject,
    copy_store,
    init_store,
    open_store,
    update_object,
)


def make_split(store: Store, seed: int) -> Split:
    def make(folder: Path) -> Metrics:
        (folder / "split.parquet").write_bytes(bytes([seed]) * 1000)
        return {"seed": seed}

    return build(Split, make, Provenance(1, {}, {"seed": seed}), store)[0]


def finish_run(store: Store, name: str, split: Split) -> None:
    store.write(f"runs/{name}.json", json.dumps({"run": name, "stages": {"split": {"key": split.key}}}).encode())
    update_object(store, "champion.json", lambda _: json.dumps({"champion": name}).encode())


@pytest.fixture
def source(tmp_path: Path) -> FolderStore:
    init_store(tmp_path / "source")
    store = FolderStore(tmp_path / "source")
    finish_run(store, "first", make_split(store, 1))
    store.write("label_fixes.csv", b"id,action,label,sha256\n")
    save(store, "b.npz", b"weights")
    return store


def save(store: Store, name: str, weights: bytes) -> None:
    """Save a checkpoint as a training does."""
    store.write(f"checkpoints/k/{name}", weights)
    latest = {"file": name, "sha256": hashlib.sha256(weights).hexdigest()}
    store.write("checkpoints/k/latest.json", json.dumps(latest).encode())


def contents(store: Store) -> dict[str, bytes]:
    return {key: current.data for key in store.list_keys() if (current := store.read(key))}


class CheckedStore(FolderStore):
    """Checks after each write that it contains everything that it refers to."""

    def write(self, key: str, data: bytes) -> None:
        super().write(key, data)
        self.check()

    def upload(self, path: Path, key: str) -> None:
        super().upload(path, key)
        self.check()

    def check(self) -> None:
        objects = contents(self)
        if "champion.json" in objects:
            assert f"runs/{json.loads(objects['champion.json'])['champion']}.json" in objects
        for key, data in objects.items():
            if key.startswith("runs/"):
                assert f"splits/{json.loads(data)['stages']['split']['key']}/manifest.json" in objects
            if key.endswith("manifest.json"):
                assert {file["key"] for file in json.loads(data)["files"].values()} <= set(objects)


class BusyStore(FolderStore):
    """A run ends each time that the first run's record is read."""

    num_runs = 0

    def read(self, key: str) -> VersionedObject | None:
        current = super().read(key)
        if self.num_runs < 3 and key == "runs/first.json":
            self.num_runs += 1
            finish_run(FolderStore(self.folder), f"run{self.num_runs}", make_split(FolderStore(self.folder), 9))
        return current


def test_a_copy_is_equal_and_complete_at_every_moment(source: FolderStore, tmp_path: Path) -> None:
    target = CheckedStore(tmp_path / "target")
    result = copy_store(source, target)
    assert contents(target) == contents(source)
    assert result == CopyResult(len(list(source.list_keys())), sum(map(len, contents(source).values())))


def test_a_copy_made_while_a_run_ends_is_consistent(source: FolderStore, tmp_path: Path) -> None:
    target = CheckedStore(tmp_path / "target")
    copy_store(BusyStore(source.folder), target)
    objects = contents(target)
    assert json.loads(objects["champion.json"]) == {"champion": "first"}
    assert "runs/run1.json" not in objects
    copy_store(source, target)
    assert contents(target) == contents(source)


class TrainingStore(FolderStore):
    """A training saves four checkpoints, in turn under two names, while the store is copied."""

    saves = 0

    def download(self, key: str, path: Path) -> None:
        if self.saves < 4:
            for name in ("a.npz", "b.npz"):
                self.saves += 1
                save(FolderStore(self.folder), name, f"save {self.saves}".encode())
        super().download(key, path)


def test_a_copy_made_during_a_training_has_a_complete_checkpoint(source: FolderStore, tmp_path: Path) -> None:
    source.write("archives/a/00000000/archive.zip", b"fetched first")
    result = copy_store(TrainingStore(source.folder), target := FolderStore(tmp_path / "target"))
    checkpoints = {key: data for key, data in contents(target).items() if key.startswith("checkpoints/")}
    latest = {"file": "b.npz", "sha256": hashlib.sha256(b"save 4").hexdigest()}
    assert checkpoints == {"checkpoints/k/b.npz": b"save 4", "checkpoints/k/latest.json": json.dumps(latest).encode()}
    assert result.damaged == []


def test_the_checkpoints_of_a_finished_training_are_not_copied(source: FolderStore, tmp_path: Path) -> None:
    source.write("checkpoints/k/latest.json", b"null")
    copy_store(source, target := FolderStore(tmp_path / "target"))
    assert list(target.list_keys("checkpoints/")) == ["checkpoints/k/latest.json"]


@pytest.mark.parametrize(("key", "data"), [("latest.json", b'{"file": "b'), ("b.npz", b"something else")])
def test_a_damaged_checkpoint_is_reported_and_not_copied(
    source: FolderStore, tmp_path: Path, key: str, data: bytes
) -> None:
    source.write(f"checkpoints/k/{key}", data)
    result = copy_store(source, target := FolderStore(tmp_path / "target"))
    assert (result.damaged, list(target.list_keys("checkpoints/"))) == (["checkpoints/k/latest.json"], [])


def test_a_second_copy_transfers_only_new_objects(source: FolderStore, tmp_path: Path) -> None:
    target = FolderStore(tmp_path / "target")
    copy_store(source, target)
    finish_run(source, "second", make_split(source, 2))
    result = copy_store(source, target)
    assert contents(target) == contents(source)
    assert (result.num_skipped, result.num_files) == (1, len(list(source.list_keys())) - 1)


def test_overwriting_replaces_damaged_files_in_the_target(source: FolderStore, tmp_path: Path) -> None:
    target = FolderStore(tmp_path / "target")
    copy_store(source, target)
    key = make_split(source, 1).files["split.parquet"].key
    target.write(key, b"damaged")
    assert copy_store(source, target).num_skipped == 1
    assert contents(target)[key] == b"damaged"
    assert copy_store(source, target, overwrite=True).num_skipped == 0
    assert contents(target) == contents(source)


@pytest.mark.usefixtures("aws")
def test_the_command_copies_a_store_to_s3_and_back(source: FolderStore, tmp_path: Path) -> None:
    bucket = f"bucket-{uuid.uuid4().hex[:8]}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    for origin, target in ((source.url, f"s3://{bucket}/store"), (f"s3://{bucket}/store", str(tmp_path / "back"))):
        command = [sys.executable, "-m", "carclf", "store", "copy", "--store", origin, "--to", target]
        done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "8 files" in done.stdout
    assert contents(open_store(tmp_path / "back")) == contents(source)


def test_a_damaged_file_is_reported_and_everything_else_is_copied(source: FolderStore, tmp_path: Path) -> None:
    split = make_split(source, 1)
    key = split.files["split.parquet"].key
    source.write(key, b"something else")
    result = copy_store(source, target := FolderStore(tmp_path / "target"))
    assert result.damaged == [key]
    assert contents(target) == {name: data for name, data in contents(source).items() if name != key}
    command = [sys.executable, "-m", "carclf", "store", "copy", "--store", source.url, "--to", str(tmp_path / "other")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 65
    assert "DataError" in done.stderr
    assert key in done.stderr


def test_a_missing_file_is_reported(source: FolderStore, tmp_path: Path) -> None:
    key = make_split(source, 1).files["split.parquet"].key
    (source.folder / key).unlink()
    assert copy_store(source, FolderStore(tmp_path / "target")).damaged == [key]


@pytest.mark.parametrize("data", [b"[]", b"{", b'{"files": {"a": {"key": "../a", "sha256": ""}}}'])
def test_an_invalid_manifest_is_reported_and_everything_else_is_copied(
    source: FolderStore, tmp_path: Path, data: bytes
) -> None:
    expected = contents(source)
    source.write("splits/x/manifest.json", data)
    result = copy_store(source, target := FolderStore(tmp_path / "target"))
    assert (result.damaged, contents(target)) == (["splits/x/manifest.json"], expected)
