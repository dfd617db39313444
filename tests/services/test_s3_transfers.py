"""Large files to and from S3, on a way that breaks: nothing is lost, nothing starts anew, nothing damaged passes."""

import os
import random
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
from faulty_proxy import FaultyProxy

from carclf.errors import DataError, ServiceError
from carclf.services.storage import FolderStore, S3Store, open_store, s3_parts

MIB = 1 << 20
PART = 5 * MIB  # S3 takes no smaller one but the last
NUM_PARTS = 5
SLEEP = time.sleep


@pytest.fixture
def way(s3_endpoint: str, aws: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3_endpoint) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        monkeypatch.setattr(s3_parts, "MIN_PART_BYTES", PART)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        yield running


@pytest.fixture
def store(way: FaultyProxy) -> S3Store:
    bucket = f"bucket-{uuid.uuid4().hex[:8]}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    store = open_store(f"s3://{bucket}/some/prefix")
    assert isinstance(store, S3Store)
    return store


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large.bin"
    path.write_bytes(random.Random(0).randbytes(PART * (NUM_PARTS - 1) + 1000))
    return path


def ranges(*numbers: int) -> list[str]:
    end = PART * (NUM_PARTS - 1) + 1000
    return sorted(f"bytes={PART * (n - 1)}-{min(PART * n, end) - 1}" for n in numbers)


def part_numbers(queries: list[str]) -> list[int]:
    return sorted(int(found.group(1)) for query in queries if (found := re.search(r"partNumber=(\d+)", query)))


def part_of(what: str) -> int:
    return part_numbers([what])[0] if "partNumber" in what else 0


