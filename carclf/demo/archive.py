"""The competition's archive in Kaggle's layout; the same files give the same bytes."""

import csv
import io
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

TIMESTAMP = (2020, 1, 1, 0, 0, 0)
COPY_BYTES = 1 << 20


def id_category_csv(rows: Iterable[tuple[str, str]]) -> bytes:
    """Return the rows as a CSV with the columns Id,Category."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["Id", "Category"])
    writer.writerows(rows)
    return text.getvalue().encode()


def write_archive(
    path: Path, *, train: Sequence[Path], test: Sequence[Path], train_csv: bytes, sample_csv: bytes
) -> Path:
    """Write the archive, atomically, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with zipfile.ZipFile(partial, "w") as archive:
        archive.writestr(_member("sample-submission.csv"), sample_csv)
        archive.writestr(_member("train.csv"), train_csv)
        _add_images(archive, "train.zip", {f"train/{image.parent.name}/{image.name}": image for image in train})
        _add_images(archive, "test.zip", {f"test_upload/{image.name}": image for image in test})
    return partial.replace(path)


def _add_images(archive: zipfile.ZipFile, name: str, images: Mapping[str, Path]) -> None:
    # Through a file and not in memory: the images of the real competition take 1.7 GB.
    with tempfile.TemporaryFile() as spool:
        with zipfile.ZipFile(spool, "w") as inner:
            for member, source in images.items():
                inner.writestr(_member(member), source.read_bytes())
        outer_member = _member(name)
        outer_member.file_size = spool.seek(0, io.SEEK_CUR)
        spool.seek(0)
        with archive.open(outer_member, "w") as target:
            shutil.copyfileobj(spool, target, COPY_BYTES)


def _member(name: str) -> zipfile.ZipInfo:
    # Fix everything that ZipInfo would take from the clock or the system.
    member = zipfile.ZipInfo(name, TIMESTAMP)
    member.create_system = 3  # Unix
    member.external_attr = 0o644 << 16
    return member
