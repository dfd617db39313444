"""One contract for every implementation of the store."""

import contextlib
import json
import os
import shlex
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carclf.errors import ConfigError, ServiceError
from carclf.services.storage import FolderStore, Store, VersionedObject, format_command, open_store


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return open_store(str(tmp_path / "store"))
    request.getfixturevalue("aws")
    bucket = f"bucket-{uuid.uuid4().hex[:8]}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return open_store(f"s3://{bucket}/some/prefix")


def test_what_was_written_is_read(store: Store) -> None:
    store.write("a/b.json", b"one")
    store.write("a/b.json", b"two")
    found = store.read("a/b.json")
    assert found is not None and found.data == b"two"
    assert store.read("a/none") is None


def test_files_make_the_round_trip(store: Store, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(bytes(range(256)) * 50_000)  # more than one part of a multipart upload
    store.upload(source, "raw/x.zip")
    store.download("raw/x.zip", target)
    assert target.read_bytes() == source.read_bytes()
    with pytest.raises(KeyError):
        store.download("raw/y.zip", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_keys_are_listed_in_order_by_prefix(store: Store) -> None:
    for key in ("b/2", "a/1", "b/1", "bb"):
        store.write_if(key, b"", None)
    assert list(store.list_keys()) == ["a/1", "b/1", "b/2", "bb"]
    assert list(store.list_keys("b/")) == ["b/1", "b/2"]
    assert list(store.list_keys("c")) == []


def test_compare_and_swap_writes_only_over_the_named_version(store: Store) -> None:
    assert store.write_if("c.json", b"1", None)
    assert not store.write_if("c.json", b"2", None)
    first = store.read("c.json")
    assert isinstance(first, VersionedObject)
    assert store.write_if("c.json", b"2", first.version)
    assert not store.write_if("c.json", b"3", first.version)
    assert not store.write_if("d.json", b"3", first.version)
    second = store.read("c.json")
    assert second is not None and second.data == b"2"


def test_no_increment_is_lost_between_eight_writers(store: Store) -> None:
    def add(_: int) -> None:
        while True:
            found = store.read("n.json")
            value = json.loads(found.data) if found else 0
            if store.write_if("n.json", json.dumps(value + 1).encode(), found.version if found else None):
                return

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(40)))
    final = store.read("n.json")
    assert final is not None and final.data == b"40"


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "a b", ".hidden", "a/.b", "a\n", "é"])
def test_a_bad_key_is_refused(store: Store, key: str) -> None:
    with pytest.raises(ValueError, match="Invalid key"):
        store.write(key, b"")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet="ab./\\\0 ~-_%", max_size=12))
def test_no_key_leaves_the_folder(tmp_path: Path, key: str) -> None:
    store = FolderStore(tmp_path / "inner" / "store")
    with contextlib.suppress(ValueError, ConfigError):
        store.write(key, b"x")
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and tmp_path / "inner/store" not in path.parents]
    assert outside == []


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be read or written.*Use a folder"):
        open_store(str(tmp_path / "file" / "store")).write("a", b"")


@pytest.mark.usefixtures("aws")
def test_a_missing_bucket_is_a_clear_error() -> None:
    for call in (lambda store: store.write("a", b""), lambda store: store.read("a"), lambda store: list(store.list_keys())):
        with pytest.raises(ConfigError, match="Check its name"):
            call(open_store("s3://no-such-bucket/x"))


@pytest.mark.usefixtures("aws")
def test_an_unreachable_s3_server_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ServiceError, match="cannot be reached"):
        open_store("s3://bucket/x").write("a", b"")


def test_another_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match="Invalid store URL"):
        open_store("gs://bucket")


@pytest.mark.usefixtures("aws")
def test_fetching_from_a_missing_bucket_is_no_missing_object(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no-such-bucket"):
        open_store("s3://no-such-bucket/x").download("a", tmp_path / "a")


@pytest.mark.usefixtures("aws")
def test_missing_credentials_are_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ConfigError, match="Set AWS_ACCESS_KEY_ID"):
        open_store("s3://bucket/x").read("a")


def test_a_reader_never_sees_half_an_object(store: Store) -> None:
    contents = {bytes([digit]) * 300_000 for digit in range(4)}
    with ThreadPoolExecutor(5) as pool:
        writes = [pool.submit(store.write, "big", data) for data in [*contents] * 5]
        reads = [pool.submit(store.read, "big") for _ in range(20)]
    assert [write.exception() for write in writes] == [None] * 20
    assert {found.data for read in reads if (found := read.result())} <= contents


def test_a_failed_upload_leaves_nothing_behind(store: Store, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store.upload(tmp_path / "none", "raw/x.zip")
    assert list(store.list_keys()) == []


def test_what_a_killed_writer_left_is_removed_a_day_later_and_what_others_write_stays(tmp_path: Path) -> None:
    store, source, now = FolderStore(tmp_path / "store"), tmp_path / "file", time.time()
    source.write_text("x")
    for key, mine in (("a/1", tmp_path / "store" / "a"), ("2", tmp_path / "store")):
        store.upload(source, key)
        (mine / "~left").write_text("cut off")
        os.utime(mine / "~left", (now, now - 90_000))
        (mine / "~now").write_text("another process writes this")
    os.utime(tmp_path / "store" / "~lock", (now, now - 90_000))
    store.upload(source, "a/1")
    store.upload(source, "2")
    left = {path.relative_to(tmp_path / "store").as_posix() for path in (tmp_path / "store").rglob("~*")}
    assert left == {"~lock", "~now", "a/~now"}


def test_files_of_other_programs_and_of_the_store_are_not_listed(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.write_if("a/1", b"", None)
    (tmp_path / "a" / ".DS_Store").write_text("")
    (tmp_path / "a" / "~0123").write_text("a write that was cut off")
    assert list(store.list_keys()) == ["a/1"]


def test_a_command_on_a_store_can_be_pasted_into_a_terminal(tmp_path: Path) -> None:
    store = open_store(tmp_path / "my cars")
    assert shlex.split(format_command(store, "runs list")) == ["carclf", "runs", "list", "--store", store.url]
