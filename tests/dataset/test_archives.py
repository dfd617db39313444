"""Extraction stays in its folder and rejects unsafe archives; packing is reproducible."""

import bz2
import gzip
import lzma
import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from archive_bytes import tar_bytes, zip_bytes

from carclf.dataset.archives import extract, pack
from carclf.errors import DataError

TOP_FOLDERS = ("train", "test_upload")


def write_archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_images_and_tables_are_extracted_from_nested_archives(tmp_path: Path) -> None:
    inner = zip_bytes(
        {"top/train/0/a.jpg": b"a", "top/train/0/.hidden": b"", "__MACOSX/train/0/._a.jpg": b"", "b": b""})
    path = write_archive(
        tmp_path / "a.zip", {"sample-submission.csv": b"Id", "train.zip": inner, "other/c.jpg": b"c"})
    extract(path, tmp_path / "out", top_folders=TOP_FOLDERS)
    assert read_files(tmp_path / "out") == {"sample-submission.csv": b"Id", "train/0/a.jpg": b"a"}


@pytest.mark.parametrize("inner", [b"no archive", b""])
def test_a_damaged_inner_archive_is_named(tmp_path: Path, inner: bytes) -> None:
    with pytest.raises(DataError, match=r"train\.zip in the archive is damaged"):
        extract(write_archive(tmp_path / "a.zip", {"train.zip": inner}), tmp_path / "out", top_folders=TOP_FOLDERS)


def test_deeply_nested_archives_are_rejected(tmp_path: Path) -> None:
    inner = zip_bytes({"train/0/a.jpg": b"a"})
    for _ in range(4):
        inner = zip_bytes({"train.zip": inner})
    (tmp_path / "a.zip").write_bytes(inner)
    with pytest.raises(DataError, match="nested in 3 other archives"):
        extract(tmp_path / "a.zip", tmp_path / "out", top_folders=TOP_FOLDERS)


def test_duplicate_names_are_rejected_unless_the_content_is_equal(tmp_path: Path) -> None:
    members = {"train/0/a.jpg": b"a", "top/train/0/a.jpg": b"a"}
    extract(write_archive(tmp_path / "a.zip", members), tmp_path / "out", top_folders=TOP_FOLDERS)
    with pytest.raises(DataError, match=r"two different files train/0/a\.jpg"):
        extract(write_archive(tmp_path / "b.zip", members | {"train/0/a.jpg": b"b"}), tmp_path / "other",
                top_folders=TOP_FOLDERS)


def test_a_file_with_the_name_of_a_folder_raises_data_error(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.zip", dict.fromkeys(["train/0/a", "train/0/a/b.jpg"], b"x"))
    with pytest.raises(DataError, match=r"train/0/a/b\.jpg"):
        extract(path, tmp_path / "out", top_folders=TOP_FOLDERS)


def test_a_path_that_is_too_long_raises_data_error_that_blames_the_name(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.zip", {f"train/0/{'a/' * 3000}b.jpg": b"x"})
    with pytest.raises(DataError, match=r"cannot be stored"):
        extract(path, tmp_path / "out", top_folders=TOP_FOLDERS)


@pytest.mark.parametrize("is_utf8", [True, False])
def test_a_locale_that_cannot_store_a_name_raises_config_error(tmp_path: Path, is_utf8: bool) -> None:
    """With LC_ALL=C alone, Python uses UTF-8."""
    path = write_archive(tmp_path / "a.zip", {"train/0/ü.jpg": b"x"})
    script = ("import sys; from pathlib import Path; from carclf.dataset.archives import extract; "
              "extract(Path(sys.argv[1]), Path(sys.argv[2]), top_folders=('train',))")
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
        extract(write_archive(tmp_path / "a.zip", {name: packed}), tmp_path / "out", top_folders=TOP_FOLDERS)


def test_packed_bytes_do_not_depend_on_order_or_dates(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
    pack(tmp_path / "1.zip", {"extra/0/1/x.jpg": tmp_path / "b", "extra/0/0/y.jpg": tmp_path / "a"})
    (tmp_path / "a").touch()
    pack(tmp_path / "2.zip", {"extra/0/0/y.jpg": tmp_path / "a", "extra/0/1/x.jpg": tmp_path / "b"})
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    extract(tmp_path / "1.zip", tmp_path / "out", top_folders=("extra",))
    assert read_files(tmp_path / "out") == {"extra/0/0/y.jpg": b"a", "extra/0/1/x.jpg": b"b"}
