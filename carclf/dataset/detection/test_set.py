"""The test set: the images of the sample submission's ids, or without one the unlabeled images of a test folder."""

from collections.abc import Mapping, Sequence

import pandas as pd

from carclf.config.settings import Data
from carclf.dataset.detection.ids import ImageNames, Match, join
from carclf.dataset.detection.label_folders import training_images
from carclf.dataset.detection.result import Detection
from carclf.dataset.detection.subset_lists import are_image_names
from carclf.dataset.detection.tables import Table
from carclf.errors import ConfigError, DataError
from carclf.formatting import format_count


def find_sample_images(
    images: pd.DataFrame, sample: Table, config: Data, file_names: Mapping[str, str], tables: Sequence[Table]
) -> tuple[dict[int, str], Detection]:
    """Return the sample submission's id of each test image, by row label, and the detection of the ids.

    ``file_names`` maps the ids of a COCO JSON to files; without one, another of the ``tables`` may. Raises DataError if
    no id has an image; ConfigError if the ids fit several folders.
    """
    ids = sample.rows.iloc[:, 0].tolist()
    by_file = {file_names[image_id]: image_id for image_id in ids if image_id in file_names}
    area, match = _best_area(images, list(by_file) if len(by_file) == len(ids) else ids, config)
    keys_of = "json"
    if not match.rows and (named := _files_of_ids(ids, tables)):
        by_file, keys_of = {named[image_id]: image_id for image_id in ids}, "keys of another table"
        area, match = _best_area(images, list(by_file), config)
    if len(by_file) == len(ids):  # a stem may be the number of another image
        match = Match(keys_of, {by_file[name]: row for name, row in match.rows.items()}, match.missing)
    if not match.rows:
        is_test = images["role"].isin(["test", "predict"])
        first = images.loc[is_test if is_test.any() else images.index, "path"].iloc[0]
        raise DataError(f"No id of {sample.path} has an image (first id: {ids[0]!r}; first image: {first!r}). Set "
                        "data.test_folder to the folder of the test images, data.id_form to the form of the ids, or "
                        "data.id_column to their column.")
    evidence = (f"{len(match.rows)} of {format_count(len(ids), 'id')} of {sample.path} with an image in "
                f"{area or 'the source'}")
    if match.num_images < len(match.rows):
        raise DataError(f"{sample.path}: two ids name the same image, compared by {match.form}. Set data.id_form.")
    return {row: image_id for image_id, row in match.rows.items()}, Detection("ids", match.form, evidence)


def _files_of_ids(ids: Sequence[str], tables: Sequence[Table]) -> dict[str, str]:
    """Return the file of each id in a table that has all ids in one column and names of image files in another."""
    for table in tables:
        files = [column for column in table.rows.columns if are_image_names(table.rows[column].tolist())]
        keys = [column for column in table.rows.columns
                if table.rows[column].is_unique and set(ids) <= set(table.rows[column])]
        if len(files) == 1 and keys:
            return dict(zip(table.rows[keys[0]], table.rows[files[0]], strict=True))
    return {}


def _best_area(images: pd.DataFrame, ids: Sequence[str], config: Data) -> tuple[str, Match]:
    """Return the folder that has the most of the ids: test folders before all others.

    Next to a test folder, no images for training or validation count: their names may be the same as those of the ids.
    """
    best = "", Match("none", {}, tuple(ids))
    if images["role"].isin(["test", "predict"]).any():
        images = images[images["role"] != "val"].drop(index=training_images(images).index)
    is_test, is_other = images["role"].isin(["test", "predict"]), images["role"] == ""
    for areas in (_areas(images[is_test], "root"), {"": images[is_test | is_other]},
                  _areas(images[is_other], "subfolder"), {"": images}):
        matches = {area: ImageNames(rows).match(ids, config.id_form) for area, rows in areas.items()}
        most = max(map(_quality, matches.values()), default=(0, False))
        if most[0] <= len(best[1].rows):
            continue
        first, *others = [area for area, match in matches.items() if _quality(match) == most]
        if others:
            raise ConfigError(f"The ids of the sample submission name images in {' and in '.join([first, *others])}. "
                              "Set data.test_folder to the folder of the test images.")
        best = first, matches[first]
        if best[1].is_complete:
            return best
    if best[1].ambiguous:
        num_ids = format_count(len(best[1].ambiguous), "id of the sample submission has",
                               "ids of the sample submission have")
        raise ConfigError(f"{num_ids} several images, such as {min(best[1].ambiguous)!r}. Set data.test_folder, or "
                          "data.id_form, such as {id}.jpg.")
    return best


def _quality(match: Match) -> tuple[int, bool]:
    """Return the number of images, and True if the ids are paths that were compared as such."""
    return len(match.rows), match.form.startswith("path")


def _areas(images: pd.DataFrame, column: str) -> dict[str, pd.DataFrame]:
    keys = images[column].str.split("/").str[0] if column == "subfolder" else images[column]
    return {str(key): rows for key, rows in images.groupby(keys) if key}


def find_test_images(images: pd.DataFrame, tables: Sequence[Table], config: Data) -> tuple[set[int], str]:
    """Return the row labels of the unlabeled images to predict, without a sample submission, and the evidence.

    They are those of the test folders, or those that a table such as test.csv lists.
    """
    in_folder = images[images["role"].isin(["test", "predict"])]
    if len(in_folder):
        return set(in_folder.index), f"unlabeled images in {', '.join(sorted(in_folder['root'].unique()))}"
    names = ImageNames(images)
    for table in tables:
        if table.role in ("test", "predict") and (joined := join(table, names, config)):
            num_images = format_count(joined.match.num_images, "unlabeled image")
            return set(joined.match.rows.values()), f"{num_images} of {table.path}"
    return set(), "no unlabeled images in a test folder, and no table of them"
