"""Transfers to and from S3 over a faulty network: faults are retried, and damaged data is never accepted."""

import random
import re
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from faulty_proxy import FaultyProxy

from carclf.errors import DataError, ServiceError
from carclf.services.storage import FolderStore, S3Store, open_store, s3

MIB = 1 << 20
PART = 5 * MIB  # the smallest that S3 accepts for all parts but the last
NUM_PARTS = 5
SIZE = PART * (NUM_PARTS - 1) + 1000
KEY = "archives/x.zip"


@pytest.fixture
def proxy(s3_endpoint: str, aws: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3_endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        monkeypatch.setattr(s3, "PART_BYTES", PART)
        monkeypatch.setattr(s3, "BACKOFF_SECONDS", 0)
        yield proxy


@dataclass(frozen=True)
class Transfer:
    """A store behind the proxy, a large file, and the path of its copy."""

    proxy: FaultyProxy
    store: S3Store
    source: Path
    target: Path

    def upload(self) -> None:
        self.store.upload(self.source, KEY)

    def download(self) -> bytes:
        self.store.download(KEY, self.target)
        return self.target.read_bytes()

    def leftovers(self) -> list[str]:
        return [path.name for path in self.target.parent.iterdir() if path not in (self.source, self.target)]


@pytest.fixture
def transfer(proxy: FaultyProxy, s3_endpoint: str, tmp_path: Path) -> Transfer:
    bucket = f"bucket-{uuid.uuid4().hex[:8]}"
    boto3.client("s3", endpoint_url=s3_endpoint).create_bucket(Bucket=bucket)
    store = open_store(f"s3://{bucket}/some/prefix")
    assert isinstance(store, S3Store)
    source = tmp_path / "large.bin"
    source.write_bytes(random.Random(0).randbytes(SIZE))
    return Transfer(proxy, store, source, tmp_path / "back")


def byte_range(number: int) -> str:
    """The range of a part, as boto3 requests it: the last one is open."""
    return f"bytes={PART * (number - 1)}-{'' if number == NUM_PARTS else PART * number - 1}"


def part_number(target: str) -> int:
    match = re.search(r"partNumber=(\d+)", target)
    return int(match[1]) if match else 0


def uploaded_parts(proxy: FaultyProxy) -> list[int]:
    return sorted(part_number(target) for target in proxy.take_requests("PUT", "partNumber"))


def unfinished_uploads(store: S3Store) -> list[object]:
    return list(boto3.client("s3").list_multipart_uploads(Bucket=store.bucket).get("Uploads", []))


def test_a_connection_cut_during_an_upload_is_retried(transfer: Transfer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    faults = {2: "cut", 4: "cut"}
    transfer.proxy.fault = lambda method, target: faults.pop(part_number(target), None)
    open_store(transfer.store.url).upload(transfer.source, KEY)
    assert uploaded_parts(transfer.proxy) == [1, 2, 2, 3, 4, 4, 5]
    assert transfer.download() == transfer.source.read_bytes()


@pytest.mark.parametrize("fault", ["cut", "flip"])
def test_a_failed_upload_leaves_nothing_in_the_store(transfer: Transfer, fault: str) -> None:
    transfer.proxy.fault = lambda method, target: fault if part_number(target) == 3 else None
    with pytest.raises(ServiceError, match=f"{KEY}|{transfer.store.url}"):
        transfer.upload()
    assert list(transfer.store.list_keys()) == []
    assert unfinished_uploads(transfer.store) == []


def test_an_upload_that_another_process_aborts_first_is_not_an_error(transfer: Transfer, s3_endpoint: str) -> None:
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    names = [f"some/prefix/models/{name}/model.keras" for name in "ab"]
    uploads = [client.create_multipart_upload(Bucket=transfer.store.bucket, Key=name) for name in names]

    def abort_first(method: str, _: str) -> None:
        if method == "DELETE" and uploads:
            upload_id = uploads[0]["UploadId"]
            uploads.clear()
            client.abort_multipart_upload(Bucket=transfer.store.bucket, Key=names[0], UploadId=upload_id)

    transfer.proxy.fault = abort_first
    assert transfer.store.remove_leftovers() == 1
    assert unfinished_uploads(transfer.store) == []


def test_without_a_prefix_the_uploads_of_other_programs_are_kept(transfer: Transfer) -> None:
    bucket = transfer.store.bucket
    boto3.client("s3").create_multipart_upload(Bucket=bucket, Key="other/file")
    assert S3Store(f"s3://{bucket}").remove_leftovers() == 0
    assert len(unfinished_uploads(transfer.store)) == 1


def test_a_part_damaged_during_an_upload_is_sent_again(transfer: Transfer) -> None:
    faults = {2: "flip"}
    transfer.proxy.fault = lambda method, target: faults.pop(part_number(target), None)
    transfer.upload()
    assert uploaded_parts(transfer.proxy).count(2) == 2
    assert transfer.download() == transfer.source.read_bytes()
    assert transfer.proxy.uploads_without_checksum == 0


def test_a_small_object_damaged_during_a_write_is_sent_again(transfer: Transfer) -> None:
    faults = ["flip"]
    transfer.proxy.fault = lambda method, target: faults.pop() if method == "PUT" and faults else None
    transfer.store.write("runs/r.json", b"{}" * 100)
    current = transfer.store.read("runs/r.json")
    assert current is not None and current.data == b"{}" * 100


def test_simultaneous_uploads_of_a_file_all_succeed(transfer: Transfer) -> None:
    with ThreadPoolExecutor(3) as pool:
        uploads = [pool.submit(open_store(transfer.store.url).upload, transfer.source, KEY) for _ in range(3)]
    assert [upload.exception() for upload in uploads] == [None] * 3
    assert transfer.download() == transfer.source.read_bytes()


def test_a_conditional_write_whose_response_is_lost_succeeds(
    transfer: Transfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """boto3 repeats the write, and S3 rejects the second because of the first."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    store = open_store(transfer.store.url)
    faults = ["lose"]
    transfer.proxy.fault = lambda method, target: faults.pop() if method == "PUT" and faults else None
    assert store.write_if("champion.json", b"1", None)
    assert not store.write_if("champion.json", b"2", None)
    assert len(transfer.proxy.take_requests("PUT", "")) == 3


@pytest.mark.parametrize("fault", ["cut", "flip"])
@pytest.mark.parametrize("number", [1, 3, NUM_PARTS])
def test_a_fault_during_a_download_is_retried(transfer: Transfer, fault: str, number: int) -> None:
    transfer.upload()
    faults = {byte_range(number): fault}
    transfer.proxy.fault = lambda method, target: faults.pop(target, None) if method == "GET" else None
    assert transfer.download() == transfer.source.read_bytes()
    assert faults == {}
    assert transfer.leftovers() == []


@pytest.mark.parametrize("fault", ["cut", "flip"])
def test_a_fault_while_an_object_is_read_is_retried(transfer: Transfer, fault: str) -> None:
    transfer.store.write("runs/r.json", b"{}" * 100)
    faults = [fault]
    transfer.proxy.fault = lambda method, target: faults.pop() if method == "GET" and faults else None
    current = transfer.store.read("runs/r.json")
    assert current is not None and current.data == b"{}" * 100
    assert faults == []


@pytest.mark.parametrize(("fault", "error"), [("cut", ServiceError), ("flip", DataError)])
def test_a_download_that_keeps_failing_leaves_no_file(
    transfer: Transfer, fault: str, error: type[Exception]
) -> None:
    transfer.upload()
    transfer.proxy.fault = lambda method, target: fault if target == byte_range(4) else None
    with pytest.raises(error, match=f"{KEY}|{transfer.store.url}"):
        transfer.download()
    assert not transfer.target.exists()
    assert transfer.leftovers() == []


def test_a_small_object_that_is_damaged_each_time_is_never_returned(transfer: Transfer) -> None:
    transfer.store.write("runs/r.json", b"{}" * 100)
    transfer.proxy.fault = lambda method, target: "flip" if method == "GET" else None
    with pytest.raises(DataError, match=r"some/prefix/runs/r\.json"):
        transfer.store.read("runs/r.json")


def test_an_object_replaced_during_its_download_is_downloaded_again(transfer: Transfer) -> None:
    transfer.upload()
    new = transfer.target.with_name("new.bin")
    new.write_bytes(random.Random(1).randbytes(SIZE))
    faults = {byte_range(NUM_PARTS): lambda: open_store(transfer.store.url).upload(new, KEY)}
    transfer.proxy.fault = lambda method, target: faults.pop(target)() if target in faults else None
    assert transfer.download() == new.read_bytes()


DOWNLOAD = """
import sys
from pathlib import Path
from carclf.services.storage import open_store, s3
s3.PART_BYTES = int(sys.argv[3])
open_store(sys.argv[1]).download('archives/x.zip', Path(sys.argv[2]))
"""


def test_a_killed_download_leaves_no_file_under_the_final_name(transfer: Transfer) -> None:
    transfer.upload()
    reached, release = threading.Event(), threading.Event()

    def hold_last_part(method: str, target: str) -> None:
        if target == byte_range(NUM_PARTS):
            reached.set()
            release.wait(60)

    transfer.proxy.fault = hold_last_part
    child = subprocess.Popen([sys.executable, "-c", DOWNLOAD, transfer.store.url, str(transfer.target), str(PART)])
    assert reached.wait(60)
    child.send_signal(signal.SIGKILL)
    child.wait()
    release.set()
    assert not transfer.target.exists()
    transfer.proxy.fault = lambda method, target: None
    assert transfer.download() == transfer.source.read_bytes()


@pytest.mark.parametrize("calculation", ["when_supported", "when_required"])
def test_objects_that_another_program_uploaded_are_downloaded(transfer: Transfer, calculation: str) -> None:
    """Such objects have a checksum of their parts only, or none."""
    client = boto3.client("s3", config=Config(request_checksum_calculation=calculation))
    client.upload_file(str(transfer.source), transfer.store.bucket, f"some/prefix/{KEY}")
    assert transfer.download() == transfer.source.read_bytes()


def test_checksums_can_be_switched_off_for_other_servers(
    transfer: Transfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    open_store(transfer.store.url).upload(transfer.source, KEY)
    assert transfer.proxy.uploads_without_checksum == NUM_PARTS
    assert transfer.download() == transfer.source.read_bytes()


def test_an_empty_file_survives_a_round_trip(transfer: Transfer) -> None:
    transfer.source.write_bytes(b"")
    transfer.upload()
    assert transfer.download() == b""


SMALL_DISK = """
import sys
from pathlib import Path
from carclf.services.storage import open_store
activity, store, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
try:
    if activity == "download":
        open_store(store).download("archives/x.zip", folder / "deep/back")
    else:
        open_store(folder / "store").upload(Path(store), "archives/x.zip")
except Exception as error:
    print(type(error).__name__, error)
print(sorted(path.name for path in folder.rglob("*") if path.is_file()))
"""


@pytest.mark.parametrize("direction", ["s3 to disk", "folder to disk", "disk to folder"])
def test_a_full_disk_is_reported_and_nothing_partial_stays_on_it(
    direction: str, transfer: Transfer, tmp_path: Path,
    run_on_small_disk: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    source = transfer.store if direction == "s3 to disk" else FolderStore(tmp_path / "source")
    folder = tmp_path / "small"
    source.upload(transfer.source, KEY)
    arguments = ["upload", str(transfer.source)] if direction == "disk to folder" else ["download", source.url]
    done = run_on_small_disk(folder, 8, [sys.executable, "-c", SMALL_DISK, *arguments, str(folder)])
    path = folder / ("store/archives/x.zip" if direction == "disk to folder" else "deep/back")
    assert done.returncode == 0, done.stderr
    message, files = done.stdout.splitlines()
    assert message.startswith("ConfigError ")
    assert str(path) in message
    assert re.search(rf"\d+ of 8 MB are free on {folder}\.", message)
    assert "CARCLF_CACHE" in message
    assert files in ("[]", "['~lock']")
