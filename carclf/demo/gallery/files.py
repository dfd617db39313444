"""The files of an entry in memory: tables, and archives within the archive."""

import csv
import io
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from carclf.dataset.archives import FIXED_DATE

Files = dict[str, bytes]


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """Return a CSV; without a header if it is empty."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([header] if header else [])
    writer.writerows(rows)
    return text.getvalue().encode()


def zipped(files: Files) -> bytes:
    """Return the files as a zip; equal files give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, FIXED_DATE), data)
    return buffer.getvalue()


def zip_table(name: str, data: bytes) -> Files:
    """Return ``<name>.zip`` with the table, as old competitions serve it."""
    return {f"{name}.zip": zipped({name: data})}


def volumes(name: str, files: Files, num_volumes: int) -> Files:
    """Return ``<name>.001``, ``<name>.002``, ...: the zip of the files, cut into parts."""
    data = zipped(files)
    size = -(-len(data) // num_volumes)
    return {f"{name}.{number + 1:03}": data[number * size : (number + 1) * size] for number in range(num_volumes)}


def write_files(files: Files, folder: Path) -> Path:
    """Write the files to a folder and return it."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder
