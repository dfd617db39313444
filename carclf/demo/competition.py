"""Turn a folder in any layout that is detected into a competition with an archive and graded submissions."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from PIL import Image

from carclf.config import deployment_settings, load_config, load_policy, parse_override
from carclf.dataset.archives import IGNORED_FILES, extract, write_archive
from carclf.dataset.detection.result import Layout, SubmissionFormat
from carclf.dataset.layout import is_in_junk_folder, is_junk_file
from carclf.demo.archive import HoldoutArchive, stored_id, write_holdout_archive
from carclf.errors import ConfigError, DataError
from carclf.formatting import format_count
from carclf.metrics import METRICS
from carclf.temporary import temporary_folder

HOLDOUT_SEED = 0
TRUTH_FILE = "truth.csv"  # in the folder it is never served


@dataclass(frozen=True)
class Competition:
    """A competition that the demo server serves.

    Attributes:
        slug: Its name in Kaggle's URLs.
        archive: The zip to download.
        ids: The ids of the sample submission in order.
        truth: The true class of each id, as a submission names it; None if unknown.
        metric: A key of METRICS, by which submissions are graded.
        evaluation_metric: Kaggle's text for it.
        columns: The header of the sample submission. With the kind "probabilities", all but the first are the classes.
        kind: What a submission contains: the class, the probability of the positive class, or one per class.
        positive_class: The class of the kind "positive", as in ``truth``.
        is_notebooks_only: Kaggle rejects submitted files.
        submissions_disabled: Kaggle rejects all submissions.
    """

    slug: str
    archive: Path
    ids: tuple[str, ...]
    truth: Mapping[str, str] | None
    metric: str = "accuracy"
    evaluation_metric: str = "Categorization Accuracy"
    columns: tuple[str, ...] = ("Id", "Category")
    kind: Literal["label", "positive", "probabilities"] = "label"
    positive_class: str = "1"
    is_notebooks_only: bool = False
    submissions_disabled: bool = False


@dataclass(frozen=True)
class ServedDataset:
    """A version of a dataset, and the zip to download; ``status`` is a name of DatabundleVersionStatus in the SDK."""

    owner: str
    slug: str
    version: int
    archive: Path
    status: str = "READY"


def open_competition(
    folder: Path, *, slug: str, work: Path, truth: Path | None = None, holdout: float | None = None
) -> Competition:
    """Build ``<slug>.zip`` in ``work`` from a folder; the deployment's settings (CARCLF_SETTINGS) apply to its layout.

    Submissions are graded against the CSV ``truth``, or against the labels of a fraction ``holdout`` of the training
    images. These become the test images of a competition with a label table, whatever the folder's layout is; without
    a holdout, the archive has the folder's files as they are. Raise ConfigError for invalid arguments, DataError for
    invalid files.
    """
    if truth is not None and holdout is not None:
        raise ConfigError("A truth file and a holdout fraction were given. Give one of them, not both.")
    if holdout is not None and not 0 < holdout < 1:
        raise ConfigError(f"Invalid holdout {holdout}: expected a fraction between 0 and 1, for example 0.2.")
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder. Give one with images.")
    with temporary_folder(work) as temporary:
        whole = temporary / "archive.zip"
        write_archive(whole, dict(_list_files(folder)))
        ignored = extract(whole, temporary / "files")
        (temporary / "files" / IGNORED_FILES).write_text(json.dumps(ignored))
        layout = _detect(temporary / "files", slug)
        if holdout is not None:
            return _hold_out(layout, temporary / "files", work / f"{slug}.zip", holdout)
        competition = _read_competition(layout, folder, work / f"{slug}.zip", truth)
        whole.replace(competition.archive)
    return competition


def _list_files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not is_junk_file(path.name) and not is_in_junk_folder(parts) and parts != (TRUTH_FILE,):
            yield "/".join(parts), path


def _detect(files: Path, slug: str) -> Layout:
    from carclf.dataset.detection.detect import detect

    settings = deployment_settings([f"data.source={slug}"])
    recipe = load_policy().default_recipe("gpu")  # of the settings, only those about the data matter
    return detect(files, load_config(recipe, dict(map(parse_override, settings))))


def _read_competition(layout: Layout, folder: Path, archive: Path, truth: Path | None) -> Competition:
    form = layout.submission
    if form is None:
        raise DataError(f"{folder} has no sample submission. Add one, hold out a fraction of the images as the test "
                        "set (make demo HOLDOUT=0.2, or carclf demo-server --holdout 0.2), or train without a "
                        f"competition: data.source={folder}.")
    ids = layout.test_ids
    if missing := set(ids) - set(layout.images.loc[layout.images["source"] == "test", "id"]):
        raise DataError(f"{form.sample} has {format_count(len(missing), 'id')} without an image, the first "
                        f"{min(missing)!r}. Add the images or remove the rows.")
    labels = None if truth is None else _read_truth(ids, truth, form)
    return Competition(
        archive.stem, archive, ids, labels, layout.metric, METRICS[layout.metric].title,
        (form.id_column, *form.columns), form.kind, form.values.get(form.positive_class, "1"))


def _read_truth(ids: tuple[str, ...], path: Path, form: SubmissionFormat) -> dict[str, str]:
    """Return the class of each id as a submission names it. The table has the id and the class, or the class's name."""
    rows = _read_table(path, form)
    if num_repeated := int(rows.iloc[:, 0].duplicated().sum()):
        raise DataError(f"{path} repeats {format_count(num_repeated, 'id')}. Remove the repeated rows.")
    labels: dict[str, str] = dict(zip(map(str, rows.iloc[:, 0]), map(str, rows.iloc[:, 1]), strict=True))
    if missing := set(ids) - set(labels):
        raise DataError(f"{path} lacks {len(missing)} of the sample's {format_count(len(ids), 'id')}, the first "
                        f"{min(missing)!r}. Add them, or omit --truth.")
    values = _submitted_values(form)
    unknown = {labels[name] for name in ids} - set(values)
    if unknown and form.kind != "label":  # a label may be a class that the training images lack
        raise DataError(f"{path} has the class {min(unknown)!r}, which is none of {', '.join(form.values)}.")
    return {name: values.get(labels[name], labels[name]) for name in ids}


