"""Unpacking never leaves the folder, and packing gives the same bytes."""

import io
import stat
import zipfile
from pathlib import Path

import pytest

from carclf.dataset import archives
from carclf.dataset.archives import extract, pack
from carclf.errors import DataError

TOPS = ("train", "test_upload")


def archive(path: Path, members: dict[str, bytes], *, mode: int = 0o644) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in members.items():
            member = zipfile.ZipInfo(name)
            member.external_attr = mode << 16
            opened.writestr(member, data, zipfile.ZIP_DEFLATED)
    return path


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for name, data in members.items():
            opened.writestr(name, data)
    return buffer.getvalue()


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_pictures_and_tables_are_unpacked_from_archives_within_the_archive(tmp_path: Path) -> None:
    inner = zipped({"top/train/0/a.jpg": b"a", "top/train/0/.hidden": b"", "__MACOSX/train/0/._a.jpg": b"", "b": b""})
    path = archive(tmp_path / "a.zip", {"sample-submission.csv": b"Id", "train.zip": inner, "other/c.jpg": b"c"})
    extract(path, tmp_path / "out", top_folders=TOPS)
    assert content(tmp_path / "out") == {"sample-submission.csv": b"Id", "train/0/a.jpg": b"a"}


@pytest.mark.parametrize(
    "name", ["train/../../evil.jpg", "/train/evil.jpg", "..\\train\\evil.jpg", "train/0/../../../evil.csv", "../x.zip"]
)
def test_a_member_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="leaves its folder"):
        extract(archive(tmp_path / "a.zip", {name: b"x"}), tmp_path / "out", top_folders=TOPS)
    assert content(tmp_path).keys() == {"a.zip"}


def test_a_link_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"train/0/a.jpg": b"/etc/passwd"}, mode=stat.S_IFLNK | 0o777)
    with pytest.raises(DataError, match=r"'train/0/a\.jpg', which is a link"):
        extract(path, tmp_path / "out", top_folders=TOPS)


@pytest.mark.parametrize("inner", [b"no archive", b""])
def test_a_damaged_inner_archive_is_named(tmp_path: Path, inner: bytes) -> None:
    with pytest.raises(DataError, match=r"train\.zip in the archive is damaged"):
        extract(archive(tmp_path / "a.zip", {"train.zip": inner}), tmp_path / "out", top_folders=TOPS)


def test_what_grows_out_of_all_proportion_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED", 1000)
    path = archive(tmp_path / "a.zip", {"train/0/a.jpg": bytes(1_000_000)})
    with pytest.raises(DataError, match="would grow more than 100 times"):
        extract(path, tmp_path / "out", top_folders=TOPS)


def test_archives_nested_without_end_are_refused(tmp_path: Path) -> None:
    inner = zipped({"train/0/a.jpg": b"a"})
    for _ in range(4):
        inner = zipped({"train.zip": inner})
    (tmp_path / "a.zip").write_bytes(inner)
    with pytest.raises(DataError, match="an archive within 3 others"):
        extract(tmp_path / "a.zip", tmp_path / "out", top_folders=TOPS)


def test_a_name_that_occurs_twice_is_refused_unless_the_content_is_the_same(tmp_path: Path) -> None:
    same = {"train/0/a.jpg": b"a", "top/train/0/a.jpg": b"a"}
    extract(archive(tmp_path / "a.zip", same), tmp_path / "out", top_folders=TOPS)
    with pytest.raises(DataError, match=r"holds train/0/a\.jpg twice"):
        extract(archive(tmp_path / "b.zip", same | {"train/0/a.jpg": b"b"}), tmp_path / "other", top_folders=TOPS)


@pytest.mark.parametrize(
    "names", [["train/0/" + "n" * 300], ["train/0", "train/0/a.jpg"], ["train/0/a", "train/0/a/b"]]
)
def test_names_that_no_disk_can_hold_are_the_datas_fault(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(DataError, match="in the archive is damaged"):
        extract(archive(tmp_path / "a.zip", dict.fromkeys(names, b"x")), tmp_path / "out", top_folders=TOPS)


def test_packing_gives_the_same_bytes_whatever_the_order_and_the_files_dates(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
    pack(tmp_path / "1.zip", {"extra/0/1/x.jpg": tmp_path / "b", "extra/0/0/y.jpg": tmp_path / "a"})
    (tmp_path / "a").touch()
    pack(tmp_path / "2.zip", {"extra/0/0/y.jpg": tmp_path / "a", "extra/0/1/x.jpg": tmp_path / "b"})
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    extract(tmp_path / "1.zip", tmp_path / "out", top_folders=("extra",))
    assert content(tmp_path / "out") == {"extra/0/0/y.jpg": b"a", "extra/0/1/x.jpg": b"b"}
