"""The local cache: each process verifies what it reads, and replaces damaged copies."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from gate_candidates import build_artifact, build_split
from PIL import Image

from carclf.artifacts import Archive, Provenance, Split, build, verify_artifact
from carclf.dataset.archives import extract_images, write_archive
from carclf.services.storage import Store, open_store
from carclf.services.storage.folder import FolderStore


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for each test."""
    monkeypatch.setenv("CARCLF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def store(store_url: str) -> Store:
    return open_store(store_url)


def flip_bit(path: Path, position: int = 0) -> None:
    """Flip a bit as a failing disk does. A process that verified the file before does not notice."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))


READ_ROWS = """
import sys
from carclf.artifacts import Split
from carclf.services.storage import open_store
store = open_store(sys.argv[1])
print(len(Split.require(store, sys.argv[2]).rows(store)))
"""


def test_a_flipped_bit_in_the_cache_is_downloaded_again(store: Store) -> None:
    split = build_split(store, 6)
    path = split.path(store, "split.parquet")
    expected = path.read_bytes()
    flip_bit(path, 100)
    process = subprocess.run(
        [sys.executable, "-c", READ_ROWS, store.url, split.key], capture_output=True, text=True, check=False
    )
    assert (process.returncode, process.stdout) == (0, "6\n"), process.stderr
    assert path.read_bytes() == expected


class CountingStore(FolderStore):
    """Counts the downloads."""

    num_downloads = 0

    def download(self, key: str, path: Path) -> None:
        self.num_downloads += 1
        super().download(key, path)


def test_a_file_is_hashed_once_per_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CountingStore(tmp_path / "store")
    split = build_split(store, 6)
    for _ in range(3):
        path = split.path(store, "split.parquet")
    monkeypatch.setattr("carclf.artifacts.file_sha256", pytest.fail)
    assert split.path(store, "split.parquet") == path
    assert store.num_downloads == 1


class BadDiskStore(FolderStore):
    """The first download is damaged on its way."""

    is_damaged = True

    def download(self, key: str, path: Path) -> None:
        super().download(key, path)
        if self.is_damaged:
            self.is_damaged = False
            flip_bit(path)


def test_a_download_that_is_damaged_on_its_way_is_repeated(tmp_path: Path) -> None:
    store = BadDiskStore(tmp_path / "store")
    assert len(build_split(store, 6).rows(store)) == 6


class SlowClockStore(FolderStore):
    """Each downloaded file has the inode and the time of the file before."""

    def download(self, key: str, path: Path) -> None:
        path.write_bytes((self.folder / key).read_bytes())
        os.utime(path, (0, 0))


def test_files_of_the_same_size_and_time_are_not_mistaken_for_each_other(tmp_path: Path) -> None:
    store = SlowClockStore(tmp_path / "store")
    files = {"a.json": b"[1]", "b.json": b"[2]"}
    verify_artifact(store, build_artifact(store, Split, Provenance(1, {}, {}), {}, files))


def build_archive(store: Store, tmp_path: Path) -> Archive:
    """Build an archive of two training images and one test image."""
    files = {}
    for number, name in enumerate(("train/0/a.png", "train/1/b.png", "test_upload/c.png")):
        files[name] = tmp_path / f"{number}.png"
        Image.new("RGB", (8, 8), (number * 50, 0, 0)).save(files[name])

    def make(folder: Path) -> dict[str, float]:
        write_archive(folder / "archive.zip", files)
        return {}

    return build(Archive, make, Provenance(1, {}, {}), store)[0]


EXTRACT = """
import sys
from carclf.artifacts import Archive
from carclf.dataset.archives import extract_images
from carclf.services.storage import open_store
store = open_store(sys.argv[1])
extract_images(Archive.require(store, sys.argv[2]), store)
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("damage", ["flipped bit", "missing", "additional", "list"])
def test_damaged_extracted_images_are_extracted_again(tmp_path: Path, damage: str) -> None:
    store = open_store(tmp_path / "store")
    archive = build_archive(store, tmp_path)
    folder = extract_images(archive, store)
    expected = contents(folder)
    if damage == "flipped bit":
        flip_bit(folder / "train/0/a.png", 50)
    elif damage == "missing":
        (folder / "train/0/a.png").unlink()
    elif damage == "additional":
        (folder / "train/0/z.png").write_bytes(b"")
    else:
        (folder / ".sha256.json").write_text(json.dumps({}))
    subprocess.run([sys.executable, "-c", EXTRACT, store.url, archive.key], check=True)
    assert contents(folder) == expected
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_flipped_bit_in_a_manifest_is_never_a_wrong_number(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    split = build_split(store, 6)
    path = tmp_path / "store" / Split.manifest_path(split.key)
    intact = path.read_bytes()
    for position in range(len(intact)):
        data = bytearray(intact)
        data[position] ^= 1
        assert Split.parse(bytes(data), split.key) in (None, split)
