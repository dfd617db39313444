"""Mutated archives, seeded: they are extracted or rejected with a message, and stay in their folder."""

import bz2
import gzip
import io
import lzma
import random
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from mutations import Mutation, flip_bits, mutation_counts, repeat, truncate

from carclf.dataset.archives import extract
from carclf.errors import DataError
from carclf.services.kaggle.archive_download import find_archive_error

GOOD_NAMES = (
    "train/0/a.jpg", "train/1/b.jpg", "top/train/1/c.jpg", "test_upload/d.jpg", "sample-submission.csv", "train.zip",
    "TEST.Zip", "train/./0/e.jpg", "train/0/\u202egpj.exe", "~/train/0/i.jpg", "train/0/.hidden", "train/0/",
    "train/train/0/j.jpg", "train/0/Thumbs.db", "train/README", "train.tar", "images.TAR.GZ", "a.tbz2", "train.txz",
    "train/0/zu\u0308rich.jpg", "train/0/" + "\u00fc" * 200 + ".jpg", "x.7z", "Train.csv",
    "train.zip.001", "train.zip.002", "a.tbz2.001", "train.csv.zip", "train/train.zip",
)
BAD_NAMES = (
    "train", "train/0", "train/0/a.jpg/b.jpg", "train/../../evil.jpg", "/evil.jpg", "..\\train\\evil.jpg", "train/0/..",
    "//train//0//f.jpg", "C:\\train\\0\\g.jpg", "train/0/" + "n" * 300, "train/\0/h.jpg", ".", "..", "../a.csv",
    "train/...zip", "train/0/" + "d/" * 2100 + "k.jpg",
)
CONTENTS = (b"", b"../../x", b"Id,Category\n", bytes(5000))
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
MODES = (stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFDIR)
TAR_TYPES = (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.XHDTYPE)
TAR_FORMATS = (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT)
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".tar": bytes, ".gz": gzip.compress, ".tbz2": bz2.compress, ".txz": lzma.compress,
}


def random_name(random: random.Random) -> str:
    return random.choice(random.choices((GOOD_NAMES, BAD_NAMES), (9, 1))[0])


def random_content(random: random.Random, name: str, depth: int) -> bytes:
    """The content of a member: an archive if its name is that of one, perhaps a mutated one."""
    suffix = Path(name).suffix.lower()
    if depth >= 4 or suffix not in {".zip", *COMPRESS}:
        return random.choice(CONTENTS)
    if suffix == ".zip":
        return zip_archive(random, depth + 1)
    data = tar_archive(random, depth + 1)
    return random.choices((bytes, lambda data: random.choice(TAR_MUTATIONS)(random, data)), (3, 1))[0](
        COMPRESS[suffix](data if random.random() < 0.5 else change_tar_header(random, data)))


def zip_archive(random: random.Random, depth: int = 0) -> bytes:
    """A small archive with unusual names, links, nested archives and compression methods."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for _ in range(random.randrange(1, 6)):
            member = zipfile.ZipInfo(random_name(random))
            mode = random.choices(MODES, (40, 1, 1, 1))[0]
            member.external_attr, member.create_system = (mode | 0o644) << 16, 3
            opened.writestr(member, random_content(random, member.filename, depth), random.choice(METHODS))
    return buffer.getvalue()


def tar_archive(random: random.Random, depth: int) -> bytes:
    """A small archive with unusual names, members of all types, and nested archives."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=random.choice(TAR_FORMATS)) as opened:
        for _ in range(random.randrange(1, 6)):
            member = tarfile.TarInfo(random_name(random).replace("\0", ""))
            content = random_content(random, member.name, depth)
            member.size, member.linkname = len(content), "/etc"
            member.type = random.choices(TAR_TYPES, (60, 3, 1, 1, 1, 1))[0]
            try:
                opened.addfile(member, io.BytesIO(content))
            except ValueError:  # the name is too long for the format
                continue
    return buffer.getvalue()


def change_tar_header(random: random.Random, data: bytes) -> bytes:
    """Change a field of a header, and correct the header's checksum."""
    header = bytearray(data[:512])
    at = random.randrange(148)
    header[at : at + 8] = random.choice((b"\xff" * 8, bytes(8), b"../../..", b"77777777", random.randbytes(8)))
    header[156] = random.choice((header[156], *b"0123456789xgLKSDVN"))
    header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 8 * ord(" "))
    return bytes(header) + data[512:]


def change_sizes(random: random.Random, data: bytes) -> bytes:
    """Change numbers in the local headers, the central directory or its end."""
    signature = random.choice((b"PK\3\4", b"PK\1\2", b"PK\5\6"))
    if (at := data.find(signature)) < 0:
        return data
    at += random.randrange(4, 30)
    number = random.choice((struct.pack("<I", random.getrandbits(32)), b"\xff" * 4, bytes(4)))
    return data[:at] + number + data[at + 4 :]


def rename(random: random.Random, data: bytes) -> bytes:
    """Change names, keeping their length, in the central directory, the local header, or both."""
    return data.replace(b"train/0/", random.choice((b"../../..", b"/train/0", b"train/\0/", b"\xff\xfe\xfd/xyz")),
                        random.choice((1, 2, -1)))


TAR_MUTATIONS: tuple[Mutation, ...] = (flip_bits, truncate, repeat)
ZIP_MUTATIONS: tuple[Mutation, ...] = (
    lambda _, data: data, lambda _, data: data, flip_bits, truncate, change_sizes, rename, repeat,
)


def fuzz_archives(num: int, folder: Path) -> dict[str, int]:
    """Extract mutated archives; return how many were extracted and how many rejected."""
    outcomes = {"extracted": 0, "rejected": 0}
    (folder / "deep/er").mkdir(parents=True)
    path = folder / "a.zip"
    for number in range(num):
        chance, target = random.Random(number), folder / "deep/er" / str(number)
        path.write_bytes(chance.choice(ZIP_MUTATIONS)(chance, zip_archive(chance)))
        download_error = find_archive_error(path)
        assert download_error is None or download_error, number
        try:
            extract(path, target)
            outcomes["extracted"] += 1
        except DataError as error:
            assert str(error)
            outcomes["rejected"] += 1
        assert not any(entry.is_symlink() or not (entry.is_file() or entry.is_dir()) for entry in target.rglob("*"))
    outside = {entry.name for entry in (*folder.iterdir(), *(folder / "deep").iterdir())}
    assert outside == {"a.zip", "deep", "er"}
    assert {entry.name for entry in (folder / "deep/er").iterdir()} == {str(number) for number in range(num)}
    return outcomes


@pytest.mark.filterwarnings("ignore::UserWarning")
@mutation_counts(120)
def test_mutated_archives_are_extracted_or_rejected(num: int, tmp_path: Path) -> None:
    outcomes = fuzz_archives(num, tmp_path / "work")
    assert min(outcomes.values()) > num / 20
