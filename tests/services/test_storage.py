"""The contract that every implementation of the store fulfills, and the details of each."""

import contextlib
import json
import shlex
import uuid
from collections.abc import Callable
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


def test_a_written_object_is_read_back(store: Store) -> None:
    store.write("a/b.json", b"one")
    store.write("a/b.json", b"two")
    current = store.read("a/b.json")
    assert current is not None and current.data == b"two"
    assert store.read("a/none") is None


def test_files_survive_a_round_trip(store: Store, tmp_path: Path) -> None:
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


def test_compare_and_swap_replaces_only_the_given_version(store: Store) -> None:
    assert store.write_if("c.json", b"1", None)
    assert not store.write_if("c.json", b"2", None)
    first = store.read("c.json")
    assert isinstance(first, VersionedObject)
    assert store.write_if("c.json", b"2", first.version)
    assert not store.write_if("c.json", b"3", first.version)
    assert not store.write_if("d.json", b"3", first.version)
    second = store.read("c.json")
    assert second is not None and second.data == b"2"


def test_eight_concurrent_writers_lose_no_increment(store: Store) -> None:
    def add(_: int) -> None:
        while True:
            current = store.read("n.json")
            value = json.loads(current.data) if current else 0
            if store.write_if("n.json", json.dumps(value + 1).encode(), current.version if current else None):
                return

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(40)))
    final = store.read("n.json")
    assert final is not None and final.data == b"40"


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "a b", ".hidden", "a/.b", "a\n", "é"])
def test_an_invalid_key_raises_value_error(store: Store, key: str) -> None:
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


def test_a_folder_without_write_access_raises_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="CARCLF_STORE"):
        open_store(str(tmp_path / "file" / "store")).write("a", b"")


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize("operation", [
    lambda store: store.write("a", b""), lambda store: store.read("a"), lambda store: list(store.list_keys()),
])
def test_a_missing_bucket_raises_config_error(operation: Callable[[Store], object]) -> None:
    with pytest.raises(ConfigError, match="no-such-bucket"):
        operation(open_store("s3://no-such-bucket/x"))


@pytest.mark.usefixtures("aws")
def test_an_unreachable_s3_server_raises_service_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ServiceError, match="s3://bucket/x"):
        open_store("s3://bucket/x").write("a", b"")


def test_an_unknown_url_scheme_raises_config_error() -> None:
    with pytest.raises(ConfigError, match="gs://bucket"):
        open_store("gs://bucket")


@pytest.mark.usefixtures("aws")
def test_a_download_distinguishes_a_missing_bucket_from_a_missing_object(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no-such-bucket"):
        open_store("s3://no-such-bucket/x").download("a", tmp_path / "a")


@pytest.mark.usefixtures("aws")
def test_missing_aws_credentials_raise_config_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ConfigError, match="AWS_ACCESS_KEY_ID"):
        open_store("s3://bucket/x").read("a")


def test_a_reader_never_sees_half_an_object(store: Store) -> None:
    contents = {bytes([digit]) * 300_000 for digit in range(4)}
    with ThreadPoolExecutor(5) as pool:
        writes = [pool.submit(store.write, "big", data) for data in [*contents] * 5]
        reads = [pool.submit(store.read, "big") for _ in range(20)]
    assert [write.exception() for write in writes] == [None] * 20
    assert {result.data for read in reads if (result := read.result())} <= contents


def test_the_upload_of_a_missing_file_leaves_nothing_in_the_store(store: Store, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store.upload(tmp_path / "none", "raw/x.zip")
    assert list(store.list_keys()) == []


def test_hidden_and_temporary_files_are_not_listed(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.write_if("a/1", b"", None)
    (tmp_path / "a" / ".DS_Store").write_text("")
    (tmp_path / "a" / "~0123").write_text("a write that was cut off")
    assert list(store.list_keys()) == ["a/1"]


def test_a_formatted_command_quotes_the_store_for_a_shell(tmp_path: Path) -> None:
    store = open_store(tmp_path / "my cars")
    assert shlex.split(format_command(store, "runs list")) == ["carclf", "runs", "list", "--store", store.url]
