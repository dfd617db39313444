"""download reads each kind of source, and transfers only what is new."""

import gzip
import json
import os
import shutil
import unicodedata
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from archive_bytes import tar_bytes, zip_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from carclf.artifacts import Archive, StageContext, rebuilding
from carclf.cli.inspect_source import inspect
from carclf.config import load_config
from carclf.dataset import listing, packs, walk
from carclf.dataset.archives import extract_images, read_ignored_files
from carclf.demo.competition import Competition, ServedDataset
from carclf.demo.server import DemoServer, Fault
from carclf.errors import ConfigError, DamagedArtifactError, DataError, ServiceError
from carclf.services.storage import Store, open_store
from carclf.services.storage.bucket import Bucket
from carclf.stages.download import download

FILES = {"cat/a.jpg": b"a", "cat/b.jpg": b"bb", "dog ü/c.png": b"ccc", "labels.csv": b"id,label\n" * 99,
         "notes.txt": b"n"}
USEFUL = {name: data for name, data in FILES.items() if name != "notes.txt"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def download_from(source: str | Path, store: Store, salt: str = "", **overrides: Any) -> tuple[Archive, bool]:
    config = load_config("demo", {"data.source": str(source), **overrides})
    return download(StageContext(store, config, salt))


def read_images(archive: Archive, store: Store) -> dict[str, bytes]:
    folder = extract_images(archive, store)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".")}


def num_fetched(archive: Archive) -> int:
    return int(archive.number("num_fetched"))