def test_an_upload_that_was_cut_off_goes_on_with_the_parts_that_are_not_there(
    way: FaultyProxy, store: S3Store, large: Path, tmp_path: Path
) -> None:
    way.fault = lambda method, what: "cut" if method == "PUT" and part_of(what) in (2, 4) else None
    with pytest.raises(ServiceError, match="cannot be reached"):
        store.upload(large, "archives/x.zip")
    assert list(store.keys()) == []
    arrived = sorted(set(part_numbers(way.take("PUT", "partNumber"))) - {2, 4})
    way.fault = lambda method, what: None
    open_store(store.url).upload(large, "archives/x.zip")
    assert part_numbers(way.take("PUT", "partNumber")) == sorted({1, 2, 3, 4, 5} - set(arrived))
    store.download("archives/x.zip", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == large.read_bytes()


def test_another_files_broken_upload_is_not_gone_on_with(
    way: FaultyProxy, store: S3Store, large: Path, tmp_path: Path
) -> None:
    way.fault = lambda method, what: "cut" if part_of(what) == 3 else None
    with pytest.raises(ServiceError):
        store.upload(large, "checkpoints/a.npz")
    way.fault = lambda method, what: None
    way.take("PUT", "")
    large.write_bytes(random.Random(1).randbytes(large.stat().st_size))
    store.upload(large, "checkpoints/a.npz")
    assert part_numbers(way.take("PUT", "partNumber")) == [1, 2, 3, 4, 5]
    store.download("checkpoints/a.npz", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == large.read_bytes()


def test_a_file_that_is_there_already_is_not_sent_again(way: FaultyProxy, store: S3Store, large: Path) -> None:
    store.upload(large, "archives/x.zip")
    way.take("PUT", "")
    store.upload(large, "archives/x.zip")
    assert way.take("PUT", "") == []


def test_several_that_upload_one_file_at_once_all_succeed(
    store: S3Store, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", SLEEP)  # moto ends an upload a moment before its object is there
    with ThreadPoolExecutor(3) as pool:
        done = [pool.submit(open_store(store.url).upload, large, "archives/x.zip") for _ in range(3)]
    assert [one.exception() for one in done] == [None] * 3
    store.download("archives/x.zip", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == large.read_bytes()


def test_a_part_damaged_on_its_way_to_the_store_is_sent_again(
    way: FaultyProxy, store: S3Store, large: Path, tmp_path: Path
) -> None:
    faults = {2: "flip"}
    way.fault = lambda method, what: faults.pop(part_of(what), None) if method == "PUT" else None
    store.upload(large, "archives/x.zip")
    assert part_numbers(way.take("PUT", "partNumber")) == [1, 2, 2, 3, 4, 5]
    store.download("archives/x.zip", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == large.read_bytes()


def test_a_download_that_was_cut_off_goes_on_with_the_parts_that_are_not_there(
    way: FaultyProxy, store: S3Store, large: Path, tmp_path: Path
) -> None:
    store.upload(large, "archives/x.zip")
    way.fault = lambda method, what: "cut" if what in ranges(2, 5) else None
    with pytest.raises(ServiceError, match=r"is cut off each time it is fetched.*what has come is kept"):
        store.download("archives/x.zip", tmp_path / "back")
    assert not (tmp_path / "back").exists()
    arrived = set(way.take("GET", "bytes=")) - set(ranges(2, 5))
    way.fault = lambda method, what: None
    open_store(store.url).download("archives/x.zip", tmp_path / "back")
    assert way.take("GET", "bytes=") == sorted(set(ranges(1, 2, 3, 4, 5)) - arrived)
    assert (tmp_path / "back").read_bytes() == large.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "large.bin"]


@pytest.mark.parametrize(("fault", "part"), [("cut", 3), ("flip", 1)])
def test_what_is_cut_off_or_damaged_once_on_its_way_from_the_store_is_fetched_again(
    way: FaultyProxy, store: S3Store, large: Path, tmp_path: Path, fault: str, part: int
) -> None:
    store.upload(large, "archives/x.zip")
    store.write("runs/r.json", b"{}" * 100)
    left = [*ranges(part), ""]
    way.fault = lambda method, what: left.remove(what) or fault if method == "GET" and what in left else None
    store.download("archives/x.zip", tmp_path / "back")
    found = store.read("runs/r.json")
    assert left == [] and found is not None and found.data == b"{}" * 100
    assert (tmp_path / "back").read_bytes() == large.read_bytes()


def test_what_arrives_damaged_each_time_is_never_passed_on(
    way: FaultyProxy, store: S3Store, large: Path, tmp_path: Path
) -> None:
    store.upload(large, "archives/x.zip")
    way.fault = lambda method, what: "flip" if what in ranges(4) else None
    with pytest.raises(DataError, match=r"Part 4 of some/prefix/archives/x.zip arrives damaged each time"):
        store.download("archives/x.zip", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_an_object_replaced_while_it_is_fetched_is_fetched_from_the_start(
    way: FaultyProxy, store: S3Store, large: Path, tmp_path: Path
) -> None:
    store.upload(large, "checkpoints/a.npz")
    new = tmp_path / "new.bin"
    new.write_bytes(random.Random(1).randbytes(large.stat().st_size))
    faults = {ranges(2)[0]: lambda: open_store(store.url).upload(new, "checkpoints/a.npz")}
    way.fault = lambda method, what: faults.pop(what)() if method == "GET" and what in faults else None
    store.download("checkpoints/a.npz", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == new.read_bytes()


def test_a_killed_download_is_gone_on_with_by_the_next_process(
    way: FaultyProxy, store: S3Store, large: Path, tmp_path: Path
) -> None:
    store.upload(large, "archives/x.zip")
    way.take("GET", "")
    held = ranges(5)[0]
    way.fault = lambda method, what: os.read(end, 1) and None if what == held else None
    end, begin = os.pipe()
    code = "import sys; from carclf.services.storage import open_store, s3_parts; " \
           "open_store(sys.argv[1]).download('archives/x.zip', __import__('pathlib').Path(sys.argv[2]))"
    child = subprocess.Popen([sys.executable, "-c", code, store.url, str(tmp_path / "back")])
    while not (way.seen and held in {what for _, what in way.seen} and len(way.seen) > NUM_PARTS):
        assert child.poll() is None
        os.sched_yield()
    pause(1)
    child.send_signal(signal.SIGKILL)
    child.wait()
    os.write(begin, b"x")
    way.take("GET", "")
    way.fault = lambda method, what: None
    store.download("archives/x.zip", tmp_path / "back")
    assert way.take("GET", "bytes=") == [held]
    assert (tmp_path / "back").read_bytes() == large.read_bytes()


def pause(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        os.sched_yield()


def test_what_another_program_put_there_is_fetched_too(store: S3Store, large: Path, tmp_path: Path) -> None:
    boto3.client("s3").upload_file(str(large), store.bucket, "some/prefix/extra/1/a.jpg")
    store.download("extra/1/a.jpg", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == large.read_bytes()


def test_an_empty_file_makes_the_round_trip(store: S3Store, tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    store.upload(tmp_path / "empty", "a")
    store.download("a", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b""


SMALL_DISK = """
import sys
from pathlib import Path
from carclf.services.storage import open_store
what, store, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
try:
    if what == "download":
        open_store(store).download("archives/x.zip", folder / "deep/back")
    else:
        open_store(folder / "store").upload(Path(store), "archives/x.zip")
except Exception as error:
    print(type(error).__name__, error)
print(sorted(path.name for path in folder.rglob("*") if path.is_file()))
"""


@pytest.mark.parametrize("activity", ["s3 to disk", "folder to disk", "disk to folder"])
def test_a_full_disk_is_told_by_its_name_and_nothing_half_written_stays_on_it(
    what: str, store: S3Store, large: Path, tmp_path: Path,
    run_on_small_disk: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    source, folder = (store if what == "s3 to disk" else FolderStore(tmp_path / "source")), tmp_path / "small"
    source.upload(large, "archives/x.zip")
    told = ["upload", str(large)] if what == "disk to folder" else ["download", source.url]
    done = run_on_small_disk(folder, 8, [sys.executable, "-c", SMALL_DISK, *told, str(folder)])
    path = folder / ("store/archives/x.zip" if what == "disk to folder" else "deep/back")
    assert done.returncode == 0, done.stderr
    said, left = done.stdout.splitlines()
    assert re.fullmatch(rf"ConfigError The disk is full: {path} could not be written; \d+ of 8 MB are free on {folder}"
                        r"\. Free some, or set CARCLF_CACHE and TMPDIR to folders on a larger disk\.", said)
    assert left in ("[]", "['~lock']")
