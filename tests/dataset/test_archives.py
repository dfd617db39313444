"""Extraction stays in its folder and rejects unsafe archives; packing is reproducible."""

import io
import stat
import zipfile
from pathlib import Path

import pytest

from carclf.dataset import archives
from carclf.dataset.archives import extract, pack
from carclf.errors import DataError

TOP_FOLDERS = ("train", "test_upload")


def write_archive(path: Path, members: dict[str, bytes], *, mode: int = 0o644) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            member = zipfile.ZipInfo(name)
            member.external_attr = mode << 16
            archive.writestr(member, data, zipfile.ZIP_DEFLATED)
    return path


def zip_bytes(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_images_and_tables_are_extracted_from_nested_archives(tmp_path: Path) -> None:
    inner = zip_bytes(
        {"top/train/0/a.jpg": b"a", "top/train/0/.hidden": b"", "__MACOSX/train/0/._a.jpg": b"", "b": b""})
    path = write_archive(
        tmp_path / "a.zip", {"sample-submission.csv": b"Id", "train.zip": inner, "other/c.jpg": b"c"})
    extract(path, tmp_path / "out", top_folders=TOP_FOLDERS)
    assert read_files(tmp_path / "out") == {"sample-submission.csv": b"Id", "train/0/a.jpg": b"a"}


@pytest.mark.parametrize(
    "name", ["train/../../evil.jpg", "/train/evil.jpg", "..\\train\\evil.jpg", "train/0/../../../evil.csv", "../x.zip"]
)
def test_a_member_outside_of_the_folder_is_rejected(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="outside of its folder"):
        extract(write_archive(tmp_path / "a.zip", {name: b"x"}), tmp_path / "out", top_folders=TOP_FOLDERS)
    assert read_files(tmp_path).keys() == {"a.zip"}


def test_a_link_is_rejected(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.zip", {"train/0/a.jpg": b"/etc/passwd"}, mode=stat.S_IFLNK | 0o777)
    with pytest.raises(DataError, match=r"link 'train/0/a\.jpg'"):
        extract(path, tmp_path / "out", top_folders=TOP_FOLDERS)


@pytest.mark.parametrize("inner", [b"no archive", b""])
def test_a_damaged_inner_archive_is_named(tmp_path: Path, inner: bytes) -> None:
    with pytest.raises(DataError, match=r"train\.zip in the archive is damaged"):
        extract(write_archive(tmp_path / "a.zip", {"train.zip": inner}), tmp_path / "out", top_folders=TOP_FOLDERS)


def test_an_archive_that_expands_too_much_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED", 1000)
    path = write_archive(tmp_path / "a.zip", {"train/0/a.jpg": bytes(1_000_000)})
    with pytest.raises(DataError, match="more than 100 times its size"):
        extract(path, tmp_path / "out", top_folders=TOP_FOLDERS)


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


@pytest.mark.parametrize(
    "names", [["train/0/" + "n" * 300], ["train/0", "train/0/a.jpg"], ["train/0/a", "train/0/a/b"]]
)
def test_names_that_the_disk_cannot_store_raise_data_error(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(DataError, match="in the archive is damaged"):
        extract(write_archive(tmp_path / "a.zip", dict.fromkeys(names, b"x")), tmp_path / "out",
                top_folders=TOP_FOLDERS)


def test_packed_bytes_do_not_depend_on_order_or_dates(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
    pack(tmp_path / "1.zip", {"extra/0/1/x.jpg": tmp_path / "b", "extra/0/0/y.jpg": tmp_path / "a"})
    (tmp_path / "a").touch()
    pack(tmp_path / "2.zip", {"extra/0/0/y.jpg": tmp_path / "a", "extra/0/1/x.jpg": tmp_path / "b"})
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    extract(tmp_path / "1.zip", tmp_path / "out", top_folders=("extra",))
    assert read_files(tmp_path / "out") == {"extra/0/0/y.jpg": b"a", "extra/0/1/x.jpg": b"b"}
