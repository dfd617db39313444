"""No type of archive writes outside of its folder, creates links, or fills the disk or the memory."""

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from archive_bytes import tar_bytes, zip_bytes

from carclf.dataset import archives
from carclf.dataset.archives import extract
from carclf.errors import DataError

Pack = Callable[[dict[str, bytes]], bytes]
TARS = {"tar": "", "tar.gz": "gz", "tar.bz2": "bz2", "tar.xz": "xz"}


def inner_tar(suffix: str, compression: str) -> Pack:
    return lambda members: zip_bytes({f"train.{suffix}": tar_bytes(members, compression)})


ARCHIVES: dict[str, Pack] = {
    "zip": zip_bytes,
    "nested zip": lambda members: zip_bytes({"train.zip": zip_bytes(members)}),
    "zip in tar": lambda members: zip_bytes({"train.tar": tar_bytes({"0.zip": zip_bytes(members)})}),
    **{suffix: inner_tar(suffix, compression) for suffix, compression in TARS.items()},
}
each_archive = pytest.mark.parametrize("pack", ARCHIVES.values(), ids=ARCHIVES)


@pytest.fixture
def extract_bytes(tmp_path: Path) -> Callable[[bytes], Path]:
    """Extract an archive into ``work/out``; afterwards, nothing else may be in ``work`` and no link in it."""

    def run(data: bytes) -> Path:
        work = tmp_path / "work"
        (work / "out").mkdir(parents=True)
        (tmp_path / "a.zip").write_bytes(data)
        try:
            extract(tmp_path / "a.zip", work / "out")
        finally:
            assert [path.name for path in work.iterdir()] == ["out"]
            assert {path.name for path in tmp_path.iterdir()} == {"a.zip", "work"}
            assert not any(path.is_symlink() for path in work.rglob("*"))
        return work / "out"

    return run


ExtractBytes = Callable[[bytes], Path]


@each_archive
@pytest.mark.parametrize(
    "name",
    ["train/../../evil.jpg", "/train/evil.jpg", "//train/evil.jpg", "..\\train\\evil.jpg", "\\train\\0\\evil.jpg",
     "train/0/../../../evil.csv", "../train.csv", "../x.zip", "train/0/..", "../"],
)
def test_a_path_outside_of_the_folder_is_rejected(extract_bytes: ExtractBytes, pack: Pack, name: str) -> None:
    with pytest.raises(DataError, match="outside of its folder"):
        extract_bytes(pack({name: b"x"}))


@each_archive
@pytest.mark.parametrize(
    ("name", "path"),
    [("C:\\train\\0\\a.jpg", "C:/train/0/a.jpg"), ("./train/./0//a.jpg", "train/0/a.jpg"),
     ("~/train/0/a.jpg", "~/train/0/a.jpg"), ("$HOME/train/0/a.jpg", "$HOME/train/0/a.jpg")],
)
def test_an_unusual_path_is_extracted_inside(
    extract_bytes: ExtractBytes, pack: Pack, name: str, path: str
) -> None:
    folder = extract_bytes(pack({name: b"x"}))
    (extracted,) = [path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg")]
    assert f"/{extracted}".endswith(f"/{path}")


def test_the_name_of_an_archive_is_not_a_path_outside(extract_bytes: ExtractBytes) -> None:
    inner = zip_bytes({"train/0/a.jpg": b"x"})
    folder = extract_bytes(zip_bytes({"train/...zip": inner, "train/0/...tar": tar_bytes({"b.jpg": b"x"})}))
    assert not any(path.is_file() for path in folder.rglob("*"))


@pytest.mark.parametrize("suffix", TARS)
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
@pytest.mark.parametrize("name", ["train/0/a.jpg", "train/0", "other/a", "train.csv"])
def test_links_and_devices_in_a_tar_are_rejected(
    extract_bytes: ExtractBytes, suffix: str, kind: bytes, name: str
) -> None:
    members = tar_bytes({name: b"", f"{name}/evil.jpg": b"x"}, TARS[suffix], type=kind, linkname="/etc")
    with pytest.raises(DataError, match=f"{name}', a link or a device"):
        extract_bytes(zip_bytes({f"train.{suffix}": members}))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
@pytest.mark.parametrize("is_nested", [False, True])
def test_links_and_devices_in_a_zip_are_rejected(extract_bytes: ExtractBytes, kind: int, is_nested: bool) -> None:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        member = zipfile.ZipInfo("train/0/a.jpg")
        member.external_attr, member.create_system = (kind | 0o777) << 16, 3
        archive.writestr(member, b"/etc/passwd")
    data = buffer.getvalue()
    with pytest.raises(DataError, match=r"train/0/a\.jpg', a link or a device"):
        extract_bytes(zip_bytes({"train.zip": data}) if is_nested else data)


@pytest.mark.parametrize("suffix", ["tar.gz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("name", ["train/0/a.jpg", "other/ignored.bin"])
def test_a_tar_that_expands_too_much_is_rejected(
    extract_bytes: ExtractBytes, monkeypatch: pytest.MonkeyPatch, suffix: str, name: str
) -> None:
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED", 1000)
    data = tar_bytes({name: bytes(5_000_000)}, TARS[suffix])
    with pytest.raises(DataError, match="more than 100 times its size"):
        extract_bytes(zip_bytes({f"train.{suffix}": data}))


def test_a_zip_that_expands_too_much_is_rejected(
    extract_bytes: ExtractBytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED", 1000)
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/0/a.jpg", bytes(1_000_000))
    with pytest.raises(DataError, match="more than 100 times its size"):
        extract_bytes(buffer.getvalue())


def test_a_header_that_expands_too_much_is_rejected(
    extract_bytes: ExtractBytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pax header is read into memory before the member is known."""
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED", 1000)
    data = tar_bytes({"train/0/a.jpg": bytes(5_000_000)}, "gz", type=tarfile.XHDTYPE)
    with pytest.raises(DataError, match="more than 100 times its size"):
        extract_bytes(zip_bytes({"train.tar.gz": data}))


def test_a_sparse_file_that_expands_too_much_is_rejected(
    extract_bytes: ExtractBytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED", 1000)
    info = tarfile.TarInfo("train/0/a.jpg")
    info.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": str(10**12),
                        "GNU.sparse.map": "0,1", "GNU.sparse.name": "train/0/a.jpg"}
    info.size = 1
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(DataError, match="more than 100 times its size"):
        extract_bytes(zip_bytes({"train.tar": buffer.getvalue()}))
