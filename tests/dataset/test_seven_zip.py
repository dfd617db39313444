"""7z archives are read with the package py7zr, which is optional."""

import importlib.util
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from archive_bytes import zip_bytes

from carclf.dataset import archives
from carclf.dataset.archives import extract
from carclf.errors import DataError

IS_INSTALLED = importlib.util.find_spec("py7zr") is not None
needs_py7zr = pytest.mark.skipif(not IS_INSTALLED, reason="py7zr is not installed")
MEMBERS = {"train/0/a.jpg": b"a" * 1000, "train/1/b.jpg": b"", "notes.txt": b"x"}


def seven_zip_bytes(members: dict[str, bytes], **options: Any) -> bytes:
    import py7zr

    with py7zr.SevenZipFile(buffer := io.BytesIO(), "w", **options) as archive:
        archive.set_encoded_header_mode(False)
        for name, data in members.items():
            archive.writestr(data, name)
    return buffer.getvalue()


def extract_bytes(tmp_path: Path, data: bytes, name: str = "train.7z") -> dict[str, bytes]:
    (tmp_path / "work").mkdir()
    (tmp_path / "a.zip").write_bytes(zip_bytes({name: data}))
    folder = tmp_path / "work/out"
    try:
        extract(tmp_path / "a.zip", folder)
    finally:
        assert [path.name for path in (tmp_path / "work").iterdir()] == ["out"]
        assert not any(path.is_symlink() or ".carclf" in path.name for path in folder.rglob("*"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.skipif(IS_INSTALLED, reason="py7zr is installed")
def test_without_py7zr_an_error_names_the_package(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.7z .*pip install 'carclf\[7z\]'"):
        extract_bytes(tmp_path, b"7z")


@needs_py7zr
def test_a_7z_archive_and_its_volumes_are_extracted(tmp_path: Path) -> None:
    data = seven_zip_bytes(MEMBERS)
    expected = {"train/0/a.jpg": b"a" * 1000, "train/1/b.jpg": b""}
    assert extract_bytes(tmp_path, data) == expected
    (tmp_path / "b.7z").write_bytes(data)
    assert extract(tmp_path / "b.7z", tmp_path / "plain") == ["notes.txt"]
    (tmp_path / "c.zip").write_bytes(zip_bytes({"train.7z.001": data[:60], "train.7z.002": data[60:]}))
    extract(tmp_path / "c.zip", tmp_path / "joined")
    assert (tmp_path / "joined/train/0/a.jpg").read_bytes() == b"a" * 1000


@needs_py7zr
@pytest.mark.parametrize("position", [3, 20, 45, -30])
def test_a_damaged_7z_archive_raises_data_error(tmp_path: Path, position: int) -> None:
    data = bytearray(seven_zip_bytes(MEMBERS))
    data[position] ^= 0xFF
    with pytest.raises(DataError, match=r"train\.7z in data.source is damaged"):
        extract_bytes(tmp_path, bytes(data))


@needs_py7zr
def test_an_encrypted_7z_archive_raises_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.7z"):
        extract_bytes(tmp_path, seven_zip_bytes(MEMBERS, password="secret"))


@needs_py7zr
def test_links_in_a_7z_archive_are_rejected(tmp_path: Path) -> None:
    import py7zr

    (tmp_path / "link.jpg").symlink_to("/etc/passwd")
    with py7zr.SevenZipFile(buffer := io.BytesIO(), "w") as archive:
        archive.write(tmp_path / "link.jpg", "train/0/a.jpg")
    with pytest.raises(DataError, match=r"train/0/a\.jpg', a link or a device"):
        extract_bytes(tmp_path, buffer.getvalue())


@needs_py7zr
@pytest.mark.parametrize("path", ["../../x/a.jpg", "/tmpx/xx/a.jpg"])
def test_a_path_outside_of_the_folder_in_a_7z_archive_is_rejected(tmp_path: Path, path: str) -> None:
    data = seven_zip_bytes({"train/000/a.jpg"[: len(path)]: b"x"})
    data = data.replace("train/000/a.jpg"[: len(path)].encode("utf-16-le"), path.encode("utf-16-le"))
    offset, size = struct.unpack("<QQ", data[12:28])
    start = data[12:28] + struct.pack("<I", zlib.crc32(data[32 + offset : 32 + offset + size]))
    data = data[:8] + struct.pack("<I", zlib.crc32(start)) + start + data[32:]
    with pytest.raises(DataError, match="outside of its folder"):
        extract_bytes(tmp_path, data)


@needs_py7zr
def test_a_7z_archive_that_expands_too_much_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED", 1000)
    with pytest.raises(DataError, match=r"more than 100 times its size.*data\.source"):
        extract_bytes(tmp_path, seven_zip_bytes({"train/0/a.jpg": bytes(5_000_000)}))
