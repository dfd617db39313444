"""Writers of the same object: they wait for each other, report who blocks them, and give up with a retryable status."""

import json
import logging
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from carclf.errors import ServiceError
from carclf.services.storage import FolderStore, Store, folder_lock, open_store, update, update_object

NUM_PROCESSES = 20
NUM_UPDATES = 10
HOLD = """
import sys
from pathlib import Path
from carclf.services.storage.folder_lock import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    store = FolderStore(tmp_path / "store")
    store.write("a", b"1")
    return store


@pytest.fixture
def holder(store: FolderStore) -> Iterator[subprocess.Popen[str]]:
    """A stopped process that holds the store's lock."""
    command = [sys.executable, "-c", HOLD, str(store.folder / "~lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        process.send_signal(signal.SIGSTOP)
        yield process
        process.kill()


def increment(data: bytes | None) -> bytes:
    return json.dumps(json.loads(data or b"0") + 1).encode()


def increment_often(url: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)  # the fork server may be older than this test
    store = open_store(url)
    for _ in range(NUM_UPDATES):
        update_object(store, "counter.json", increment)


def test_a_writer_blocked_by_a_stopped_process_reports_the_holder_and_gives_up(
    store: FolderStore, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(folder_lock, "REPORT_SECONDS", 0.05)
    monkeypatch.setattr(folder_lock, "LIMIT_SECONDS", 0.2)
    with caplog.at_level(logging.WARNING, "carclf"), pytest.raises(ServiceError) as raised:
        store.write("a", b"2")
    name = f"pid={holder.pid} host={platform.node()}"
    assert name in str(raised.value) and raised.value.exit_status == 75
    assert [name in record.getMessage() for record in caplog.records] == [True]
    assert (current := store.read("a")) and current.data == b"1"
    assert {path.name for path in store.folder.iterdir()} == {"a", "~lock"}


def test_a_writer_continues_when_the_holder_ends(store: FolderStore, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    store.write("a", b"2")
    assert (store.folder / "~lock").read_text() == f"pid={os.getpid()} host={platform.node()}"


@pytest.mark.acceptance
@pytest.mark.usefixtures("aws")
def test_two_hundred_updates_of_one_key_in_s3_by_twenty_processes_succeed() -> None:
    boto3.client("s3").create_bucket(Bucket="counters")
    url = "s3://counters/store"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "boto3", "s3transfer.manager"])
    processes = [context.Process(target=increment_often, args=(url, dict(os.environ))) for _ in range(NUM_PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * NUM_PROCESSES
    assert (final := open_store(url).read("counter.json")) and int(final.data) == NUM_PROCESSES * NUM_UPDATES


def test_an_update_gives_up_after_the_time_limit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "LIMIT_SECONDS", 0.1)
    monkeypatch.setattr(store, "write_if", lambda *_: False)
    with pytest.raises(ServiceError, match=r"counter\.json"):
        update_object(store, "counter.json", increment)
