"""Files that name the images in a form that is not read, such as labels.txt and annotations.xml."""

import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from carclf.dataset.detection.files import image_stem, normalized
from carclf.dataset.detection.subset_lists import IMAGE
from carclf.dataset.detection.tables import MAX_BYTES, decode

_SUFFIXES = {"", ".txt", ".lst", ".list", ".xml", ".yaml", ".yml", ".json", ".jsonl"}
_SEPARATORS = re.compile(r"[\s,;|\"'<>()\[\]{}=:]+")
MAX_SIMILAR = 10  # more files of a type, equally deep, are about one image or one class each
MIN_IMAGES, MIN_FRACTION = 3, 0.05  # images that a file with labels or subsets names
MIN_STEM, MIN_DIGITS = 4, 5  # characters of a stem; shorter ones may be words or numbers


def find_unread(root: Path, paths: Collection[str], images: Collection[str]) -> list[str]:
    """Return the files among ``paths`` that name several of the images, by their names or stems.

    A file with the names of all images and nothing else has neither labels nor subsets.
    """
    names = {normalized(path).rpartition("/")[2] for path in images}
    stems = {stem for name in names if _is_distinct(stem := image_stem(name))}
    least = max(MIN_IMAGES, MIN_FRACTION * len(names))
    candidates = [path for path in paths if PurePosixPath(path).suffix.lower() in _SUFFIXES]
    num_by_type = Counter(map(_type, candidates))
    unread = []
    for path in sorted(candidates):
        words = set(_words(root / path)) if num_by_type[_type(path)] <= MAX_SIMILAR else set()
        if len(words & (names | stems)) >= least and not names <= words <= names | {""}:
            unread.append(path)
    return unread


def _type(path: str) -> tuple[int, str]:
    return path.count("/"), PurePosixPath(path).suffix.lower()


def _is_distinct(stem: str) -> bool:
    """Return True if a stem is hardly another word or number of a text."""
    return len(stem) >= (MIN_DIGITS if stem.isdecimal() else MIN_STEM) and bool(re.search("[0-9]", stem))


def _words(path: Path) -> Iterator[str]:
    """Yield the words of a text, and the names of images, which may have spaces, without their folders."""
    if path.stat().st_size > MAX_BYTES:
        return
    for line in decode(path.read_bytes(), ())[0].splitlines():
        for word in [*_SEPARATORS.split(line), *IMAGE.findall(line)]:
            yield normalized(word).rpartition("/")[2]
