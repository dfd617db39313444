"""The competition's archive, in Kaggle's layout: the same files give the same bytes."""

import csv
import io
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

EPOCH = (2020, 1, 1, 0, 0, 0)


def id_category_csv(rows: Iterable[tuple[str, str]]) -> bytes:
    """Rows as a CSV with the columns Id,Category."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["Id", "Category"])
    writer.writerows(rows)
    return text.getvalue().encode()


def write_archive(
    path: Path, *, train: Sequence[Path], test: Sequence[Path], train_csv: bytes, sample_csv: bytes
) -> Path:
    """Write the archive; it takes its name only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with zipfile.ZipFile(partial, "w") as archive:
        archive.writestr(_member("sample-submission.csv"), sample_csv)
        archive.writestr(_member("train.csv"), train_csv)
        _add_pictures(archive, "train.zip", {f"train/{item.parent.name}/{item.name}": item for item in train})
        _add_pictures(archive, "test.zip", {f"test_upload/{item.name}": item for item in test})
    return partial.replace(path)


def _add_pictures(archive: zipfile.ZipFile, name: str, pictures: Mapping[str, Path]) -> None:
    # By way of a file: the real competition's pictures are 1.7 GB.
    with tempfile.TemporaryFile() as spool:
        with zipfile.ZipFile(spool, "w") as inner:
            for member, source in pictures.items():
                inner.writestr(_member(member), source.read_bytes())
        member_of_archive = _member(name)
        member_of_archive.file_size = spool.tell()
        spool.seek(0)
        with archive.open(member_of_archive, "w") as target:
            shutil.copyfileobj(spool, target, 1 << 20)


def _member(name: str) -> zipfile.ZipInfo:
    # Everything that a ZipInfo would take from the clock or the system is fixed here.
    member = zipfile.ZipInfo(name, EPOCH)
    member.create_system, member.external_attr = 3, 0o644 << 16
    return member
