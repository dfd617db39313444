"""The index of a competition's folder: every picture decoded once, what is unusable named and left out."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from carclf.config import Validation
from carclf.data.images import Undecodable, decode
from carclf.errors import DataError

NUM_THREADS = 4  # decoding releases the GIL
WINDOW = 256  # pictures in flight, so memory stays flat


def index_images(
    folder: Path, config: Validation, progress: Callable[[int, int], None] = lambda done, total: None
) -> pd.DataFrame:
    """One row per picture: id, path (relative), label (-1 for test), width, height, sha256, problem ("" if usable)."""
    paths = sorted(path for top in ("train", "test_upload") for path in (folder / top).rglob("*") if path.is_file())
    if not paths:
        raise DataError(f"No pictures under train/ or test_upload/ in {folder}. Is this the right competition?")
    rows: list[dict[str, str | int]] = []
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for start in range(0, len(paths), WINDOW):
            rows += pool.map(lambda path: _inspect(path, folder, config), paths[start : start + WINDOW])
            progress(len(rows), len(paths))
    return pd.DataFrame(rows)


def _inspect(path: Path, folder: Path, config: Validation) -> dict[str, str | int]:
    data = path.read_bytes()
    relative = path.relative_to(folder)
    row: dict[str, str | int] = {
        "id": path.name, "path": relative.as_posix(), "label": _label(relative),
        "width": 0, "height": 0, "sha256": hashlib.sha256(data).hexdigest(), "problem": "",
    }
    try:
        if not data:
            raise Undecodable("the file is empty")
        height, width, _ = decode(data, max_megapixels=config.max_megapixels).shape
    except Undecodable as error:
        return row | {"problem": f"cannot be decoded: {error}"}
    too_small = f"{width}x{height} is smaller than {config.min_side}" if min(width, height) < config.min_side else ""
    return row | {"width": width, "height": height, "problem": too_small}


def _label(relative: Path) -> int:
    if relative.parts[0] == "test_upload":
        return -1
    if len(relative.parts) != 3 or not relative.parts[1].isdigit():
        raise DataError(f"{relative} is not of the form train/<class number>/<name>. Is this the right competition?")
    return int(relative.parts[1])


def read_sample(folder: Path) -> pd.DataFrame:
    """The sample submission, columns Id and Category, in its own order."""
    path = folder / "sample-submission.csv"
    if not path.exists():
        raise DataError("The archive holds no sample-submission.csv. Is this the right competition?")
    try:
        sample = pd.read_csv(path, dtype={"Id": str}, keep_default_na=False)
    except (ValueError, pd.errors.ParserError) as error:  # empty, not UTF-8, or no table
        raise DataError(f"sample-submission.csv cannot be read: {error}. Expected Id,Category.") from error
    if list(sample.columns) != ["Id", "Category"] or sample["Id"].duplicated().any() or sample.empty:
        raise DataError(f"sample-submission.csv has {len(sample)} rows, the columns {list(sample.columns)}, or an Id "
                        "twice; expected Id,Category with at least one row and each Id once.")
    return sample


def check(index: pd.DataFrame, sample: pd.DataFrame, config: Validation) -> None:
    """Raise DataError, naming every fault at once, where training on this index would be wrong."""
    if faults := list(_faults(index, sample, config)):
        raise DataError(" ".join(faults))


def contradictions(train: pd.DataFrame) -> list[str]:
    """The contents (SHA-256) of usable pictures that stand under more than one label."""
    labels = train[train["problem"] == ""].groupby("sha256")["label"].nunique()
    return sorted(labels.index[labels > 1])


def _faults(index: pd.DataFrame, sample: pd.DataFrame, config: Validation) -> Iterator[str]:
    train, test = index[index["label"] >= 0], index[index["label"] < 0]
    share = (index["problem"] != "").mean()
    if share > config.max_unusable_fraction:
        first = index.loc[index["problem"] != ""].iloc[0]
        yield (f"{share:.1%} of the images are unusable (first: {first['path']}, {first['problem']}); at most "
               f"{config.max_unusable_fraction:.1%} are allowed. Mend the archive or raise "
               "validation.max_unusable_fraction.")
    # Copies are one picture: they stand on one side of the split together. Copies under two labels are none.
    clear = train[(train["problem"] == "") & ~train["sha256"].isin(contradictions(train))]
    counts = clear.groupby("label")["sha256"].nunique()
    for label in sorted(train["label"].unique()):
        if (count := int(counts.get(label, 0))) < config.min_images_per_class:
            yield (f"Class '{label}' has {count} usable images, copies not counted; at least "
                   f"{config.min_images_per_class} are needed. Add images or lower validation.min_images_per_class.")
    if train["label"].nunique() < 2:
        yield f"{train['label'].nunique()} classes under train/; at least 2 are needed."
    present = set(test["id"])
    if missing := [name for name in sample["Id"] if name not in present]:
        yield (f"{len(missing)} ids of sample-submission.csv have no image in test_upload/, the first "
               f"{missing[0]!r}. The archive is incomplete: download it again (force).")
