"""The gallery's entries as the demo server serves them."""

import csv
import io
import zipfile
from dataclasses import replace
from pathlib import Path

from carclf.demo.competition import Competition, ServedDataset
from carclf.demo.gallery.entry import OWNER, Entry, Expected
from carclf.demo.gallery.files import Files, zipped


def serve_entry(entry: Entry, work: Path) -> Competition | ServedDataset:
    """Write ``<name>.zip`` into ``work`` and return what is served; a folder is served as a dataset."""
    rendering = entry.render()
    work.mkdir(parents=True, exist_ok=True)
    archive = work / f"{entry.name}.zip"
    archive.write_bytes(zipped(rendering.files))
    if entry.kind != "competition":
        return ServedDataset(OWNER, entry.name, 1, archive)
    header, *rows = _read_sample(rendering.files, entry.settings.get("submit.sample", ""))
    competition = Competition(
        entry.name, archive, tuple(row[0] for row in rows), rendering.truth or None, columns=tuple(header),
        evaluation_metric=entry.evaluation_metric, is_notebooks_only=entry.notebooks_only)
    if isinstance(entry.expected, Expected):
        return replace(competition, metric=entry.expected.metric, kind=entry.expected.kind or "label")
    return competition


def _read_sample(files: Files, name: str) -> list[list[str]]:
    """Return the rows of the sample submission whose path contains ``name``, with the header."""
    path = next(path for path in files if "sample" in path.lower() and name in path)
    data = files[path]
    if path.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            data = archive.read(archive.namelist()[0])
    return list(csv.reader(io.StringIO(data.decode(), newline="")))
