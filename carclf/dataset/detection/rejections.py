"""Data that are not single-label image classification, and why they are rejected."""

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain

from carclf.config.sources import ARCHIVE_SUFFIXES
from carclf.dataset.findings import Finding
from carclf.dataset.layout import DOCUMENT_SUFFIXES, IMAGE_SUFFIXES, NEGATIVE_SUFFIXES
from carclf.errors import DataError
from carclf.formatting import format_count

_IMAGE_DATA = {  # formats that may have images
    "TFRecord file": (".tfrec", ".tfrecord", ".tfrecords"), "DICOM file": (".dcm", ".dicom"),
    "BSON file": (".bson",), "array": (".npy", ".npz", ".hdf5"), "Parquet file": (".parquet", ".feather"),
    "video": (".mp4", ".avi", ".mov"),
}
_REASONS = _IMAGE_DATA | {
    "MATLAB file": (".mat",), "table": (".csv", ".tsv"), "JSON file": (".json",), "HDF5 file": (".h5",),
    "camera negative": NEGATIVE_SUFFIXES,
}
_AMBIGUOUS_EXTENSIONS = {".", ".gz", ".bz2", ".xz"}
_EXPECTED = ("Expected images such as .jpg or .png, in folders or archives. Convert them to images, or set data.source "
             "to another copy of the data.")


def reject_listing(names_and_sizes: Iterable[tuple[str, int]]) -> None:
    """Raise DataError if a listing of files has neither images nor archives that may contain some.

    An archive of a table or of a document, such as labels.csv.zip, contains no images.
    """
    names = [name.lower() for name, size in names_and_sizes if size]
    if names and not any(map(_may_have_images, names)):
        raise DataError(describe_no_images(names))


def reject_extensions(extensions_and_sizes: Iterable[tuple[str, int]]) -> None:
    """Raise DataError if a summary of files by extension, such as ``.jpg``, shows that there are no images.

    ``.gz`` may be the end of ``.tar.gz``, and a file without an extension may be an image.
    """
    extensions = [(extension, size) for extension, size in extensions_and_sizes if size]
    if _AMBIGUOUS_EXTENSIONS.isdisjoint(extension for extension, _ in extensions):
        reject_listing((f"file{extension}", size) for extension, size in extensions)


def _may_have_images(name: str) -> bool:
    if name.endswith(tuple(IMAGE_SUFFIXES)):
        return True
    suffixes = [suffix for suffix in ARCHIVE_SUFFIXES if name.endswith(suffix)]
    data = tuple(suffix for reason in _REASONS.values() for suffix in reason)
    is_volume = name.rpartition(".")[2].isdecimal()  # of a divided archive
    return is_volume or any(not name[: -len(suffix)].endswith((*data, *DOCUMENT_SUFFIXES)) for suffix in suffixes)


def describe_no_images(names: Iterable[str], *, has_pixels: bool = False) -> str:
    """Return the message for data without images: what they have instead. ``has_pixels``: tables of pixels."""
    if has_pixels:
        return f"There are no images: the pixels are in the columns of a table, which is not supported. {_EXPECTED}"
    names = list(names)
    if not names:
        return f"There are no images and no other files. {_EXPECTED}"
    return f"There are no images, only {_count(names, _REASONS) or format_count(len(names), 'other file')}. {_EXPECTED}"


def find_other_formats(names: Iterable[str]) -> list[Finding]:
    """Return an info about files next to the images that may have copies of them, such as TFRecord files."""
    names = sorted(names)
    paths = [name for name in names if name.lower().endswith(tuple(chain.from_iterable(_IMAGE_DATA.values())))]
    return [Finding("ignored_file", paths[0], (
        f"Ignored: {_count(paths, _IMAGE_DATA)} (first: {paths[0]}). Only images such as .jpg are read."))
    ] if paths else []


def _count(names: Iterable[str], kinds: Mapping[str, tuple[str, ...]]) -> str:
    counts = Counter(kind for name in names for kind, suffixes in kinds.items()
                     if name.lower().endswith(suffixes) or any(f"{suffix}." in name.lower() for suffix in suffixes))
    return ", ".join(format_count(counts[kind], kind) for kind in kinds if counts[kind])