def _submitted_values(form: SubmissionFormat) -> dict[str, str]:
    """Return what a submission contains by class name; a truth may also have these values, or 1 for the positive."""
    numbers = {str(int(name == form.positive_class)): value for name, value in form.values.items()}
    return (numbers if form.kind == "positive" else {}) | {value: value for value in form.values.values()} | form.values


def _read_table(path: Path, form: SubmissionFormat) -> pd.DataFrame:
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Give a CSV with the columns {form.id_column} and class.") from None
    except (UnicodeDecodeError, ValueError) as error:  # pandas' errors are ValueErrors
        raise DataError(f"{path} is not a valid CSV ({error}). Expected {form.id_column} and class.") from error
    if list(rows.columns[:1]) != [form.id_column] or len(rows.columns) == 1:
        raise DataError(f"{path} has the columns {', '.join(rows.columns)}. Expected {form.id_column} and class.")
    return rows


def _hold_out(layout: Layout, files: Path, archive: Path, fraction: float) -> Competition:
    images = layout.images[layout.images["source"].isin(["train", "val"])]
    if (names := images["id"].map(stored_id)).duplicated().any():
        raise DataError(f"Two images would be called {names[names.duplicated()].iloc[0]!r}. Rename one of them.")
    rng = np.random.default_rng(HOLDOUT_SEED)
    chosen = [path for name in layout.class_names
              for path in _sample_readable(files, images.loc[images["label"] == name, "path"].tolist(), fraction, rng)]
    test = images.set_index("path").loc[rng.permutation(chosen)]
    train = images[~images["path"].isin(chosen)].set_index("path")
    is_label = not METRICS[layout.metric].needs_probabilities
    columns = ("Category",) if is_label else layout.class_names
    write_holdout_archive(archive, HoldoutArchive(files, train, test, columns))
    labels = {stored_id(name): label for name, label in zip(test["id"], test["label"], strict=True)}
    return Competition(archive.stem, archive, tuple(labels), labels, layout.metric, METRICS[layout.metric].title,
                       ("Id", *columns), "label" if is_label else "probabilities")


def _sample_readable(files: Path, paths: list[str], fraction: float, rng: np.random.Generator) -> list[str]:
    num_images = max(1, round(fraction * len(paths)))
    shuffled = (paths[i] for i in rng.permutation(len(paths)))
    sample = [path for path, _ in zip((path for path in shuffled if _is_readable(files / path)), range(num_images),
                                      strict=False)]
    if not 0 < len(sample) < len(paths):
        raise DataError(f"The class of {paths[:1]} has {format_count(len(paths), 'image')}: too few to hold out "
                        f"{format_count(num_images, 'readable image')} and train on the rest. Add images or lower the "
                        "holdout.")
    return sample


def _is_readable(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError):  # Pillow raises these for broken files
        return False
    return True
