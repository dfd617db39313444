"""A store copied into another: whole at each moment, checked, and no more than is new."""

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
from carclf.errors import DataError
from carclf.services.storage import CopyResult, FolderStore, Store, copy_store, open_store, update_object


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
    store = FolderStore(tmp_path / "source")
    finish_run(store, "first", make_split(store, 1))
    store.write("label_fixes.csv", b"id,action,label,sha256\n")
    save(store, "b.npz", b"weights")
    return store


def save(store: Store, name: str, weights: bytes) -> None:
    """A training's checkpoint, as it writes one."""
    store.write(f"checkpoints/k/{name}", weights)
    latest = {"file": name, "sha256": hashlib.sha256(weights).hexdigest()}
    store.write("checkpoints/k/latest.json", json.dumps(latest).encode())


def contents(store: Store) -> dict[str, bytes]:
    return {key: found.data for key in store.keys() if (found := store.read(key))}  # noqa: SIM118


class Checked(FolderStore):
    """After each writing, what it names is in it."""

    def write(self, key: str, data: bytes) -> None:
        super().write(key, data)
        self.check()

    def upload(self, path: Path, key: str) -> None:
        super().upload(path, key)
        self.check()

    def check(self) -> None:
        found = contents(self)
        if "champion.json" in found:
            assert f"runs/{json.loads(found['champion.json'])['champion']}.json" in found
        for key, data in found.items():
            if key.startswith("runs/"):
                assert f"splits/{json.loads(data)['stages']['split']['key']}/manifest.json" in found
            if key.endswith("manifest.json"):
                assert {file["key"] for file in json.loads(data)["files"].values()} <= set(found)


class Busy(FolderStore):
    """A run ends in it between any two looks at it."""

    num_runs = 0

    def read(self, key):  # type: ignore[no-untyped-def]
        found = super().read(key)
        if self.num_runs < 3 and key == "runs/first.json":
            self.num_runs += 1
            finish_run(FolderStore(self.folder), f"run{self.num_runs}", make_split(FolderStore(self.folder), 9))
        return found


def test_a_copy_is_the_same_and_whole_at_each_moment(source: FolderStore, tmp_path: Path) -> None:
    target = Checked(tmp_path / "target")
    copied = copy_store(source, target)
    assert contents(target) == contents(source)
    assert copied == CopyResult(len(list(source.keys())), sum(map(len, contents(source).values())))


def test_a_copy_made_while_a_run_ends_names_nothing_that_is_not_in_it(source: FolderStore, tmp_path: Path) -> None:
    target = Checked(tmp_path / "target")
    copy_store(Busy(source.folder), target)
    found = contents(target)
    assert json.loads(found["champion.json"]) == {"champion": "first"} and "runs/run1.json" not in found
    copy_store(source, target)
    assert contents(target) == contents(source)


class Training(FolderStore):
    """A training that saves twice, in turn, before an archive is fetched, and once more before its own file is."""

    saves = 0

    def download(self, key, path):  # type: ignore[no-untyped-def]
        if self.saves < 4:
            for name in ("a.npz", "b.npz"):
                self.saves += 1
                save(FolderStore(self.folder), name, f"save {self.saves}".encode())
        super().download(key, path)


def test_a_copy_made_while_a_training_goes_on_holds_a_checkpoint_that_is_whole(
    source: FolderStore, tmp_path: Path
) -> None:
    source.write("archives/a/00000000/archive.zip", b"fetched first")
    copied = copy_store(Training(source.folder), target := FolderStore(tmp_path / "target"))
    found = {key: data for key, data in contents(target).items() if key.startswith("checkpoints/")}
    latest = {"file": "b.npz", "sha256": hashlib.sha256(b"save 4").hexdigest()}
    assert found == {"checkpoints/k/b.npz": b"save 4", "checkpoints/k/latest.json": json.dumps(latest).encode()}
    assert copied.damaged == []


def test_a_training_that_is_over_leaves_no_checkpoint_in_a_copy(source: FolderStore, tmp_path: Path) -> None:
    source.write("checkpoints/k/latest.json", b"null")
    copy_store(source, target := FolderStore(tmp_path / "target"))
    assert list(target.list_keys("checkpoints/")) == ["checkpoints/k/latest.json"]


@pytest.mark.parametrize(("key", "data"), [("latest.json", b'{"file": "b'), ("b.npz", b"something else")])
def test_a_checkpoint_that_is_damaged_is_named(source: FolderStore, tmp_path: Path, key: str, data: bytes) -> None:
    source.write(f"checkpoints/k/{key}", data)
    copied = copy_store(source, target := FolderStore(tmp_path / "target"))
    assert (copied.damaged, list(target.list_keys("checkpoints/"))) == (["checkpoints/k/latest.json"], [])


def test_the_second_copy_brings_only_what_is_new(source: FolderStore, tmp_path: Path) -> None:
    target = FolderStore(tmp_path / "target")
    copy_store(source, target)
    finish_run(source, "second", make_split(source, 2))
    copied = copy_store(source, target)
    assert contents(target) == contents(source)
    assert (copied.known, copied.num_files) == (1, len(list(source.keys())) - 1)


def test_a_copy_made_anew_mends_what_is_damaged_in_the_target(source: FolderStore, tmp_path: Path) -> None:
    target = FolderStore(tmp_path / "target")
    copy_store(source, target)
    key = make_split(source, 1).files["split.parquet"].key
    target.write(key, b"damaged")
    assert copy_store(source, target).known == 1 and contents(target)[key] == b"damaged"
    assert copy_store(source, target, anew=True).known == 0
    assert contents(target) == contents(source)


@pytest.mark.usefixtures("aws")
def test_a_store_goes_to_s3_and_comes_back_by_command(source: FolderStore, tmp_path: Path) -> None:
    bucket = f"bucket-{uuid.uuid4().hex[:8]}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    for one, other in ((source.url, f"s3://{bucket}/store"), (f"s3://{bucket}/store", str(tmp_path / "back"))):
        command = [sys.executable, "-m", "carclf", "store", "copy", "--store", one, "--to", other]
        done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"{one} to {other}: 7 files, 0.0 MB; 0 were there already\n"
    assert contents(open_store(tmp_path / "back")) == contents(source)


def test_a_damaged_file_is_named_and_not_copied_and_all_else_is(source: FolderStore, tmp_path: Path) -> None:
    split = make_split(source, 1)
    key = split.files["split.parquet"].key
    source.write(key, b"something else")
    copied = copy_store(source, target := FolderStore(tmp_path / "target"))
    assert copied.damaged == [key]
    assert contents(target) == {name: data for name, data in contents(source).items() if name != key}
    command = [sys.executable, "-m", "carclf", "store", "copy", "--store", source.url, "--to", str(tmp_path / "other")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 65
    assert f"carclf: DataError: 1 files are damaged, and were not copied: {key}. Restore them" in done.stderr


def test_a_file_that_is_gone_is_named(source: FolderStore, tmp_path: Path) -> None:
    key = make_split(source, 1).files["split.parquet"].key
    (source.folder / key).unlink()
    assert copy_store(source, FolderStore(tmp_path / "target")).damaged == [key]


def test_a_manifest_that_is_none_stops_the_copy_before_anything_is_written(source: FolderStore, tmp_path: Path) -> None:
    source.write("splits/x/manifest.json", b"[]")
    with pytest.raises(DataError, match=r"splits/x/manifest\.json is damaged"):
        copy_store(source, target := FolderStore(tmp_path / "target"))
    assert contents(target) == {}