class CountingBucket:
    """A bucket of moto's server, filled by the test, that counts the objects and bytes that are downloaded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.client = boto3.client("s3")
        self.name = f"bucket-{uuid.uuid4().hex[:8]}"
        self.client.create_bucket(Bucket=self.name)
        self.url = f"s3://{self.name}/some/prefix"
        self.fetched: list[str] = []
        fetch = Bucket.fetch

        def count(bucket: Bucket, entry: Any, path: Path) -> None:
            self.fetched.append(entry.path)
            fetch(bucket, entry, path)

        monkeypatch.setattr(Bucket, "fetch", count)

    def put(self, files: dict[str, bytes]) -> None:
        for name, data in files.items():
            self.client.put_object(Bucket=self.name, Key=f"some/prefix/{name}", Body=data)


@pytest.fixture
def bucket(aws: None, monkeypatch: pytest.MonkeyPatch) -> CountingBucket:
    return CountingBucket(monkeypatch)


def test_a_folder_is_packed_once_and_then_only_its_changes(store: Store, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "photos", FILES)
    first, reused = download_from(folder, store)
    assert not reused and (num_fetched(first), read_images(first, store)) == (4, USEFUL)
    assert read_ignored_files(extract_images(first, store)) == {"notes.txt": ""}
    assert download_from(folder, store) == (first, True)
    changed = {"cat/new.jpg": b"new", "dog ü/c.png": b"changed"}
    write_files(folder, changed)
    (folder / "cat/a.jpg").unlink()
    second, reused = download_from(folder, store)
    assert not reused and num_fetched(second) == 2
    assert second.files["pack-0000.zip"] == first.files["pack-0000.zip"] and "pack-0001.zip" in second.files
    expected = USEFUL | changed
    del expected["cat/a.jpg"]
    assert read_images(second, store) == expected


def test_an_ignored_file_that_changes_is_no_new_archive(store: Store, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "photos", FILES)
    first, _ = download_from(folder, store)
    write_files(folder, {"notes.txt": b"more", "run.log": b"x", ".cache/x.jpg": b"", "Thumbs.db": b""})
    assert download_from(folder, store) == (first, True)


def test_the_same_content_at_other_times_or_paths_is_the_same_archive(store: Store, tmp_path: Path) -> None:
    """As after touch, git clone or rsync; the archive has two packs, but its copy would have one."""
    folder = write_files(tmp_path / "photos", {"cat/a.jpg": b"a" * 99})
    download_from(folder, store)
    archive, _ = download_from(write_files(folder, {"cat/b.jpg": b"b"}), store)
    os.utime(folder / "cat/a.jpg", ns=(0, 1))
    assert download_from(folder, store) == (archive, True)
    assert download_from(shutil.copytree(folder, tmp_path / "copy"), store) == (archive, True)
    (tmp_path / "copy/cat/b.jpg").rename(tmp_path / "copy/b.jpg")
    assert download_from(tmp_path / "copy", store)[0].key != archive.key


def test_an_unchanged_listing_reads_no_file(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_files(tmp_path / "photos", FILES)
    first, _ = download_from(folder, store)
    for path in [folder / name for name in USEFUL]:
        os.utime(path, ns=(0, 1))
    assert download_from(folder, store) == (first, True)
    monkeypatch.setattr(listing.Folder, "read", None)
    assert download_from(folder, store) == (first, True)


def test_a_process_killed_before_it_updates_the_pointer_costs_only_time(store: Store, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "photos", FILES)
    download_from(folder, store)
    (pointer,) = store.list_keys("sources/")
    stale = (tmp_path / "store" / pointer).read_bytes()
    write_files(folder, {"cat/z.jpg": b"z"})
    second, _ = download_from(folder, store)
    store.write(pointer, stale)
    assert download_from(folder, store) == (second, True)
    write_files(folder, {"cat/y.jpg": b"y"})
    assert num_fetched(download_from(folder, store)[0]) == 1


def test_large_sources_have_several_packs(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "MAX_PACK_BYTES", 1000)
    files = {f"cat/{number}.jpg": bytes([number]) * 300 for number in range(10)}
    archive, _ = download_from(write_files(tmp_path / "photos", files), store)
    assert sum(name.startswith("pack-") for name in archive.files) == 3
    assert read_images(archive, store) == files


def test_everything_is_packed_again_if_little_is_used(store: Store, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "photos", {"cat/a.jpg": b"a" * 1000, "cat/b.jpg": b"b" * 100_000})
    download_from(folder, store)
    write_files(folder, {"cat/b.jpg": b"c"})
    archive, _ = download_from(folder, store)
    assert num_fetched(archive) == 2 and list(archive.files) == ["listing.parquet", "pack-0000.zip"]


def test_many_small_packs_are_packed_again(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "MAX_PACKS", 3)
    folder = write_files(tmp_path / "photos", {"cat/x.jpg": b"x" * 10_000})
    fetched = []
    for number in range(5):
        write_files(folder, {f"cat/{number}.jpg": b"x" * 1000})
        fetched.append(num_fetched(download_from(folder, store)[0]))
    assert fetched == [2, 1, 1, 5, 1]


def test_a_forced_or_repaired_archive_repeats_everything(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARCLF_CACHE", str(tmp_path / "cache"))
    folder = write_files(tmp_path / "photos", FILES)
    download_from(folder, store)
    write_files(folder, {"cat/z.jpg": b"z"})
    archive, _ = download_from(folder, store)
    assert num_fetched(archive) == 1 and num_fetched(download_from(folder, store, salt="run")[0]) == 5
    pack = tmp_path / "store" / archive.files["pack-0000.zip"].key
    pack.write_bytes(b"damaged")
    with pytest.raises(DamagedArtifactError) as error:
        extract_images(archive, store)
    assert error.value.path == f"archives/{archive.key}"
    with rebuilding(error.value.path):
        rebuilt, _ = download_from(folder, store)
    assert (rebuilt.key, num_fetched(rebuilt)) == (archive.key, 5)
    assert read_images(rebuilt, store) == USEFUL | {"cat/z.jpg": b"z"}


@pytest.mark.parametrize("damage", ["pointer", "manifest", "listing"])
def test_a_damaged_previous_archive_costs_only_time(store: Store, tmp_path: Path, damage: str) -> None:
    folder = write_files(tmp_path / "photos", FILES)
    first, _ = download_from(folder, store)
    (pointer,) = store.list_keys("sources/")
    key = {"pointer": pointer, "manifest": Archive.manifest_path(first.key),
           "listing": first.files["listing.parquet"].key}[damage]
    store.write(key, b"{}")
    write_files(folder, {"cat/z.jpg": b"z"})
    archive, _ = download_from(folder, store)
    assert num_fetched(archive) == 5 and read_images(archive, store) == USEFUL | {"cat/z.jpg": b"z"}


def test_a_bucket_transfers_only_new_objects(
    store: Store, bucket: CountingBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "20")  # objects per page of the server's listing
    files = {f"cat/{number} ü.jpg": f"{number}".encode() for number in range(25)}  # two pages
    bucket.put(files | {"": b"", "dog/": b"", "notes.txt": b"n"})
    bucket.client.put_object(Bucket=bucket.name, Key="some/prefix-2/a.jpg", Body=b"x")
    first, _ = download_from(bucket.url, store)
    assert sorted(bucket.fetched) == sorted(files) and num_fetched(first) == len(files)
    bucket.fetched.clear()
    assert download_from(f"{bucket.url}/", store) == (first, True) and bucket.fetched == []
    new = {"dog/new.jpg": b"new", "cat/7 ü.jpg": b"changed"}
    bucket.put(new)
    second, _ = download_from(bucket.url, store)
    assert sorted(bucket.fetched) == sorted(new)
    assert second.number("fetched_bytes") == sum(map(len, new.values()))
    assert read_images(second, store) == files | new


def test_an_object_that_changes_after_the_listing_raises_service_error(
    store: Store, bucket: CountingBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put({"cat/a.jpg": b"a"})
    list_objects = Bucket.list_objects

    def change_afterwards(self: Bucket) -> Iterator[Any]:
        yield from list(list_objects(self))
        bucket.put({"cat/a.jpg": b"other"})

    monkeypatch.setattr(Bucket, "list_objects", change_afterwards)
    with pytest.raises(ServiceError, match=r"data\.source: .*cat/a\.jpg was changed"):
        download_from(bucket.url, store)
    assert not list(store.list_keys("archives/"))


@pytest.mark.parametrize("change", ["content", "removed"])
def test_a_file_that_changes_while_it_is_read_raises_service_error(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    folder = write_files(tmp_path / "photos", {"cat/a.jpg": b"a", "cat/b.jpg": b"b"})

    def change_and_hash(path: Path) -> str:
        if path.name == "a.jpg":
            path.write_bytes(b"longer") if change == "content" else path.unlink()
        return ""

    monkeypatch.setattr(packs, "file_sha256", change_and_hash)
    with pytest.raises(ServiceError, match=r"data\.source: .*cat/a\.jpg was changed"):
        download_from(folder, store)


@pytest.mark.parametrize(
    ("name", "data", "num_bytes"),
    [
        ("x.zip", zip_bytes(FILES), None),
        ("x.tar.gz", tar_bytes(FILES, "gz"), None),
        ("x.TBZ2", tar_bytes(FILES, "bz2"), None),
        ("x.tar", tar_bytes(FILES), None),
        ("x.zip.001", zip_bytes(FILES), 100),
    ],
)
def test_an_archive_file_is_stored_once_for_the_same_bytes(
    store: Store, tmp_path: Path, name: str, data: bytes, num_bytes: int | None
) -> None:
    for folder in ("first", "moved"):
        (tmp_path / folder).mkdir()
        parts = [data[start : start + num_bytes] for start in range(0, len(data), num_bytes)] if num_bytes else [data]
        for number, part in enumerate(parts, 1):
            (tmp_path / folder / name.replace("001", f"{number:03d}")).write_bytes(part)
    archive, reused = download_from(tmp_path / "first" / name, store)
    assert not reused and read_images(archive, store) == USEFUL
    keys = list(store.list_keys("archives/"))
    assert download_from(tmp_path / "moved" / name, store) == (archive, True)
    assert list(store.list_keys("archives/")) == keys


def test_a_missing_volume_is_named(store: Store, tmp_path: Path) -> None:
    write_files(tmp_path, {"x.zip.001": b"a", "x.zip.003": b"c", "y.zip.002": b""})
    with pytest.raises(DataError, match=r"data\.source: .*x\.zip\.002 is missing"):
        download_from(tmp_path / "x.zip.001", store)


def test_inspect_reads_volumes_in_a_folder_as_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = zip_bytes({f"train/{name}/{number}.jpg": bytes([number]) for name in ("cat", "dog") for number in range(10)})
    write_files(tmp_path / "photos", {"train.zip.001": data[:200], "train.zip.002": data[200:]})
    inspect(str(tmp_path / "photos"), recipe="demo", as_json=True)
    assert json.loads(capsys.readouterr().out)["num_images"] == {"train": 20}


def test_archives_in_a_folder_are_extracted(store: Store, tmp_path: Path) -> None:
    data = zip_bytes({"train/cat/a.jpg": b"a"})
    files = {"train.zip.001": data[:50], "train.zip.002": data[50:], "more.tgz": tar_bytes({"b.jpg": b"b"}, "gz"),
             "labels.csv.zip": zip_bytes({"labels.csv": b"id"})}
    archive, _ = download_from(write_files(tmp_path / "photos", files), store)
    assert read_images(archive, store) == {"train/cat/a.jpg": b"a", "more/b.jpg": b"b", "labels.csv": b"id"}


def test_a_dataset_is_downloaded_once_per_version(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, random_bytes_competition: Competition
) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "demo-key")
    contents = {1: {"cat/a.jpg": b"a"}, 2: {"cat/a.jpg": b"a", "dog/b.jpg": b"b"}}
    versions = []
    for version, files in contents.items():
        (tmp_path / f"{version}.zip").write_bytes(zip_bytes(files))
        versions.append(ServedDataset("someone", "pets", version, tmp_path / f"{version}.zip"))
    with DemoServer(random_bytes_competition, *versions, scoring_seconds=0) as server:
        monkeypatch.setenv("CARCLF_KAGGLE_ENDPOINT", server.url)
        newest, _ = download_from("kaggle://someone/pets", store)
        assert (newest.settings["version"], read_images(newest, store)) == (2, contents[2])
        server.faults.append(Fault("Download", "status"))  # the next download would fail
        assert download_from("kaggle://someone/pets/2", store) == (newest, True)
        server.faults.clear()
        first, reused = download_from("kaggle://someone/pets/1", store)
        assert not reused and read_images(first, store) == contents[1]


@pytest.mark.parametrize("kind", ["folder", "file", "bucket"])
def test_extra_data_join_every_source(
    store: Store, tmp_path: Path, bucket: CountingBucket, kind: str
) -> None:
    """Their class folders are class names, also in buckets."""
    bucket.put({"cat/a.jpg": b"a"})
    (tmp_path / "x.zip").write_bytes(zip_bytes({"cat/a.jpg": b"a"}))
    folder = write_files(tmp_path / "photos", {"cat/a.jpg": b"a"})
    source = {"folder": folder, "file": tmp_path / "x.zip", "bucket": bucket.url}[kind]
    more = write_files(tmp_path / "more", {"Лада Приора/b.jpg": b"b", "cat/c.jpg": b"c"})
    archive, _ = download_from(source, store, **{"download.extra_data": f"{more},{bucket.url}"})
    assert read_images(archive, store) == {
        "cat/a.jpg": b"a", "extra-data/0/Лада Приора/b.jpg": b"b", "extra-data/0/cat/c.jpg": b"c",
        "extra-data/1/cat/a.jpg": b"a"}
    assert archive.metrics["num_extra"] == 3


def test_a_source_with_the_folder_of_extra_data_is_rejected(store: Store, tmp_path: Path) -> None:
    archive, _ = download_from(write_files(tmp_path / "photos", {"extra-data/0/cat/a.jpg": b"a"}), store)
    with pytest.raises(DataError, match=r"data\.source .*extra-data"):
        extract_images(archive, store)


def test_links_are_followed_but_not_in_circles(store: Store, tmp_path: Path) -> None:
    elsewhere = write_files(tmp_path / "elsewhere", {"a.jpg": b"a", "b.jpg": b"b"})
    folder = write_files(tmp_path / "photos", {"dog/c.jpg": b"c"})
    (folder / "cat").symlink_to(elsewhere)
    (folder / "dog/b.jpg").symlink_to(elsewhere / "b.jpg")
    (folder / "dog/again").symlink_to(folder)
    (folder / "dog/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (folder / "dog/self.jpg").symlink_to(folder / "dog/self.jpg")
    os.mkfifo(folder / "dog/pipe.jpg")
    archive, _ = download_from(folder, store)
    assert read_images(archive, store) == {"cat/a.jpg": b"a", "cat/b.jpg": b"b", "dog/b.jpg": b"b", "dog/c.jpg": b"c"}
    reasons = {path: reason.rpartition("a ")[2] for path, reason in
               read_ignored_files(extract_images(archive, store)).items()}
    assert reasons == {"dog/again": "folder that contains it", "dog/gone.jpg": "broken link",
                       "dog/pipe.jpg": "pipe", "dog/self.jpg": "broken link"}


def test_a_new_empty_folder_is_extracted(store: Store, tmp_path: Path) -> None:
    """So that validate reports an empty class folder of a folder as it does for an archive."""
    folder = write_files(tmp_path / "photos", {"cat/a.jpg": b"a", "dog/b.jpg": b"b"})
    first, _ = download_from(folder, store)
    write_files(folder, {"fox/.gitkeep": b""})
    second, reused = download_from(folder, store)
    assert not reused and num_fetched(second) == 0 and first.key != second.key
    assert list((extract_images(second, store) / "fox").iterdir()) == []
    assert download_from(folder, store) == (second, True)


@pytest.mark.parametrize(
    ("files", "name"),
    [({}, "photos"), ({"notes.txt": b""}, r"notes\.txt"), ({".hidden/a.jpg": b""}, "photos"),
     ({"cat/a\\b.jpg": b""}, "cat"), ({"cat/a\udcff.jpg": b""}, "cat"), ({"cat/a\n.jpg": b""}, "cat")],
)
def test_an_unusable_folder_raises_data_error(
    store: Store, tmp_path: Path, files: dict[str, bytes], name: str
) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match=rf"data\.source: .*{name}"):
        download_from(write_files(tmp_path / "photos", files), store)
    assert list(store.list_keys()) == []


@pytest.mark.parametrize(
    ("source", "error"),
    [("{folder}/gone", DataError), ("{folder}/gone.zip", DataError), ("s3://no-such-bucket-0/x", ConfigError),
     ("~nobody-here/x", ConfigError), ("~nobody-here/x.zip", ConfigError), ("{bucket}", DataError)],
)
def test_a_missing_source_raises_an_error(
    store: Store, tmp_path: Path, bucket: CountingBucket, source: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"data\.source"):
        download_from(source.format(folder=tmp_path, bucket=bucket.url), store)


@pytest.mark.parametrize("unreadable", ["cat", "cat/a.jpg"])
def test_unreadable_files_raise_data_error(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unreadable: str
) -> None:
    """Deny access as the system does for other users; root may read everything."""
    folder = write_files(tmp_path / "photos", {"cat/a.jpg": b"a"})
    scandir, open_path = os.scandir, Path.open

    def deny(path: Any, function: Any, *arguments: Any, **options: Any) -> Any:
        if str(path) == str(folder / unreadable):
            raise PermissionError(13, "Permission denied", str(path))
        return function(path, *arguments, **options)

    monkeypatch.setattr(os, "scandir", lambda path: deny(path, scandir))
    monkeypatch.setattr(Path, "open", lambda path, *arguments, **options: deny(path, open_path, *arguments, **options))
    with pytest.raises(DataError, match=rf"data\.source: .*{unreadable}"):
        download_from(folder, store)


def test_a_bucket_without_permission_raises_config_error(
    store: Store, bucket: CountingBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ConfigError, match=r"data\.source: .*credentials"):
        download_from(bucket.url, store)


@pytest.mark.parametrize("key", ["../a.jpg", "cat//a.jpg", "cat/./a.jpg", "/a.jpg", "cat/..", "a\\b.jpg", "a\x01.jpg"])
def test_keys_that_are_no_paths_are_rejected(key: str) -> None:
    class Source(listing.Folder):
        def list_entries(self) -> Iterator[walk.Entry]:
            yield walk.Entry(key, 1, "")

    with pytest.raises(DataError, match=r"data\.source: .*Rename it"):
        listing.list_source(Source("x"))


def test_one_name_composed_and_decomposed_is_rejected(tmp_path: Path) -> None:
    for form in ("NFC", "NFD"):
        (tmp_path / unicodedata.normalize(form, "Škoda")).mkdir()
        (tmp_path / unicodedata.normalize(form, "Škoda") / "1.jpg").write_text(form)
    with pytest.raises(DataError, match=r"S\\u030ckoda/1\.jpg.*\\u0160koda/1\.jpg"):
        listing.list_source(listing.Folder(str(tmp_path)))


def test_an_incomplete_zip_file_is_named(store: Store, tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(zip_bytes({"cat/a.jpg": b"a"})[:-30])
    with pytest.raises(DataError, match=r"data\.source: .*x\.zip is not a complete zip file"):
        download_from(tmp_path / "x.zip", store)


@pytest.mark.parametrize(("source", "hint"), [("owner/cars", "kaggle://owner/cars"), ("./gone", "is a link to")])
def test_a_missing_folder_has_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, hint: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=hint):
        listing.list_source(listing.Folder(source))


def test_a_table_as_the_source_is_rejected_with_the_folder_to_set(store: Store, tmp_path: Path) -> None:
    table = write_files(tmp_path, {"labels.CSV": b"id,label\n"}) / "labels.CSV"
    with pytest.raises(DataError, match=r"data\.source: .*labels\.CSV is a table\. Set the folder"):
        download_from(table, store)


@pytest.mark.parametrize("kind", ["folder", "zip", "bucket"])
def test_a_hidden_folder_with_images_is_ignored_with_a_reason(
    store: Store, tmp_path: Path, bucket: CountingBucket, kind: str
) -> None:
    hidden = {".van/d.jpg": b"d", "cat/.suv/x/e.jpg": b"e", ".git/f.jpg": b"f", ".van/.g.jpg": b"", ".h/i.txt": b""}
    files = FILES | hidden
    if kind == "bucket":
        bucket.put(files)
    (tmp_path / "photos.zip").write_bytes(zip_bytes(files))
    sources = {"folder": write_files(tmp_path / "photos", files), "zip": tmp_path / "photos.zip", "bucket": bucket.url}
    archive, _ = download_from(sources[kind], store)
    ignored = read_ignored_files(extract_images(archive, store))
    assert set(ignored) == {".van", "cat/.suv", "notes.txt"} and ignored[".van"] and not ignored["notes.txt"]
    assert read_images(archive, store) == USEFUL


names = st.sampled_from(["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/c/3.png", "t.csv"])
states = st.lists(st.dictionaries(names, st.binary(max_size=30), min_size=1), min_size=1, max_size=5)


@given(states=states)
@settings(max_examples=25)
def test_any_sequence_of_states_is_extracted_exactly(
    tmp_path_factory: pytest.TempPathFactory, states: list[dict[str, bytes]]
) -> None:
    work = tmp_path_factory.mktemp("states")
    store = open_store(work / "store")
    for number, files in enumerate(states):
        folder = work / "photos"
        for path in [path for path in folder.rglob("*") if path.is_file()]:
            if files.get(path.relative_to(folder).as_posix()) != path.read_bytes():
                path.unlink()
        for name, data in files.items():
            if not (folder / name).exists():
                write_files(folder, {name: data})
                os.utime(folder / name, ns=(0, number))  # a file system with coarse times would need seconds here
        archive, _ = download_from(folder, store)
        assert read_images(archive, store) == files


def test_gzip_of_one_file_is_ignored_with_its_name(store: Store, tmp_path: Path) -> None:
    files = {"cat/a.jpg": b"a", "labels.csv.gz": gzip.compress(b"id")}
    archive, _ = download_from(write_files(tmp_path / "photos", files), store)
    assert read_ignored_files(extract_images(archive, store)) == {"labels.csv.gz": ""}
