"""Extraction stays in its folder and rejects unsafe archives; packing is reproducible."""

import bz2
import gzip
import lzma
import os
import random
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from archive_bytes import tar_bytes, zip_bytes

from carclf.dataset.archives import extract, pack
from carclf.errors import DataError


def write_archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def extract_members(tmp_path: Path, members: dict[str, bytes]) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the extracted files and the reasons of the ignored ones."""
    ignored = extract(write_archive(tmp_path / "a.zip", members), tmp_path / "out")
    return read_files(tmp_path / "out"), ignored


def test_images_and_tables_are_extracted_at_their_paths(tmp_path: Path) -> None:
    useful = {name: name.encode() for name in ("Sample.CSV", "a/train.csv", "b/train.csv", "coco.json", "x.JPG",
                                               "a/1/b.tiff", "a/ids/007", "a/ids/1.50", "deep/er/and/deeper/c.webp")}
    others = dict.fromkeys(("readme", "a/README", "notes.txt", "a/x.tfrecord", "a/y.npy", "a/z.h5", "a/run.py", "b.mat",
                            "c/d.dcm", "e.bson", "e/model.pth", "noextension", "more.rar"), b"")
    junk = dict.fromkeys((".hidden.jpg", "a/.b.jpg", "__MACOSX/a/._c.jpg", "a/Thumbs.db", "@eaDir/x.jpg"), b"")
    files, ignored = extract_members(tmp_path, useful | others | junk)
    assert files == useful and sorted(ignored) == sorted(others)


@pytest.mark.parametrize(
    ("members", "paths"),
    [
        ({"train.zip": zip_bytes({"0/a.jpg": b""})}, ["train/0/a.jpg"]),
        ({"train.zip": zip_bytes({"train/": b"", "train/0/a.jpg": b""})}, ["train/0/a.jpg"]),
        ({"more/Train.zip": zip_bytes({"train/0/a.jpg": b""})}, ["more/train/0/a.jpg"]),
        ({"train.zip": zip_bytes({"train/train/a.jpg": b""})}, ["train/train/a.jpg"]),
        ({"test.zip": zip_bytes({"test_upload/a.jpg": b""})}, ["test/test_upload/a.jpg"]),
        ({"train.zip": zip_bytes({"train": b""})}, ["train/train"]),
        ({"data/train.csv.zip": zip_bytes({"train.csv": b"", "__MACOSX/._train.csv": b""})}, ["data/train.csv"]),
        ({"a.JSON.Zip": zip_bytes({"a.json": b""})}, ["a.json"]),
        ({"x.tar.gz": tar_bytes({"a.jpg": b"", "y.zip": zip_bytes({"b.jpg": b""})}, "gz")}, ["x/a.jpg", "x/y/b.jpg"]),
    ],
)
def test_an_inner_archive_is_a_folder_with_its_name(
    tmp_path: Path, members: dict[str, bytes], paths: list[str]
) -> None:
    assert sorted(extract_members(tmp_path, members)[0]) == paths


def volumes(name: str, data: bytes, num: int = 3) -> dict[str, bytes]:
    size = -(-len(data) // num)
    return {f"{name}.{part + 1:03d}": data[part * size : (part + 1) * size] for part in range(num)}


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_volumes_are_joined_in_any_order(tmp_path: Path, order: tuple[int, ...]) -> None:
    images = {"train/0/a.jpg": b"a" * 99, "train/1/b.jpg": b"b"}
    parts = volumes("train.zip", zip_bytes(images))
    members = {f"train.zip.{number:03d}": parts[f"train.zip.{number:03d}"] for number in order}
    inner = volumes("more.tar.gz", tar_bytes({"c.jpg": b"c"}, "gz"), 2)
    assert extract_members(tmp_path, members | {"x.zip": zip_bytes(inner)}) == (images | {"x/more/c.jpg": b"c"}, {})


@pytest.mark.parametrize("missing", ["001", "002", "003"])
def test_a_missing_volume_raises_data_error(tmp_path: Path, missing: str) -> None:
    """The last one is noticed because the joined archive is damaged."""
    parts = volumes("train.zip", zip_bytes({"0/a.jpg": bytes(range(256))}))
    del parts[f"train.zip.{missing}"]
    with pytest.raises(DataError, match=r"train\.zip in data.source is damaged" if missing == "003" else missing):
        extract_members(tmp_path, parts)


def test_memory_does_not_grow_with_the_content(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(20):
            archive.writestr(f"{number}.jpg", random.Random(number).randbytes(4_000_000))
    tracemalloc.start()
    extract(tmp_path / "a.zip", tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000 and len(read_files(tmp_path / "out")) == 20


@pytest.mark.parametrize("inner", [b"no archive", b""])
def test_a_damaged_inner_archive_is_named(tmp_path: Path, inner: bytes) -> None:
    with pytest.raises(DataError, match=r"train\.zip in data.source is damaged"):
        extract(write_archive(tmp_path / "a.zip", {"train.zip": inner}), tmp_path / "out")


def test_deeply_nested_archives_are_rejected(tmp_path: Path) -> None:
    inner = zip_bytes({"train/0/a.jpg": b"a"})
    for _ in range(4):
        inner = zip_bytes({"train.zip": inner})
    (tmp_path / "a.zip").write_bytes(inner)
    with pytest.raises(DataError, match="nested in 3 other archives"):
        extract(tmp_path / "a.zip", tmp_path / "out")


def test_duplicate_names_are_rejected_unless_the_content_is_equal(tmp_path: Path) -> None:
    members = {"train/0/a.jpg": b"a", "train.zip": zip_bytes({"train/0/a.jpg": b"a"})}
    extract(write_archive(tmp_path / "a.zip", members), tmp_path / "out")
    with pytest.raises(DataError, match=r"two different files train/0/a\.jpg"):
        extract(write_archive(tmp_path / "b.zip", members | {"train/0/a.jpg": b"b"}), tmp_path / "other")


def test_a_file_with_the_name_of_a_folder_raises_data_error(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.zip", dict.fromkeys(["train/0/a", "train/0/a/b.jpg"], b"x"))
    with pytest.raises(DataError, match=r"train/0/a/b\.jpg"):
        extract(path, tmp_path / "out")


def test_a_path_that_is_too_long_raises_data_error_that_blames_the_name(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.zip", {f"train/0/{'a/' * 3000}b.jpg": b"x"})
    with pytest.raises(DataError, match=r"cannot be stored"):
        extract(path, tmp_path / "out")


@pytest.mark.parametrize("is_utf8", [True, False])
def test_a_locale_that_cannot_store_a_name_raises_config_error(tmp_path: Path, is_utf8: bool) -> None:
    """With LC_ALL=C alone, Python uses UTF-8."""
    path = write_archive(tmp_path / "a.zip", {"train/0/ü.jpg": b"x"})
    script = ("import sys; from pathlib import Path; from carclf.dataset.archives import extract; "
              "extract(Path(sys.argv[1]), Path(sys.argv[2]))")
    environment = os.environ | {"LC_ALL": "C"} | ({} if is_utf8 else {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    command = [sys.executable, "-c", script, path, tmp_path / "out"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if is_utf8:
        assert done.returncode == 0 and read_files(tmp_path / "out") == {"train/0/ü.jpg": b"x"}
    else:
        assert "ConfigError" in done.stderr and "PYTHONUTF8=1" in done.stderr


@pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz"])
@pytest.mark.parametrize("damage", ["truncated", "header"])
def test_a_damaged_tar_is_an_error_and_not_a_shorter_list(tmp_path: Path, compression: str, damage: str) -> None:
    """The module tarfile ends silently at an invalid header."""
    data = tar_bytes({f"train/0/{number}.jpg": random.Random(number).randbytes(9000) for number in range(4)})
    data = data[:20_000] if damage == "truncated" else data.replace(b"train/0/2.jpg", b"train/0/9.jpg")
    packed = {"": bytes, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[compression](data)
    name = f"images.tar{'.' * bool(compression)}{compression}"
    with pytest.raises(DataError, match=r"images.* is damaged"):
        extract(write_archive(tmp_path / "a.zip", {name: packed}), tmp_path / "out")


def test_packed_bytes_do_not_depend_on_order_or_dates(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
    pack(tmp_path / "1.zip", {"extra-data/0/1/x.jpg": tmp_path / "b", "extra-data/0/0/y.jpg": tmp_path / "a"})
    (tmp_path / "a").touch()
    pack(tmp_path / "2.zip", {"extra-data/0/0/y.jpg": tmp_path / "a", "extra-data/0/1/x.jpg": tmp_path / "b"})
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    extract(tmp_path / "1.zip", tmp_path / "out")
    assert read_files(tmp_path / "out") == {"extra-data/0/0/y.jpg": b"a", "extra-data/0/1/x.jpg": b"b"}
